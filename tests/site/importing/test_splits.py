"""Published splits of each layout become a fold table of the site's patients, cell by cell."""

import pytest

from client.exit_codes import ExitCode
from memamba_core.data.manifest import load_cohort

# A site with four of six published patients; `0040` keeps its zeros, and A has two slides.
CLINICAL = (
    "case_id,slide_id,survival_months,event,TP53_mut\n"
    "A,A-1.svs,1,1,1\nA,A-2.svs,1,1,1\nB,B-1.svs,2,0,0\nC,C-1.svs,3,1,0\n0040,D-1.svs,4,0,1\n"
)
MCAT = {
    "splits_0.csv": ",train,val\n0,C,A\n1,0040,B\n2,Y,X\n",
    "splits_1.csv": ",train,val\n0,A,C\n1,B,0040\n2,X,Y\n",
}
CLAM = {
    "splits_0.csv": ",train,val,test\n0,C-1,B-1,A-1\n1,D-1,,A-2\n2,Y-1,,X-1\n",
    "splits_1.csv": ",train,val,test\n0,A-1,C-1,B-1\n1,A-2,,\n2,X-1,D-1,Y-1\n",
    "splits_2.csv": ",train,val,test\n0,A-1,B-1,C-1\n1,A-2,X-1,D-1\n2,Y-1,,\n",
    "splits_0_bool.csv": ",train,val,test\nA-1,False,False,True\n",
    "splits_0_descriptor.csv": ",train,val,test\nx,3,1,3\n",
}
MMP = {
    "BLCA_k=0/train.csv": "case_id,slide_id,os\nC,C-1,1\n0040,D-1,1\nY,Y-1,1\n",
    "BLCA_k=0/test.csv": "case_id,slide_id,os\nA,A-1,1\nA,A-2,1\nB,B-1,1\nX,X-1,1\n",
    "BLCA_k=1/train.csv": "case_id,slide_id,os\nA,A-1,1\nA,A-2,1\nB,B-1,1\nX,X-1,1\n",
    "BLCA_k=1/test.csv": "case_id,slide_id,os\nC,C-1,1\n0040,D-1,1\nY,Y-1,1\n",
}
BY_HALVES = "case_id,fold\nA,0\nB,0\nC,1\n0040,1\n"


def write(folder, files):
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


@pytest.fixture
def clinical(tmp_path):
    return write(tmp_path / "tables", {"klinik.csv": CLINICAL}) / "klinik.csv"


@pytest.mark.parametrize(
    ("files", "path", "folds"),
    [
        (MCAT, "", BY_HALVES),
        (CLAM, "", "case_id,fold\nA,0\nB,1\nC,2\n0040,2\n"),
        (MMP, "", BY_HALVES),
        (MMP, "BLCA", BY_HALVES),
        ({"splits_0.csv": MCAT["splits_0.csv"]}, "splits_0.csv", BY_HALVES),
        ({name.partition("/")[2]: text for name, text in MMP.items() if "k=0" in name}, "", BY_HALVES),
    ],
)
def test_layouts(importer, tmp_path, clinical, files, path, folds):
    splits = write(tmp_path / "splits", files) / path
    assert importer("splits", splits, clinical) == ExitCode.DONE
    assert (importer.output / "folds.csv").read_text() == folds
    data = importer.data()
    assert (data.folds.file, data.folds.case_id, data.folds.fold) == ("folds.csv", "case_id", "fold")
    assert (data.clinical.file, data.genomics.file) == (str(clinical), str(clinical))
    read = {record.case_id: record.fold for record in load_cohort(data).records}
    assert read == {line.split(",")[0]: int(line.split(",")[1]) for line in folds.splitlines()[1:]}
    assert "the fold of 4 of 4 patients" in importer.draft()
    assert "2 patients of the splits" in importer.out


def test_one_split_and_its_third_group_are_said(importer, tmp_path, clinical):
    splits = write(tmp_path / "splits", {"one.csv": "train,val,test\nC,0040,A\n,,B\n"}) / "one.csv"
    assert importer("splits", splits, clinical) == ExitCode.DONE
    assert (importer.output / "folds.csv").read_text() == BY_HALVES
    assert "Run fold 0 only" in importer.out
    assert "patients of each fold at this site: 0: 2, 1: 2" in importer.out
    assert "the val patients" in importer.out


