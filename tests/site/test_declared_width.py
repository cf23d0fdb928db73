"""Under differential privacy no patient's file or cell decides what a site declares, or how others are read."""

import dataclasses

import h5py
import numpy as np
import pytest

from client.site import open_site
from memamba_core.config.site import load_site_config
from memamba_core.errors import ConfigError, DataError

SITE = """\
name: a
approve: automatic
state: state
data:
  root: .
  clinical: {{file: clinical.csv, slides: slides}}
  features: {{path: features, encoder: uni{width}}}
privacy:
  bands: {{patients: 1, pathology: 1, genomics: 0}}
"""


@pytest.fixture
def folder(tmp_path):
    """Three patients; the file of the first one by name is wider than the others."""
    (tmp_path / "clinical.csv").write_text(
        "case_id,survival_months,event,slides\nA,1,1,a\nB,2,0,b\nC,3,1,c\n", encoding="utf-8"
    )
    (tmp_path / "features" / "h5_files").mkdir(parents=True)
    for name, width in (("a", 24), ("b", 16), ("c", 16)):
        with h5py.File(tmp_path / "features" / "h5_files" / f"{name}.h5", "w") as file:
            file["features"] = np.ones((2, width), dtype=np.float32)
    return tmp_path


def opened(folder, width):
    (folder / "site.yaml").write_text(SITE.format(width=width), encoding="utf-8")
    return open_site(load_site_config(folder / "site.yaml"))


def test_a_folder_without_a_declared_width_is_refused(folder):
    with pytest.raises(ConfigError, match=r"data\.features\.width"):
        opened(folder, "")


def test_the_declared_width_holds_whichever_file_comes_first(folder):
    """The attack: with the width of the first file, one patient decided what the site declares, without noise."""
    site = opened(folder, ", width: 16")
    assert site.cohort.features.width == 16
    loaded = site.cohort.features.load(site.cohort.records[1])
    assert loaded is not None
    assert loaded.patches_PF.shape == (2, 16)
    without = dataclasses.replace(site.cohort, records=site.cohort.records[1:])
    assert without.features.width == 16


@pytest.mark.parametrize("private", [True, False])
@pytest.mark.parametrize("row", ["C,many,1,c", "A,3,1,c"], ids=["no number", "a repeated patient"])
def test_a_bad_row_is_never_dropped_in_silence(folder, row, private):
    """The client does not start, with differential privacy or without; docs/explanation/privacy.md says so."""
    table = folder / "clinical.csv"
    table.write_text(table.read_text(encoding="utf-8").replace("C,3,1,c", row), encoding="utf-8")
    text = SITE.format(width=", width: 16")
    (folder / "site.yaml").write_text(text if private else text.partition("privacy:")[0], encoding="utf-8")
    with pytest.raises(DataError, match="row 3"):
        open_site(load_site_config(folder / "site.yaml"))


@pytest.mark.parametrize(("private", "months"), [(False, (1.903, 2.001)), (True, (1903.0, 2001.0))])
def test_under_differential_privacy_one_cell_does_not_decide_the_notation_of_a_column(folder, private, months):
    """The attack: without privacy the cell of C makes decimals of thousands, a change of every other patient's time."""
    (folder / "clinical.csv").write_text(
        'case_id,survival_months,event,slides\nA,"1,903",1,a\nB,"2,001",0,b\nC,"3,5",1,c\n', encoding="utf-8"
    )
    text = SITE.format(width=", width: 16")
    (folder / "site.yaml").write_text(text if private else text.partition("privacy:")[0], encoding="utf-8")
    if private:
        with pytest.raises(DataError, match="row 3"):
            open_site(load_site_config(folder / "site.yaml"))
        table = folder / "clinical.csv"
        table.write_text(table.read_text(encoding="utf-8").replace('"3,5"', "3.5"), encoding="utf-8")
    site = open_site(load_site_config(folder / "site.yaml"))
    assert tuple(record.time_months for record in site.cohort.records[:2]) == months


def test_under_differential_privacy_ambiguous_numbers_are_an_error_until_the_mark_is_declared(folder):
    (folder / "clinical.csv").write_text(
        "case_id,survival_months,event,slides\nA,137,1,a\nB,1.903,0,b\nC,12,1,c\n", encoding="utf-8"
    )
    text = SITE.format(width=", width: 16")
    (folder / "site.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match="decimal_mark"):
        open_site(load_site_config(folder / "site.yaml"))
    text = text.replace("slides: slides}", "slides: slides, decimal_mark: comma}")
    (folder / "site.yaml").write_text(text, encoding="utf-8")
    assert open_site(load_site_config(folder / "site.yaml")).cohort.records[1].time_months == 1903.0
