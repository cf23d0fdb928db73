"""Tables that stay where they are: the draft names columns, units and codings, and asks where they are open."""

import zipfile

import h5py
import numpy as np
import openpyxl
import pytest

from client.exit_codes import ExitCode
from client.importing.column_names import match_event, match_time
from memamba_core.data.clinical.table import DAYS_PER_MONTH

SLIDES = (
    "case_id,slide_id,site,is_female,oncotree_code,age,survival_months,censorship,train,TP53_mut,MYC_cnv,EGFR_rnaseq\n"
    "P1,P1-DX1.svs,05,0,BLCA,61,10.5,0,1.0,1,-2,0.25\n"
    "P1,P1-DX2.svs,05,0,BLCA,61,10.5,0,1.0,1,-2,0.25\n"
    "P2,P2-DX1.svs,05,1,BLCA,70,20,1,0.0,0,1,\n"
)


def test_rows_that_are_slides_become_patients(importer, tmp_path):
    with zipfile.ZipFile(tmp_path / "tcga_blca_all_clean.csv.zip", "w") as archive:
        archive.writestr("tcga_blca_all_clean.csv", SLIDES)
    assert importer("tables", tmp_path / "tcga_blca_all_clean.csv.zip") == ExitCode.DONE
    assert importer.patients() == {
        "P1": (10.5, True, ("P1-DX1", "P1-DX2")),
        "P2": (20.0, False, ("P2-DX1",)),
    }
    assert importer.genes() == {
        "P1": {"TP53_mut": 1, "MYC_cnv": -2, "EGFR_rnaseq": 0.25},
        "P2": {"TP53_mut": 0, "MYC_cnv": 1, "EGFR_rnaseq": None},
    }
    assert "3 rows of 2 patients" in importer.out
    assert sorted(path.name for path in importer.output.iterdir()) == ["site.yaml"]
    assert "1 had the event (50%)" in importer.out


def test_a_draft_that_cannot_be_read_yet_says_why(importer, tmp_path):
    (tmp_path / "a.csv").write_text(
        SLIDES.replace("DX2.svs,05,0,BLCA,61,10.5,0,1.0,1,-2", "DX2.svs,05,0,BLCA,61,10.5,0,1.0,1,-1")
    )
    assert importer("tables", tmp_path / "a.csv") == ExitCode.DONE
    assert "not readable yet: " in importer.out
    assert "equal rows are taken as one" in importer.out


def test_a_german_folder_with_features(importer, tmp_path):
    folder = tmp_path / "daten"
    folder.mkdir()
    (folder / "klinik.csv").write_text(
        "Patienten-Nr;Schnitt;Nachbeobachtung (Tage);Verstorben\nA1;s1.svs;30,5;1\nA2;s2.svs;1826,25;0\n",
        encoding="cp1252",
    )
    (folder / "gene.csv").write_text("Patienten-Nr;TP53_mut\nA1;1\nA2;0\n")
    features = folder / "20x_256px_0px_overlap" / "features_uni_v1"
    features.mkdir(parents=True)
    for slide in ("s1", "s2"):
        with h5py.File(features / f"{slide}.h5", "w") as file:
            file["features"] = np.zeros((3, 4), np.float32)
    assert importer("tables", folder) == ExitCode.DONE
    months = {"A1": 30.5 / DAYS_PER_MONTH, "A2": 60.0}
    assert importer.patients() == {
        "A1": (round(months["A1"], 6), True, ("s1",)),
        "A2": (60.0, False, ("s2",)),
    }
    assert importer.genes() == {"A1": {"TP53_mut": 1}, "A2": {"TP53_mut": 0}}
    data = importer.data()
    assert (data.root, data.features.path) == (folder, ".")
    assert (data.features.encoder, data.features.magnification) == ("uni_v1", 20)
    assert "features: 2 patients" in importer.out


def test_a_workbook_whose_tables_are_on_later_sheets(importer, tmp_path):
    book = openpyxl.Workbook()
    book.active.append(["Notes of the export"])
    book.active.append(["2026", "a cell behind the header"])
    for title, rows in {
        "Daten": [["Patienten-Nr", "Nachbeobachtung (Tage)", "Verstorben"], ["A1", 30.5, 1], ["A2", 1826.25, 0]],
        "Gene": [["Patienten-Nr", "TP53_mut"], ["A1", 1], ["A2", 0]],
    }.items():
        sheet = book.create_sheet(title)
        for row in rows:
            sheet.append(row)
    book.save(tmp_path / "export.xlsx")
    assert importer("tables", tmp_path / "export.xlsx") == ExitCode.DONE
    assert importer.patients()["A2"] == (60.0, False, ())
    assert importer.genes() == {"A1": {"TP53_mut": 1}, "A2": {"TP53_mut": 0}}
    assert (importer.data().clinical.sheet, importer.data().genomics.sheet) == ("Daten", "Gene")
    assert "a sheet that is no table: " in importer.out