def test_a_patient_in_no_split_is_counted_and_has_no_row(importer, tmp_path, clinical):
    splits = {name: text.replace("0040", "") for name, text in MCAT.items()}
    assert importer("splits", write(tmp_path / "splits", splits), clinical) == ExitCode.DONE
    assert (importer.output / "folds.csv").read_text() == "case_id,fold\nA,0\nB,0\nC,1\n"
    assert "1 patients are in no split" in importer.out
    assert "0040" not in f"{importer.out}{importer.draft()}"


def test_the_site_yaml_is_read_with_its_settings(importer, tmp_path):
    site = tmp_path / "st-elsewhere"
    text = "Fall;Verlauf;Zensiert;Dauer\nA;;0;137\nB;;1;1.903\nC;;0;2.104\n0040;;1;2.105\n"
    write(site / "tables", {"klinik.csv": text, "gene.csv": "case_id,TP53_mut\nA,1\nB,0\nC,0\n0040,1\n"})
    clinical = "{file: klinik.csv, case_id: Fall, time: Dauer, time_unit: days, event: Zensiert, event_means: censored"
    (site / "site.yaml").write_text(
        f"name: st-elsewhere\ndata:\n  root: tables\n  clinical: {clinical}, decimal_mark: comma}}\n"
        "  genomics: {file: gene.csv}\n  folds: {file: old.csv}\nstate: state\n"
    )
    splits = write(tmp_path / "splits", MCAT)
    assert importer("splits", splits, site / "site.yaml") == ExitCode.DONE
    assert (importer.output / "folds.csv").read_text() == BY_HALVES
    data = importer.data()
    assert (data.clinical.decimal_mark, data.clinical.event_means) == ("comma", "censored")
    assert data.clinical.file == str(site / "tables" / "klinik.csv")
    assert data.folds.file == "folds.csv"
    assert "old.csv, the fold table of site.yaml, is replaced by folds.csv" in importer.out
    assert {r.case_id: (r.fold, r.event) for r in load_cohort(data).records} == {
        "A": (0, True),
        "B": (0, False),
        "C": (1, True),
        "0040": (1, False),
    }
    importer.output = tmp_path / "further"
    assert importer("splits", splits, site / "site.yaml", "--decimal-mark", "point") == ExitCode.MISTAKE
    assert "leave out" in importer.err


def test_features_stay_where_they_are(importer, tmp_path, clinical):
    features = write(clinical.parent / "uni" / "pt_files", {"A-1.pt": ""}).parent
    assert features.is_dir()
    assert importer("splits", write(tmp_path / "splits", MCAT), clinical.parent) == ExitCode.DONE
    assert importer.data().features.path == str(features)


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({"splits_0.csv": ",train,val\n0,Y,X\n"}, "none of the cohort's 4 patients is in these splits"),
        ({"splits_0.csv": ",train,val\n0,c,a\n1,,b\n"}, "3 would ignoring case"),
        ({"splits_0.csv": ",train,val\n0,A-1,A-2\n"}, "repeats a patient of train in row 1"),
        ({"splits_1.csv": MCAT["splits_1.csv"]}, "but not splits_0.csv"),
        ({"notes.csv": "a\n1\n"}, "found 0 files splits_*.csv"),
    ],
)
def test_splits_that_do_not_fit_write_nothing(importer, tmp_path, clinical, files, says):
    assert importer("splits", write(tmp_path / "splits", files), clinical) == ExitCode.MISTAKE
    assert says in importer.err
    assert "fold_source" not in importer.err
    assert not importer.output.exists()


def test_the_splits_are_the_first_source(importer, tmp_path, clinical):
    splits = write(tmp_path / "splits", MCAT)
    for sources in ((splits,), (tmp_path / "site.yaml", splits), (clinical, splits)):
        assert importer("splits", *sources) == ExitCode.MISTAKE
        assert "Name the published splits first" in importer.err
