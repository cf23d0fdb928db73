import csv
import pickle
import re
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from memamba_core.config.site import FeatureFolder
from memamba_core.data.features.patch_folder import open_features
from memamba_core.data.features.slide_tables import SMALLEST_FAMILY, SlideTable, build_families
from memamba_core.data.records import FeatureStore, PatientRecord
from memamba_core.errors import ConfigError, DataError


def patient(case_id: str, *slides: str) -> PatientRecord:
    return PatientRecord(case_id, 1.0, True, slides=slides)


def open_table(root, text=None, **settings) -> SlideTable:
    if text is not None:
        (root / "hif.csv").write_text(text, encoding="utf-8")
    settings = {"path": "hif.csv", "encoder": "hif"} | settings
    store = open_features(FeatureFolder(**settings), root)
    assert isinstance(store, SlideTable)
    assert isinstance(store, FeatureStore)
    return store


BY_PATIENT = "case_id,slide_ref,hif_1,hif_2,note\np1,7,1,10,x\np2,8,2,20,y\np1,9,3,,z\n"


def test_a_table_keyed_by_patient_gives_all_rows_of_the_patient(tmp_path):
    store = open_table(tmp_path, BY_PATIENT, magnification=20)
    assert (store.encoder, store.width, store.columns, store.families) == (
        "hif@20x",
        2,
        ("hif_1", "hif_2"),
        (),
    )
    bag = pickle.loads(pickle.dumps(store)).load(patient("p1", "unknown slide"))
    assert bag.patches_PF.dtype == torch.float32
    np.testing.assert_array_equal(bag.patches_PF, [[1, 10], [3, np.nan]])  # not measured stays NaN
    assert bag.coords_P2 is None
    assert store.has(patient("p2"))
    assert not store.has(patient("p3"))
    assert store.load(patient("p3")) is None


def test_a_table_keyed_by_slide_follows_the_record(tmp_path):
    store = open_table(tmp_path, BY_PATIENT.replace("7", "7.svs"), key="slide_ref")
    assert store.load(patient("p1", "9", "absent", "7")).patches_PF[:, 0].tolist() == [3, 1]
    assert not store.has(patient("p1"))
    assert store.has(patient("somebody", "8"))


def test_case_ids_are_compared_as_they_are(tmp_path):
    store = open_table(tmp_path, "case_id,hif_1\n2019/12,1\n2020/12,2\n13.tif,3\n")
    assert [store.load(patient(name)).patches_PF.tolist() for name in ("2019/12", "2020/12", "13.tif")] == [
        [[1.0]],
        [[2.0]],
        [[3.0]],
    ]
    assert not store.has(patient("12"))
    assert not store.has(patient("13"))


def test_a_row_in_which_nothing_was_measured_is_absent(tmp_path):
    store = open_table(tmp_path, "case_id,hif_1,hif_2\np1,,NaN\np2,,5\np2,,\n")
    assert not store.has(patient("p1"))
    assert store.load(patient("p1")) is None
    assert store.load(patient("p2")).patches_PF.tolist() == [[pytest.approx(np.nan, nan_ok=True), 5.0]]


def test_a_cap_keeps_rows_in_order(tmp_path):
    rows = "".join(f"p,{i}\n" for i in range(10))
    store = open_table(tmp_path, f"case_id,hif_1\n{rows}")
    assert store.load(patient("p"), 2).patches_PF[:, 0].tolist() == [2, 7]
    kept = store.load(patient("p"), 4, np.random.default_rng(3)).patches_PF[:, 0].tolist()
    assert len(set(kept)) == 4
    assert kept == sorted(kept)


@pytest.mark.parametrize(
    ("text", "settings", "words"),
    [
        ("case,hif_1\np,1\n", {}, ("'case_id'", "'case'", "data.features.key")),
        ("case_id,a,b\np,1,2\n", {}, ("data.features.columns", "case_id, a, b", "regular expression")),
        ("case_id,hif_1\np,1\n,2\n", {}, ("'case_id'", "is empty", "row 2", "data.features.key")),
        ("case_id,hif_1\np,many\n", {}, ("'hif_1'", "row 1", "decimal point")),
        ("case_id,hif_1\np,inf\n", {}, ("'hif_1'", "row 1", "infinite")),
        ("case_id,hif_1\n", {}, ("has a header but no rows", "Write")),
        (
            "case_id,hif_1\np,1\n",
            {"path": "none.csv"},
            ("none.csv: no such file", "hif.csv", "name in the settings"),
        ),
    ],
)
def test_refusals_name_file_column_row_and_remedy(tmp_path, text, settings, words):
    with pytest.raises(DataError) as raised:
        open_table(tmp_path, text, **settings)
    for word in (str(tmp_path), *words):
        assert word in str(raised.value)
    assert "many" not in str(raised.value)