@pytest.mark.parametrize(
    ("header", "times", "unit", "asked"),
    [
        ("time", (100, 900, 2000), "days", False),
        ("time", (3, 12, 25), "months", False),
        ("time", (20, 60, 110), "months", True),
        ("OS_MONTHS", (20, 60, 110), "months", False),
        ("OS_MONTHS", (300, 600, 2000), "months", True),
        ("survie (jours)", (3, 12, 25), "days", True),
    ],
)
def test_units(importer, tmp_path, header, times, unit, asked):
    rows = "".join(f"P{i},{time},{i % 2},1\n" for i, time in enumerate(times))
    (tmp_path / "a.csv").write_text(f"case_id,{header},event,A_mut\n{rows}")
    assert importer("tables", tmp_path / "a.csv") == ExitCode.DONE
    assert importer.data().clinical.time_unit == unit
    assert ("QUESTION (data.clinical.time_unit)" in importer.out) == asked
    assert (importer.draft().count("# QUESTION") == 2) == asked  # the other one is the name of the site


def test_the_event_is_that_of_the_time(importer, tmp_path):
    (tmp_path / "a.csv").write_text(
        "case_id,PFS_MONTHS,PFS,OS_MONTHS,OS,days_to_death,A_mut\nP1,1,1,2.5,0,,1\nP2,3,1,4,1,120,0\nP3,3,0,5,0,,0\n"
    )
    assert importer("tables", tmp_path / "a.csv") == ExitCode.DONE
    assert importer.patients() == {"P1": (2.5, False, ()), "P2": (4, True, ()), "P3": (5, False, ())}
    assert "'PFS_MONTHS' may be follow-up times too" in importer.out
    assert "'days_to_death'" not in importer.out


def test_a_column_with_a_foreign_name_is_named_by_a_person(importer, tmp_path):
    (tmp_path / "a.csv").write_text("case_id,xyz,event,A_mut\nP1,1,1,1\nP2,3,0,0\n")
    assert importer("tables", tmp_path / "a.csv") == ExitCode.MISTAKE
    assert "--column time=NAME" in importer.err
    assert "xyz" in importer.err
    assert importer("tables", tmp_path / "a.csv", "--column", "time=xyz") == ExitCode.DONE
    assert importer.patients() == {"P1": (1, True, ()), "P2": (3, False, ())}
    assert importer("tables", tmp_path / "a.csv", "--column", "times=xyz") == ExitCode.MISTAKE


def test_a_time_that_cannot_be_read_says_why(importer, tmp_path):
    (tmp_path / "a.csv").write_text("case_id,survival_days,event,A_mut\nP1,137,1,1\nP2,1.903,0,0\nP3,2.104,0,0\n")
    assert importer("tables", tmp_path / "a.csv") == ExitCode.MISTAKE
    assert "'survival_days'" in importer.err
    assert "decimal_mark" in importer.err


def test_cells_of_an_event_that_a_person_names_are_not_shown(importer, tmp_path):
    (tmp_path / "a.csv").write_text("case_id,survival_months,verlauf,A_mut\nP1,1,1,1\nP2,3,Frau Muster,0\nP3,3,0,0\n")
    assert importer("tables", tmp_path / "a.csv", "--column", "event=verlauf") == ExitCode.DONE
    assert "1 cells are none of these" in importer.out
    assert "not readable yet" in importer.out
    assert "muster" not in f"{importer.out}{importer.draft()}".lower()


def test_bare_mutations_are_a_question(importer, tmp_path):
    genes = [f"GENE{i}" for i in range(25)]
    rows = "".join(f"P{i},{i + 1},{i % 2},{','.join(str((i + j) % 2) for j in range(25))}\n" for i in range(4))
    (tmp_path / "a.csv").write_text(f"case_id,survival_months,event,{','.join(genes)}\n{rows}")
    assert importer("tables", tmp_path / "a.csv") == ExitCode.DONE
    assert "QUESTION (data.genomics.bare_columns): 25 columns" in importer.out
    assert importer.genes()["P1"]["GENE0_mut"] == 1
    assert len(importer.genes()["P1"]) == 25


def test_nothing_is_overwritten_and_nothing_is_left_behind(importer, tmp_path):
    (tmp_path / "a.csv").write_text("case_id,survival_months,event,A_mut\nP1,1,1,1\nP2,3,0,0\n")
    importer.output.mkdir()
    (importer.output / "notes.txt").write_text("mine")
    assert importer("tables", tmp_path / "a.csv") == ExitCode.MISTAKE
    assert "not an empty folder" in importer.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.csv", "site"]
    assert [path.name for path in importer.output.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize(
    "name",
    [
        "age",
        "days_to_birth",
        "year_of_diagnosis",
        "tumor_status",
        "stage_event",
        "date_of_death",
        "HER2 status",
        "treatment_time",
    ],
)
def test_no_outcome(name):
    assert match_time(name) is None
    assert match_event(name) is None


def test_two_clinical_tables_are_refused(importer, tmp_path):
    for name in ("a.csv", "b.csv"):
        (tmp_path / name).write_text("case_id,survival_months,event,A_mut\nP1,1,1,1\nP2,3,0,0\n")
    assert importer("tables", tmp_path) == ExitCode.MISTAKE
    assert "a.csv, b.csv: each has a follow-up time and an event" in importer.err


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("cohort", "patients", "events"), [("tcga_blca_mcat", 373, 169), ("tcga_gbmlgg_porpoise", 569, 187)]
)
def test_tcga(importer, data_root, cohort, patients, events):
    assert importer("tables", data_root / "cohorts" / f"{cohort}.csv.gz") == ExitCode.DONE
    read = importer.patients()
    assert (len(read), sum(event for _, event, _ in read.values())) == (patients, events)
    assert "QUESTION" not in importer.out
    assert "doubt" not in importer.out
