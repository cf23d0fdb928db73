import logging
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from memamba_core.config.site import ClinicalTable, FeatureFolder, FoldTable, GenomicsTable, SiteDataConfig
from memamba_core.data.clinical.table import DAYS_PER_MONTH, read_clinical
from memamba_core.data.manifest import load_cohort
from memamba_core.errors import DataError, NoPatientsError

HEADER = "case_id,survival_months,event,slides,tss\n"
ROWS = "p1,12.5,1,a.svs;b.h5,05\np2,0,0,c,NA\np3,3,true,,\n"


def clinical(root: Path, text: str, **columns):
    (root / "clinical.csv").write_text(text, encoding="utf-8")
    return read_clinical(ClinicalTable(file="clinical.csv", **columns), root)


def make_site(root: Path, *, genes="p1,2\np3,\np9,1\n", slides=("a", "c"), folds=None, rows=ROWS) -> SiteDataConfig:
    """Three patients: p1 has both, p2 a slide, p3 a row of genes in which nothing is measured."""
    (root / "clinical.csv").write_text(HEADER + rows)
    (root / "genes.csv").write_text(f"case_id,A_cnv\n{genes}")
    (root / "features").mkdir()
    for slide in slides:
        with h5py.File(root / "features" / f"{slide}.h5", "w") as file:
            file["features"] = np.zeros((3, 4), np.float32)
    if folds is not None:
        (root / "folds.csv").write_text(f"case_id,fold\n{folds}")
    return SiteDataConfig(
        root=root,
        clinical=ClinicalTable(file="clinical.csv", slides="slides", tss="tss"),
        genomics=GenomicsTable(file="genes.csv"),
        features=FeatureFolder(path="features", encoder="uni_v1"),
        folds=None if folds is None else FoldTable(file="folds.csv"),
    )


# The clinical table ---------------------------------------------------------------------------


def test_a_table_with_a_list_of_slides(tmp_path):
    p1, p2, p3 = clinical(tmp_path, HEADER + ROWS, slides="slides", tss="tss")
    assert (p1.case_id, p1.time_months, p1.event, p1.slides, p1.tss) == ("p1", 12.5, True, ("a", "b"), "05")
    assert (p2.time_months, p2.event, p2.slides, p2.tss) == (0.0, False, ("c",), "NA")
    assert (p3.event, p3.slides, p3.tss) == (True, (), None)
    assert p1.gene_row is None
    assert p1.fold is None


def test_a_table_with_a_row_per_slide_is_the_same(tmp_path):
    rows = "p1,12.5,1,a.svs,05\np2,0,0,c.svs,NA\np1,12.50,TRUE,/scans/b.svs,05\np3,3,1,,\n"
    assert clinical(tmp_path, HEADER + rows, slides="slides", tss="tss") == clinical(
        tmp_path, HEADER + ROWS, slides="slides", tss="tss"
    )


def test_censoring_is_turned_into_events_here(tmp_path):
    text = "case_id,survival_months,censorship\np1,1,0\np2,2,1.0\np3,3,false\n"
    records = clinical(tmp_path, text, event="censorship", event_means="censored")
    assert [r.event for r in records] == [True, False, True]


def test_parquet_and_spreadsheet_exports_are_read(tmp_path):
    frame = pd.DataFrame(
        {"case_id": [7, 8], "survival_months": [1.5, 2.0], "event": [True, False], "tss": ["05", None]}
    )
    frame.to_parquet(tmp_path / "c.parquet", index=False)
    a, b = read_clinical(ClinicalTable(file="c.parquet", tss="tss"), tmp_path)
    assert (a.case_id, a.time_months, a.event, a.tss, b.tss) == ("7", 1.5, True, "05", None)
    text = '\ufeff"case_id","survival_months","event"\r\n"7"," 1.5 ","1"\r\n'
    assert clinical(tmp_path, text)[0].time_months == 1.5


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=12)
@given(st.lists(st.floats(0, 1e4), min_size=1, max_size=5))
def test_days_and_months_are_the_same_time(tmp_path, months):
    rows = "".join(f"p{i},{m!r},{m * DAYS_PER_MONTH!r},1\n" for i, m in enumerate(months))
    text = f"case_id,months,days,event\n{rows}"
    in_months = clinical(tmp_path, text, time="months")
    in_days = clinical(tmp_path, text, time="days", time_unit="days")
    assert [r.time_months for r in in_days] == pytest.approx([r.time_months for r in in_months])
    assert [r.time_months for r in in_months] == pytest.approx(months)