def test_a_wrong_pattern_is_a_wrong_setting(tmp_path):
    with pytest.raises(ConfigError, match=re.escape("data.features.columns: '(' is no regular expression")):
        open_table(tmp_path, BY_PATIENT, columns="(")


# Families -------------------------------------------------------------------------------------


def test_families_say_what_is_measured_and_of_what():
    region = "REGION PROPERTIES: PERIMETER (MM) OF LARGEST REGION OF TUMOR_HE"
    cells = "CELL CLUSTERING PROPERTIES: CLUSTER SIZE MEAN OF CANCER IN EPITHELIAL_HE"
    ratio = "DENSITY RATIO [PLASMA CELLS] IN [[TUMOR] OVER [STROMA]]_HE"
    count = "COUNT PROP [[CANCER CELLS] OVER [PLASMA CELLS]] IN [TUMOR]_HE"
    for name, family in (
        (region, "REGION PROPERTIES: TUMOR"),
        (cells, "CELL CLUSTERING PROPERTIES: CANCER"),
        (ratio, "DENSITY: PLASMA"),
        (count, "COUNT: CANCER"),
        ("Texture: contrast", "Texture"),
        ("area of nuclei", "area"),
    ):
        assert build_families([name] * SMALLEST_FAMILY) == (family,) * SMALLEST_FAMILY


def test_small_families_of_one_kind_are_joined():
    names = ["AREA OF [TUMOR]"] * 3 + ["AREA OF [STROMA]"] * 8 + ["AREA OF [NECROSIS]"]
    assert build_families(names) == ("AREA",) * 3 + ("AREA: STROMA",) * 8 + ("AREA",)


@given(st.lists(st.text(min_size=1).filter(str.strip)), st.randoms())
def test_families_do_not_depend_on_the_order_of_columns(names, random):
    families = dict(zip(names, build_families(names), strict=True))
    random.shuffle(names)
    assert dict(zip(names, build_families(names), strict=True)) == families


def test_a_groups_file_names_the_families_of_the_columns(tmp_path):
    (tmp_path / "groups.csv").write_text("id,name\nhif_2,Shape: a\nhif_9,Shape: b\nhif_1,AREA OF [X]\n")
    store = open_table(tmp_path, BY_PATIENT, groups_file="groups.csv")
    assert store.families == ("AREA", "Shape")


@pytest.mark.parametrize(
    ("groups", "words"),
    [
        (
            "id,name\nhif_1,Shape: a\n",
            ("'id'", "lacks 1 feature columns", "'hif_2'", "data.features.columns"),
        ),
        ("id,title\nhif_1,Shape: a\n", ("no column 'name'", "Rename")),
        ("id,name\nhif_1,a\nhif_2,\n", ("'name'", "is empty", "row 2", "one name per row")),
        ("id,name\nhif_1,a\nhif_1,b\n", ("'id'", "repeats a column", "row 2", "one row per column")),
    ],
)
def test_groups_file_refusals(tmp_path, groups, words):
    (tmp_path / "groups.csv").write_text(groups)
    with pytest.raises(DataError) as raised:
        open_table(tmp_path, BY_PATIENT, groups_file="groups.csv")
    for word in (str(tmp_path / "groups.csv"), *words):
        assert word in str(raised.value)


# Real tables ----------------------------------------------------------------------------------


@pytest.mark.real_data
@pytest.mark.parametrize(("cohort", "patients", "slides", "missing"), [("luad", 444, 501, 144), ("brca", 904, 904, 0)])
def test_real_features_are_read(data_root, cohort, patients, slides, missing):
    store = open_table(data_root, path=f"hif/{cohort}_hif.csv.gz", groups_file="hif/hif_names.csv")
    assert store.values_SF.shape == (slides, 607)
    assert len(store.rows_of_slide) == patients
    assert int(np.isnan(store.values_SF).sum()) == missing
    assert len(store.families) == store.width == 607


@pytest.mark.real_data
def test_real_slides_are_found_by_their_number(data_root):
    store = open_table(data_root, path="hif/luad_hif.csv.gz", key="slide_ref")
    assert store.load(patient("TCGA-49-AARO", "75661")).patches_PF.shape == (1, 607)
    assert len(store.rows_of_slide) == 501


@pytest.mark.real_data
def test_the_real_names_fall_into_families_of_a_sensible_size(data_root):
    with (data_root / "hif" / "hif_names.csv").open(encoding="utf-8") as lines:
        names = [row["name"] for row in csv.DictReader(lines)]
    sizes = Counter(build_families(names))
    assert len(names) == 607
    assert len(sizes) == 23
    assert (min(sizes.values()), max(sizes.values())) == (8, 92)
    assert sizes["AREA"] == 8
    assert sizes["REGION PROPERTIES: TUMOR"] == 31
