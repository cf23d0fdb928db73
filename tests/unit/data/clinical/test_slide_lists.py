"""Lists of slides in one cell, by any separator that is no part of a name."""

import pytest

from memamba_core.config.site import ClinicalTable
from memamba_core.data.clinical.slide_lists import is_ambiguous_list, split_slides
from memamba_core.data.clinical.table import read_clinical
from memamba_core.errors import DataError

TCGA = ("TCGA-2F-A9KO-01Z-00-DX1.195576CF-B739", "TCGA-2F-A9KO-01Z-00-DX2.0A1B2C3D-E4F5")


@pytest.mark.parametrize(
    ("cell", "slides"),
    [
        ("a;b", ["a", "b"]),
        ("a ; b;", ["a", "b", ""]),
        ("a|b", ["a", "b"]),
        ("a\nb", ["a", "b"]),
        ("a\r\nb", ["a", "b"]),
        ("a\tb", ["a", "b"]),
        ("S-1-DX1, S-1-DX2", ["S-1-DX1", "S-1-DX2"]),
        ("S-1-DX1,S-1-DX2,S-1-DX3", ["S-1-DX1", "S-1-DX2", "S-1-DX3"]),
        ("slide 1.svs, slide 2.svs", ["slide 1.svs", "slide 2.svs"]),
        ("['a', 'b']", ["a", "b"]),
        ('["a.svs"]', ["a.svs"]),
        ('"a", "b"', ["a", "b"]),
        ("x.svs y.svs", ["x.svs", "y.svs"]),
        (" ".join(TCGA), list(TCGA)),
        ("SYN-AB-0004-DX1  SYN-AB-0004-DX2", ["SYN-AB-0004-DX1", "SYN-AB-0004-DX2"]),
        # one name
        ("", [""]),
        ("Slide 1", ["Slide 1"]),
        ("Patient 0004 Block 0002.svs", ["Patient 0004 Block 0002.svs"]),
        ("Patient01 Section02", ["Patient01 Section02"]),
        ("2020 0004", ["2020 0004"]),
        ("tumour, left.svs;", ["tumour, left.svs", ""]),
        ("[1]", ["[1]"]),
        ("a (copy)", ["a (copy)"]),
    ],
)
def test_a_cell_is_split_into_its_slides(cell, slides):
    assert split_slides(cell) == slides
    assert not is_ambiguous_list(cell)


@pytest.mark.parametrize("cell", ["tumour, left.svs", "Slide 1, Slide 2", "a,,b", "a,", "a.svs, b"])
def test_a_comma_that_may_belong_to_a_name_is_ambiguous(cell):
    assert is_ambiguous_list(cell)


def clinical(root, rows):
    (root / "clinical.csv").write_text(f"case_id,survival_months,event,slides\n{rows}", encoding="utf-8")
    return read_clinical(ClinicalTable(file="clinical.csv", slides="slides"), root)


def test_joined_slides_of_a_table_are_read(tmp_path):
    one, two, three = clinical(tmp_path, 'p1,1,1,"A-1, A-2"\np2,1,1,B-1|B-2\np3,1,0,C-1.svs\n')
    assert (one.slides, two.slides, three.slides) == (("A-1", "A-2"), ("B-1", "B-2"), ("C-1",))


def test_an_ambiguous_list_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"'slides' holds a comma .* row 2\. Write ; between slides") as raised:
        clinical(tmp_path, 'p1,1,1,A-1\np2,1,1,"secret, left.svs"\n')
    assert "secret" not in str(raised.value)


def test_a_table_of_slides_as_mcat_writes_it_is_read(tmp_path):
    """Rows are slides; the patient's columns are repeated, and a 1 means censored."""
    (tmp_path / "all_clean.csv").write_text(
        "case_id,slide_id,site,is_female,oncotree_code,age,survival_months,censorship,train,TP53_mut\n"
        "TCGA-2F-A9KO,TCGA-2F-A9KO-01Z-00-DX1.1955.svs,2F,0.0,BLCA,63.0,24.11,0.0,1.0,1\n"
        "TCGA-2F-A9KO,TCGA-2F-A9KO-01Z-00-DX2.2955.svs,2F,0.0,BLCA,63.0,24.11,0.0,1.0,1\n"
        "TCGA-2F-A9KP,TCGA-2F-A9KP-01Z-00-DX1.3955.svs,2F,0.0,BLCA,66.0,11.96,1.0,0.0,0\n"
    )
    table = ClinicalTable(file="all_clean.csv", slides="slide_id", event="censorship", event_means="censored")
    first, second = read_clinical(table, tmp_path)
    assert (first.event, first.time_months, len(first.slides)) == (True, 24.11, 2)
    assert (second.event, second.slides) == (False, ("TCGA-2F-A9KP-01Z-00-DX1.3955",))
