"""Doubts about feature files: raised by files that contradict each other, silent on healthy ones."""

from pathlib import Path

import numpy as np
import pytest
import torch
from fixtures.patch_files import grid, write_h5, write_npy, write_pt
from hypothesis import given, settings
from hypothesis import strategies as st

from memamba_core.config.site import FeatureFolder
from memamba_core.data.doubt import Doubt
from memamba_core.data.features.doubts import find_listing_doubts
from memamba_core.data.features.patch_folder import open_features
from memamba_core.data.features.survey import survey_features
from memamba_core.data.records import Cohort, PatientRecord

DIM = 16


def features(num: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(num, DIM)).astype(np.float32)


def clam(root: Path, num_slides: int = 6, pt: bool = True) -> Path:
    """Write a healthy folder of CLAM."""
    for slide in range(num_slides):
        rows = features(12 + slide, slide)
        attributes = {"target_magnification": 20}
        write_h5(root / "h5_files" / f"s{slide}.h5", rows, grid(len(rows)), attributes=attributes)
        if pt:
            write_pt(root / "pt_files" / f"s{slide}.pt", torch.from_numpy(rows))
    return root


def survey(root: Path, path: str = ".", **declared):
    store = open_features(FeatureFolder(path=path, encoder="uni_v1", **declared), root)
    records = tuple(PatientRecord(f"p{name}", 1.0, True, slides=(name,)) for name in store.files)
    return survey_features(Cohort(records, features=store))


def listing(root: Path) -> list[Doubt]:
    store = open_features(FeatureFolder(path=".", encoder="uni_v1"), root)
    return list(find_listing_doubts(store.files, store.second, store.folders))


@pytest.mark.parametrize("pt", [True, False])
def test_a_healthy_folder_raises_no_doubt(tmp_path, pt):
    root = clam(tmp_path, pt=pt)
    result = survey(root)
    assert (result.doubts, result.damaged, result.num_empty, listing(root)) == ([], [], 0, [])
    assert result.rows == {f"ps{slide}": 12 + slide for slide in range(6)}


@settings(max_examples=15)
@given(
    sizes=st.lists(st.integers(0, 60), min_size=1, max_size=8),
    dim=st.integers(2, 40),
    seed=st.integers(0, 99),
    half=st.booleans(),
    relu=st.booleans(),
)
def test_healthy_features_of_any_size_raise_no_doubt(tmp_path_factory, sizes, dim, seed, half, relu):
    root, rng = tmp_path_factory.mktemp("healthy"), np.random.default_rng(seed)
    for slide, size in enumerate([*sizes, 5]):
        rows = rng.normal(size=(size, dim + 60)).astype(np.float16 if half else np.float32)
        rows = np.maximum(rows, 0) if relu else rows
        write_h5(root / f"s{slide}.h5", rows, grid(size))
    result = survey(root)
    assert (result.doubts, result.damaged) == ([], [])
    assert result.num_empty == sizes.count(0)


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("path", "encoder"),
    [
        ("bags/pathomicfusion_h5", "pathomicfusion_cpc"),
        ("bags/tcga_roi_efficientnetlite0_h5", "efficientnet_lite0_imagenet"),
        ("bags", "efficientnet_lite0_imagenet"),
    ],
)
def test_real_bags_raise_no_doubt(data_root, path, encoder):
    store = open_features(FeatureFolder(path=path, encoder=encoder), data_root)
    names = [name for name in store.files if "prototypes" not in name]
    records = tuple(PatientRecord(f"p{name}", 1.0, True, slides=(name,)) for name in names)
    result = survey_features(Cohort(records, features=store))
    assert (result.doubts, result.damaged) == ([], [])
    if path != "bags":  # that folder is none of features alone
        assert not list(find_listing_doubts(store.files, store.second, store.folders))


def remove(root: Path, *names: str) -> None:
    for name in names:
        (root / name).unlink()


@pytest.mark.parametrize(
    ("change", "words", "files"),
    [
        (
            lambda r: remove(r, "pt_files/s0.pt", "pt_files/s3.pt"),
            "2 of 6 slides have an .h5 file without a .pt file",
            "s0.h5 s3.h5",
        ),
        (
            lambda r: remove(r, "h5_files/s0.h5"),
            "1 of 6 slides have no .h5 file, only .pt, while 5 slides have one",
            "s0.pt",
        ),
        (lambda r: (r / "h5_files/s9.h5.part").touch(), "files that are not complete (1 .part)", "s9.h5.part"),
        (lambda r: (r / "h5_files/s9.h5.lock").touch(), "files that are not complete (1 .lock)", "s9.h5.lock"),
    ],
)
def test_names_of_files_raise_doubts(tmp_path, change, words, files):
    root = clam(tmp_path)
    change(root)
    (doubt,) = listing(root)
    assert words in str(doubt)
    assert " ".join(doubt.files) == files


def rewrite(name: str, rows: np.ndarray, coords=None, attributes=None):
    def change(root: Path) -> None:
        values = {"target_magnification": 20} if attributes is None else attributes
        write_h5(root / "h5_files" / name, rows, grid(len(rows)) if coords is None else coords, attributes=values)

    return change