@pytest.mark.parametrize(
    ("text", "columns", "words"),
    [
        ("case_id,months,event\np,1,1\n", {}, ("'survival_months'", "'months'", "data.clinical.time")),
        ("x,y\np,1\n", {}, ("no column 'case_id'", "'x', 'y'", "data.clinical.case_id")),
        (HEADER + ROWS, {"slides": "slide_ids"}, ("'slide_ids'", "'slides'", "data.clinical.slides")),
        (HEADER + ROWS, {"tss": "centre"}, ("'centre'", "data.clinical.tss")),
        (HEADER + "p,-1,1,,\n", {}, ("'survival_months'", "negative", "row 1", "in months")),
        (HEADER + "p,1,1,,\nq,,1,,\n", {}, ("'survival_months'", "is empty", "row 2", "take the row out")),
        (
            HEADER + "p,secret,1,,\n",
            {"time_unit": "days"},
            ("'survival_months'", "not a finite", "row 1", "in days"),
        ),
        (HEADER + "p,inf,1,,\n", {}, ("'survival_months'", "not a finite", "row 1")),
        (
            HEADER + "p,1,2,,\n",
            {},
            ("'event'", "neither 0 nor 1", "row 1", "Write 1 where the event happened"),
        ),
        (HEADER + "p,1,,,\n", {"event_means": "censored"}, ("'event'", "row 1", "did not happen")),
        (HEADER + ",1,1,,\n", {}, ("'case_id'", "is empty", "row 1")),
        (
            HEADER + "p,1,1,a,\np,1,1,b,\n",
            {},
            ("'case_id'", "repeats a patient in row 2", "data.clinical.slides"),
        ),
        (
            HEADER + "p,1,1,a,\np,1,1,,\n",
            {"slides": "slides"},
            ("'case_id'", "another slide in row 2", "one per slide"),
        ),
        (
            HEADER + "p,1,1,a,\np,2,1,b,\n",
            {"slides": "slides"},
            ("'survival_months'", "contradicts", "row 2"),
        ),
        (
            HEADER + "p,1,1,a,\np,1,0,b,\n",
            {"slides": "slides"},
            ("'event'", "contradicts", "row 2", "Correct it"),
        ),
        (
            HEADER + "p,1,1,a,1\np,1,1,b,2\n",
            {"slides": "slides", "tss": "tss"},
            ("'tss'", "contradicts", "row 2"),
        ),
        (
            HEADER + "p,1,1,a;a.svs,\n",
            {"slides": "slides"},
            ("'slides'", "a second time", "row 1", "listed once"),
        ),
        (HEADER + "p,1,1,a,\nq,1,1,a.svs,\n", {"slides": "slides"}, ("'slides'", "another patient", "row 2")),
        (HEADER + "".join(f"secret{i},-1,1,,\n" for i in range(9)), {}, ("rows 1, 2, 3 and 6 more",)),
        (HEADER, {}, ("has a header but no rows", "one row per patient")),
        ("", {}, ("is empty", "header")),
        (HEADER + "p,1,1,a,x\nsecret,1\n", {}, ("row 2", "the header (5)", "double quotes")),
        ("event,event,case_id,survival_months\n1,1,p,1\n", {}, ("'event'", "2 times", "Keep one")),
    ],
)
def test_refusals_name_file_column_row_and_remedy(tmp_path, text, columns, words):
    with pytest.raises(DataError) as raised:
        clinical(tmp_path, text, **columns)
    for word in (str(tmp_path / "clinical.csv"), *words):
        assert word in str(raised.value)
    assert "secret" not in str(raised.value)


