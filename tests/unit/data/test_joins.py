"""Tables and files whose identifiers differ in spelling: joined where no screen shows the difference, else counted."""

import logging
import unicodedata
from functools import partial
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest

from memamba_core.config.site import ClinicalTable, FeatureFolder, FoldTable, GenomicsTable, SiteDataConfig
from memamba_core.data.features.patch_files import inspect_patch_file as inspect
from memamba_core.data.features.patch_folder import LARGEST_EMPTY_FILE
from memamba_core.data.joins import find_fold_doubts
from memamba_core.data.manifest import load_cohort
from memamba_core.data.records import PatientRecord
from memamba_core.errors import DataError, NoPatientsError

NUM = 8
PATIENTS = tuple(f"{i:03d}" for i in range(1, NUM + 1))
SLIDES = tuple(f"Süd-{i}-HE" for i in range(NUM))
HEALTHY = {"patients": PATIENTS, "genes": PATIENTS, "slides": SLIDES, "files": SLIDES, "folds": PATIENTS}


def decomposed(text):
    return unicodedata.normalize("NFD", text)


def write_file(path: Path, rows: int, **storage):
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file.create_dataset("features", data=np.ones((rows, 4), np.float32), **storage)


def make_site(root: Path, patients=PATIENTS, genes=PATIENTS, slides=SLIDES, files=SLIDES, folds=PATIENTS, keys=None):
    """Write a site; None leaves a table out, `keys` writes slide-level features instead of files."""
    clinical = {"case_id": patients, "survival_months": 5.0, "event": [0, 1] * (NUM // 2)}
    if slides is not None:
        clinical["slides"] = slides
    pd.DataFrame(clinical).to_csv(root / "clinical.csv", index=False)
    if genes is not None:
        pd.DataFrame({"case_id": genes, "A_rnaseq": np.arange(len(genes)) / 2}).to_csv(root / "genes.csv", index=False)
    if files is not None:
        for name in files:
            write_file(root / "bags" / f"{name}.h5", 2)
    if keys is not None:
        pd.DataFrame({"key": keys, "hif_1": np.arange(len(keys)) / 2}).to_csv(root / "hif.csv", index=False)
    if folds is not None:
        pd.DataFrame({"case_id": folds, "fold": np.arange(len(folds)) % 2}).to_csv(root / "folds.csv", index=False)
    features = FeatureFolder(path="bags", encoder="e") if files is not None else None
    features = features if keys is None else FeatureFolder(path="hif.csv", encoder="hif", key="key")
    return SiteDataConfig(
        root=root,
        clinical=ClinicalTable(file="clinical.csv", slides=None if slides is None else "slides"),
        genomics=None if genes is None else GenomicsTable(file="genes.csv"),
        features=features,
        folds=None if folds is None else FoldTable(file="folds.csv"),
    )


def change(names, first, edit):
    """Edit the names from a place on."""
    return (*names[:first], *map(edit, names[first:]))


@pytest.mark.parametrize(
    "written",
    [
        {},
        {"files": change(SLIDES, 4, decomposed)},
        {"slides": change(SLIDES, 4, decomposed), "patients": change(PATIENTS, 2, "\u200b{}\u00a0".format)},
        {"genes": change(PATIENTS, 0, "\ufeff{}".format), "folds": change(PATIENTS, 0, "{}\u00a0 ".format)},
        {"slides": change(SLIDES, 0, "D:\\Scans\\{}.VSI".format)},
        {"slides": change(SLIDES, 0, "{}.ome.tiff".format), "files": change(SLIDES, 0, "{}.ome".format)},
        {"files": None, "keys": change(SLIDES, 0, decomposed)},
        {"files": None, "keys": change(PATIENTS, 0, " {}\u200b".format)},
        {"genes": (*PATIENTS, "777", "888", "999"), "files": (*SLIDES, *"abcdefgh")},  # data of other patients
        {"files": SLIDES[:3], "genes": PATIENTS[2:]},  # patients without data
        {"folds": (*PATIENTS, "999")},
    ],
)
def test_differences_that_no_screen_shows_are_joined_without_a_doubt(tmp_path, written):
    written = HEALTHY | written
    cohort = load_cohort(make_site(tmp_path, **written))
    assert cohort.doubts == ()
    assert tuple(r.case_id for r in cohort.records) == PATIENTS
    assert sum(map(cohort.has_genes, cohort.records)) == min(NUM, len(written["genes"]))
    assert sum(map(cohort.has_slides, cohort.records)) == min(NUM, len(written["files"] or SLIDES))
    assert [r.fold for r in cohort.records] == [0, 1] * 4


@pytest.mark.parametrize(
    ("written", "check", "words"),
    [
        (
            {"genes": change(PATIENTS, 2, lambda name: str(int(name)))},
            "identifiers",
            ("6 of 8 rows of genes.csv match no patient of clinical.csv; 6 would without leading zeros", "6 of 8 pat"),
        ),
        (
            {"folds": change(PATIENTS, 2, lambda name: str(int(name)))},
            "folds",
            ("6 of 8 patients are in no fold", "6 of 8 rows of folds.csv match no", "6 would without leading zeros"),
        ),
        ({"folds": PATIENTS[:5]}, "folds", ("3 of 8 patients are in no fold and are neither",)),
        (
            {"files": change(SLIDES, 2, str.lower)},
            "slide names",
            ("6 of 8 files in bags match no slide of clinical.csv; 6 would ignoring case", "6 of 8 slides have no"),
        ),
        (
            {"files": change(SLIDES, 7, "{}-2".format)},
            "slide names",
            ("1 of 8 files in bags match no slide", "1 would without a suffix"),
        ),
        ({"files": (*SLIDES[:4], *"abcd")}, "slide names", ("4 of 8 files in bags match no slide", "4 of 8 slides")),
        (
            {"files": None, "keys": change(PATIENTS, 2, "{}.0".format)},
            "slide names",
            ("6 of 8 keys of hif.csv match no slide and no patient of clinical.csv; 6 would as numbers",),
        ),
    ],
)
def test_differences_that_a_screen_shows_are_counted(tmp_path, written, check, words, caplog):
    with caplog.at_level(logging.INFO):
        (doubt,) = load_cohort(make_site(tmp_path, **HEALTHY | written)).doubts
    assert doubt.check == check
    for word in words:
        assert word in doubt.text
    assert doubt.remedy[0].islower()
    shown = f"{doubt} {caplog.text}"
    assert not any(name in shown for name in (*PATIENTS, *SLIDES, *map(str.lower, SLIDES)))


@pytest.mark.parametrize(
    ("written", "words"),
    [
        (
            {"genes": change(PATIENTS, 0, lambda name: str(int(name)))},
            ("none of the 8 patients", "Of 8 rows, 8 would match without leading zeros", "Export the column as text"),
        ),
        ({"genes": ("A-1", "A-2")}, ("identifiers look like `000` in clinical.csv and like `A-0` in genes.csv",)),
        ({"folds": ("A-1", "A-2")}, ("folds.csv", "'case_id' has none of the 8 patients", "`A-0` in folds.csv")),
        (
            {"files": change(SLIDES, 0, str.casefold)},
            ("features of none of the 8 patients", "Of 8 files, 8 would match ignoring case"),
        ),
        ({"files": ("a", "b")}, ("look like `Aaa-0-AA` in clinical.csv and like `a` in bags", "data.clinical.slides")),
        ({"files": PATIENTS}, ("8 of 8 files bear the identifier of a patient", "Set data.clinical.slides")),
        (
            {"slides": None, "files": PATIENTS},
            ("8 of 8 files bear the identifier of a patient", "Set data.clinical.slides"),
        ),
        (
            {"files": None, "keys": change(PATIENTS, 0, "X{}Y".format)},
            ("features of none of the 8 patients", "column 'key'"),
        ),
    ],
)
def test_without_a_matching_patient_the_error_gives_the_same_evidence(tmp_path, written, words):
    with pytest.raises(NoPatientsError) as caught:
        load_cohort(make_site(tmp_path, **HEALTHY | written))
    for word in words:
        assert word in str(caught.value)
    assert not any(name in str(caught.value).replace("`000`", "") for name in (*PATIENTS, *SLIDES))


@pytest.mark.parametrize(
    ("names", "text"),
    [
        (("a1", "A1", "b1", "B1"), "4 patients of clinical.csv would be 2 ignoring case: one patient may"),
        (("1", "001"), "2 patients of clinical.csv would be 1 without leading zeros"),
        (("12", "12.0"), "2 patients of clinical.csv would be 1 as numbers"),
        (("TCGA-2F-A9KO-01A", "TCGA-2F-A9KO-11A"), "2 patients of clinical.csv would be 1 as the first 12 characters"),
    ],
)
def test_a_patient_under_two_names_is_a_doubt(tmp_path, names, text):
    patients = (*names, *(f"Q{i}" for i in range(NUM - len(names))))
    (doubt,) = load_cohort(make_site(tmp_path, patients, genes=patients, slides=None, files=None, folds=None)).doubts
    assert doubt.text.startswith(text)


def test_folds_that_are_numbered_from_1_are_a_doubt():
    def doubts(numbers):
        records = [PatientRecord(f"P{i}", 5.0, False, fold=fold) for i, fold in enumerate(numbers)]
        folds = {r.case_id: r.fold for r in records}
        return list(find_fold_doubts(records, records, folds, FoldTable(file="folds.csv"), "clinical.csv"))

    (doubt,) = doubts([1, 2, 3, 4, 5] * 6)
    assert "column 'fold' of folds.csv numbers the folds from 1 to 5" in doubt.text
    for healthy in ([0, 1, 2] * 9, [1, 2, 3], [1] * 30, [2, 3] * 15, [1, 3] * 20):
        assert doubts(healthy) == []


@pytest.mark.parametrize("table", ["patients", "genes", "folds", "keys"])
@pytest.mark.parametrize(
    ("cell", "words"),
    [
        ("1.23457E+11", "scientific notation (as 1.2E+11), whose last digits are lost, in row 1"),
        ("01. Feb", "holds dates (as 01. Feb) in row 1"),
        ("1-Mär", "holds dates"),
        ("nan", "is empty"),
    ],
)
def test_identifiers_that_a_program_lost_are_an_error(tmp_path, table, cell, words):
    written = HEALTHY | {"files": None, "keys": PATIENTS}
    written[table] = (cell, *PATIENTS[1:])
    with pytest.raises(DataError) as caught:
        load_cohort(make_site(tmp_path, **written))
    assert words in str(caught.value)
    assert "1.23457" not in str(caught.value)


@pytest.mark.parametrize("cell", ["nan", "NA", "-", "None", "#N/A", "\u00a0"])
def test_what_stands_for_no_slide_is_none(tmp_path, cell):
    cohort = load_cohort(make_site(tmp_path, slides=(cell, cell, *SLIDES[2:]), files=SLIDES[2:]))
    assert [r.slides for r in cohort.records[:3]] == [(), (), (SLIDES[2],)]
    assert cohort.doubts == ()


@pytest.mark.parametrize(
    ("written", "words"),
    [
        ({"patients": (*PATIENTS[:7], "001\u200b"), "slides": None}, ("clinical.csv", "repeats a patient in row 8")),
        ({"genes": ("001", "\ufeff001")}, ("genes.csv", "repeats a patient with other molecular values in row 2")),
        ({"folds": ("001", "001\u00a0")}, ("folds.csv", "repeats a patient in row 2")),
        ({"slides": (*SLIDES[:7], decomposed(SLIDES[0]))}, ("lists a slide of another patient in row 8",)),
        ({"files": (SLIDES[0], decomposed(SLIDES[0]))}, ("is the same slide as",)),
    ],
)
def test_identifiers_that_become_one_are_an_error(tmp_path, written, words):
    with pytest.raises(DataError) as caught:
        load_cohort(make_site(tmp_path, **HEALTHY | written))
    for word in words:
        assert word in str(caught.value)


def test_a_patient_with_an_empty_slide_and_nothing_else_is_left_out_and_counted(tmp_path, caplog):
    config = make_site(tmp_path, genes=PATIENTS[2:], folds=None)
    for slide in (SLIDES[0], SLIDES[1], SLIDES[5]):
        write_file(tmp_path / "bags" / f"{slide}.h5", 0)
    with caplog.at_level(logging.INFO):
        cohort = load_cohort(config)
    assert tuple(r.case_id for r in cohort.records) == PATIENTS[2:]
    assert [cohort.has_slides(r) for r in cohort.records] == [True, True, True, False, True, True]
    (doubt,) = cohort.doubts
    assert doubt.text == "3 of 8 slides have a file without a patch; 3 patients have no other slide"
    assert "2 left out" in caplog.text
    assert "features: 5 of 8 patients" in caplog.text


def test_only_small_files_are_opened_and_one_that_cannot_be_read_counts_as_a_slide(tmp_path, monkeypatch):
    config = make_site(tmp_path, genes=None, folds=None)
    large = tmp_path / "bags" / f"{SLIDES[0]}.h5"
    with h5py.File(large, "w") as file:
        file["features"] = np.ones((LARGEST_EMPTY_FILE // 16 + 1, 4), np.float32)
    (tmp_path / "bags" / f"{SLIDES[1]}.h5").write_bytes(b"damaged")
    opened = []
    monkeypatch.setattr(
        "memamba_core.data.features.patch_folder.inspect_patch_file",
        lambda path, dataset, real=inspect: opened.append(path) or real(path, dataset),
    )
    cohort = load_cohort(config.model_copy(update={"features": FeatureFolder(path="bags", encoder="e", width=4)}))
    assert len(cohort.records) == NUM
    assert all(map(cohort.has_slides, cohort.records))
    assert large not in opened
    assert len(opened) == NUM - 1, "each small file is opened once"


def test_a_folder_whose_slides_are_all_empty_is_named(tmp_path):
    config = make_site(tmp_path, genes=None, folds=None, files=(*SLIDES, "other"))
    for slide in SLIDES:
        write_file(tmp_path / "bags" / f"{slide}.h5", 0)
    with pytest.raises(NoPatientsError, match=r"Their 8 files hold no patch\. Check the tissue segmentation"):
        load_cohort(config)


slow = partial(pytest.param, marks=pytest.mark.ci_slow)


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("cohort", "features"),
    [
        ("blca_mcat", None),
        slow("luad_mcat", FeatureFolder(path="hif/luad_hif.csv.gz", encoder="hif")),
        slow("ucec_porpoise", None),
        slow("brca_porpoise", FeatureFolder(path="hif/brca_hif.csv.gz", encoder="hif")),
        slow("gbmlgg_porpoise", FeatureFolder(path="bags/pathomicfusion_h5", encoder="pathomicfusion_cpc")),
        (
            "gbmlgg_porpoise",
            FeatureFolder(path="bags/tcga_roi_efficientnetlite0_h5", encoder="efficientnet_lite0_imagenet"),
        ),
    ],
)
def test_real_cohorts_raise_no_doubt(data_root, cohort, features):
    config = SiteDataConfig(
        root=data_root,
        clinical=ClinicalTable(file=f"cohorts/tcga_{cohort}.csv.gz", slides="slide_ids", tss="tss"),
        genomics=GenomicsTable(file=f"cohorts/tcga_{cohort}.csv.gz"),
        features=features,
    )
    assert load_cohort(config).doubts == ()