ZERO_ROWS = features(12, 0)
ZERO_ROWS[6:] = 0


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (rewrite("s0.h5", ZERO_ROWS), "1 of 6 files hold rows of zeros"),
        (rewrite("s0.h5", np.tile(features(1, 0), (12, 1))), "1 of 6 files hold the same features in every row"),
        (rewrite("s0.h5", features(13, 1)), "2 of 6 files hold the same features as the file of another slide"),
        (
            rewrite("s0.h5", np.tile(features(12, 0), (2, 1)), np.tile(grid(12), (2, 1))),
            "coordinates repeat within 1 of 6 files: 12 patches lie where another patch lies",
        ),
        (
            rewrite("s0.h5", np.repeat(features(12, 0), 2, axis=0), np.repeat(grid(12), 2, axis=0)),
            "coordinates repeat within 1 of 6 files",
        ),
        (
            rewrite("s0.h5", features(12, 0), attributes={"target_magnification": 40}),
            "target_magnification is 20 in 5, 40",
        ),
        (rewrite("s0.h5", features(12, 0), attributes={}), "target_magnification is 20 in 5, absent in 1 files"),
        (
            rewrite("s0.h5", features(12, 0).astype(np.float16)),
            "type of the values is float32 in 5, float16 in 1 files",
        ),
    ],
)
def test_contents_of_files_raise_doubts(tmp_path, change, words):
    root = clam(tmp_path, pt=False)
    change(root)
    (doubt,) = survey(root).doubts
    assert words in doubt.text
    assert not any(f"s{slide}" in str(doubt) for slide in range(6)), "the sentence of a doubt names no slide"
    assert set(doubt.files) == ({"s0.h5", "s1.h5"} if "another slide" in words else {"s0.h5"})


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (features(12, 0), None),
        (features(12, 0).astype(np.float16), None),
        (features(7, 0), "1 of 6 slides differ (1 in the number of patches)"),
        (features(12, 0)[:, :8], "1 of 6 slides differ (1 in the width)"),
        (features(12, 55), "1 of 6 slides differ (1 in the values)"),
    ],
)
def test_the_two_files_of_a_slide_are_compared(tmp_path, rows, words):
    root = clam(tmp_path)
    write_pt(root / "pt_files" / "s0.pt", torch.from_numpy(rows))
    doubts = survey(root).doubts
    assert [(words in doubt.text, doubt.files) for doubt in doubts] == ([] if words is None else [(True, ("s0.h5",))])


def test_a_second_file_that_is_damaged_or_imprecise_raises_no_doubt(tmp_path):
    root = clam(tmp_path)
    (root / "pt_files" / "s0.pt").write_bytes(b"")
    write_pt(root / "pt_files" / "s1.pt", torch.from_numpy(features(13, 1)).bfloat16())
    assert survey(root).doubts == []


@pytest.mark.parametrize(
    ("folder", "attributes", "words"),
    [
        ("20x_256px_0px_overlap", {"target_magnification": 20, "patch_size": 256}, None),
        ("20x_256px_0px_overlap", {"target_magnification": "20"}, None),
        ("20x_256px_0px_overlap", {}, None),
        ("any_name", {"target_magnification": 10}, None),
        (
            "20x_256px_0px_overlap",
            {"target_magnification": 10},
            "target_magnification is 10 in the files, 20 in the name",
        ),
        ("20x_512px_0px_overlap", {"patch_size": 256}, "patch_size is 256 in the files, 512 in the name of the folder"),
    ],
)
def test_the_name_of_a_trident_folder_is_compared(tmp_path, folder, attributes, words):
    path = f"{folder}/features_uni_v1"
    write_h5(tmp_path / path / "a.h5", features(9, 0), grid(9), attributes=attributes)
    doubts = survey(tmp_path, path).doubts
    assert [(words in doubt.text, doubt.files) for doubt in doubts] == ([] if words is None else [(True, ("a.h5",))])


@pytest.mark.parametrize(("number", "doubtful"), [(9, False), (30, True)])
def test_the_number_of_coordinates_is_compared(tmp_path, number, doubtful):
    write_h5(tmp_path / "20x_256px_0px_overlap/features_uni_v1/a.h5", features(9, 0), grid(9))
    write_h5(tmp_path / "20x_256px_0px_overlap/patches/a_patches.h5", grid(number), name="coords")
    doubts = survey(tmp_path).doubts
    found = [("1 of 1 files hold fewer patches than the folder `patches`" in d.text, d.files) for d in doubts]
    assert found == [(True, ("a.h5",))] * doubtful


def test_copies_are_found_among_other_formats_too(tmp_path):
    for name in ("a", "b", "c"):
        write_npy(tmp_path / f"{name}.npy", features(9, len(name) if name != "c" else 7))
    (doubt,) = survey(tmp_path).doubts
    assert "2 of 3 files hold the same features" in doubt.text