def test_files_that_are_no_tables_are_refused(tmp_path):
    (tmp_path / "t.csv").write_text(HEADER)
    for name, content, words in (
        ("absent.csv", None, ("no such file", "t.csv", "data.root")),
        ("t.sav", b"$FL2", (".csv, .csv.gz, ", ".parquet, .xlsx", "Export")),
        ("t.xlsx", b"PK", ("cannot be read as an Excel workbook", "as CSV")),
        ("t.csv.gz", b"plain text", ("no column 'case_id'",)),
        ("t.parquet", b"plain text", ("cannot be read as parquet", "Export it again")),
        ("dos.csv", HEADER.encode() + "é,1,1,,\nü,1,1,,\n".encode("cp850"), ("neither UTF-8 nor Windows-1252",)),
    ):
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError) as raised:
            read_clinical(ClinicalTable(file=name), tmp_path)
        for word in (str(tmp_path / name), *words):
            assert word in str(raised.value)


# The cohort -----------------------------------------------------------------------------------


def test_patients_are_joined_and_only_counts_are_logged(tmp_path, caplog):
    config = make_site(tmp_path, folds="p1,2\np9,0\n")
    with caplog.at_level(logging.INFO):
        cohort = load_cohort(config)
    assert [(r.case_id, r.gene_row, r.fold) for r in cohort.records] == [("p1", 0, 2), ("p2", None, None)]
    assert [cohort.has_slides(r) for r in cohort.records] == [True, True]
    np.testing.assert_array_equal(cohort.genes.values_NC, [[2]])  # rows of others are not kept
    assert cohort.features.width == 4
    assert "molecular data: 1 of 3 patients, from 3 rows" in caplog.text
    assert "features: 2 of 3 patients; absent for 1 of 3 slides" in caplog.text
    assert "patients: 2; 1 left out" in caplog.text
    assert "folds: 2 of 3 patients are in no fold" in caplog.text
    assert not any(secret in caplog.text for secret in ("p1", "p9", "12.5", str(tmp_path)))


def test_one_modality_is_enough(tmp_path):
    config = make_site(tmp_path)
    assert [r.case_id for r in load_cohort(config.model_copy(update={"features": None})).records] == ["p1"]
    assert [r.case_id for r in load_cohort(config.model_copy(update={"genomics": None})).records] == [
        "p1",
        "p2",
    ]


def test_clinical_columns_are_no_genes(tmp_path):
    (tmp_path / "all.csv").write_text("case_id,survival_months,my_event,TP53\np,1,1,0\nq,2,0,1\n")
    config = SiteDataConfig(
        root=tmp_path,
        clinical=ClinicalTable(file="all.csv", event="my_event"),
        genomics=GenomicsTable(file="all.csv", bare_columns="mut"),
    )
    assert load_cohort(config).genes.columns == ("TP53_mut",)


@pytest.mark.parametrize(
    ("site", "words"),
    [
        ({"genes": "x,1\n"}, ("genes.csv", "'case_id'", "none of the 3 patients", "same identifiers")),
        ({"genes": "p1,\n"}, ("genes.csv", "nothing is measured")),
        ({"slides": ("x",)}, ("features", "none of the 3 patients", "3 slides", "data.clinical.slides")),
    ],
)
def test_tables_without_a_known_patient_are_refused(tmp_path, site, words):
    with pytest.raises(NoPatientsError) as raised:
        load_cohort(make_site(tmp_path, **site))
    for word in (str(tmp_path), *words):
        assert word in str(raised.value)


@pytest.mark.parametrize(
    ("folds", "words"),
    [
        ("p1,0\np2,1\np1,1\n", ("'case_id'", "repeats a patient in row 3", "one test fold")),
        ("p1,0\np2,x\n", ("'fold'", "whole number", "row 2")),
        ("p1,-1\n", ("'fold'", "whole number", "row 1")),
        ("p1,0.5\n", ("'fold'", "whole number", "row 1", "test fold")),
    ],
)
def test_fold_refusals(tmp_path, folds, words):
    config = make_site(tmp_path, folds=folds)
    with pytest.raises(DataError) as raised:
        load_cohort(config)
    for word in (str(tmp_path / "folds.csv"), *words):
        assert word in str(raised.value)


# Real tables ----------------------------------------------------------------------------------

COUNTS = {  # DATA.md: patients, slides, deaths
    "tcga_blca_mcat": (373, 437, 169),
    "tcga_luad_mcat": (453, 516, 158),
    "tcga_ucec_mcat": (480, 539, 75),
    "tcga_ucec_mcatfull": (480, 539, 75),
    "tcga_ucec_porpoise": (480, 538, 75),
    "tcga_brca_porpoise": (956, 1022, 130),
    "tcga_gbmlgg_porpoise": (569, 1011, 187),
    "tcga_blca_porpoise_cnvmut": (373, 437, 169),
    "tcga_luad_porpoise_cnvmut": (453, 515, 158),
}


@pytest.mark.real_data
@pytest.mark.parametrize("cohort", COUNTS)
def test_real_tables_have_the_patients_that_data_md_counts(data_root, cohort):
    records = read_clinical(ClinicalTable(file=f"cohorts/{cohort}.csv.gz", slides="slide_ids", tss="tss"), data_root)
    counts = len(records), sum(len(r.slides) for r in records), sum(r.event for r in records)
    assert counts == COUNTS[cohort]
    assert all(r.tss == r.case_id[5:7] for r in records)  # leading zeros are kept
    assert not any(slide.endswith(".svs") for r in records for slide in r.slides)


@pytest.mark.real_data
def test_days_of_the_real_registry_are_the_months_of_the_cohort(data_root, tmp_path):
    months = read_clinical(ClinicalTable(file="cohorts/tcga_blca_mcat.csv.gz"), data_root)
    registry = pd.read_csv(data_root / "reference" / "tcga_cdr_selected.csv.gz", dtype=str)
    registry[registry["type"] == "BLCA"].to_csv(tmp_path / "blca.csv", index=False)
    table = ClinicalTable(file="blca.csv", case_id="bcr_patient_barcode", time="OS.time", time_unit="days", event="OS")
    days = {r.case_id: r for r in read_clinical(table, tmp_path)}
    assert len(months) == 373
    assert all(days[r.case_id].event == r.event for r in months)
    assert max(abs(days[r.case_id].time_months - r.time_months) for r in months) < 0.1


@pytest.mark.real_data
def test_a_real_cohort_with_bags_of_three_patients(data_root):
    config = SiteDataConfig(
        root=data_root,
        clinical=ClinicalTable(file="cohorts/tcga_gbmlgg_porpoise.csv.gz", slides="slide_ids", tss="tss"),
        genomics=GenomicsTable(file="cohorts/tcga_gbmlgg_porpoise.csv.gz"),
        features=FeatureFolder(path="bags/pathomicfusion_h5", encoder="pathomicfusion_cpc", magnification=40),
    )
    cohort = load_cohort(config)
    with_slides = [r for r in cohort.records if cohort.has_slides(r)]
    assert (len(cohort.records), cohort.num_events, len(with_slides)) == (569, 187, 3)
    assert sorted(len(cohort.features.load(r).patches_PF) for r in with_slides) == [373, 667, 711]


@pytest.mark.real_data
@pytest.mark.parametrize(("table", "cohort", "patients"), [("luad_mcat", "luad", 422), ("brca_porpoise", "brca", 884)])
def test_real_slide_level_features_join_by_patient(data_root, table, cohort, patients):
    config = SiteDataConfig(
        root=data_root,
        clinical=ClinicalTable(file=f"cohorts/tcga_{table}.csv.gz"),
        features=FeatureFolder(path=f"hif/{cohort}_hif.csv.gz", encoder="hif", groups_file="hif/hif_names.csv"),
    )
    assert len(load_cohort(config).records) == patients
