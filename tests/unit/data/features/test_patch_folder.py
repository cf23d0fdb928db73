"""Folders of patch features: their layouts, what they must agree on, and the bags that are read from them."""

import pickle
import tracemalloc
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from fixtures.patch_files import WIDTH, grid, refusal, values, write_h5, write_pt
from hypothesis import given, settings
from hypothesis import strategies as st

from memamba_core.config.site import FeatureFolder
from memamba_core.data.features.patch_folder import PatchFolder, open_features
from memamba_core.data.records import FeatureStore, PatientRecord


def patient(*slides: str) -> PatientRecord:
    return PatientRecord("p", 1.0, True, slides=slides)


def open_folder(root: Path, path: str = ".", encoder: str = "uni_v1", **settings) -> PatchFolder:
    store = open_features(FeatureFolder(path=path, encoder=encoder, **settings), root)
    assert isinstance(store, PatchFolder)
    return store


# Folders --------------------------------------------------------------------------------------


def test_clam_folders_are_recognised_and_h5_wins_over_pt(tmp_path):
    write_pt(tmp_path / "pt_files" / "a.pt", torch.zeros(2, WIDTH))
    write_pt(tmp_path / "pt_files" / "b.pt", torch.zeros(2, WIDTH))
    write_h5(tmp_path / "h5_files" / "a.h5", values(2), grid(2))
    store = open_folder(tmp_path)
    assert {name: path.suffix for name, path in store.files.items()} == {"a": ".h5", "b": ".pt"}
    assert isinstance(store, FeatureStore)
    assert (store.encoder, store.width, store.columns, store.families) == ("uni_v1", WIDTH, (), ())
    assert set(open_folder(tmp_path, "pt_files").files) == {"a", "b"}


@pytest.fixture
def trident(tmp_path) -> Path:
    """Two encoders, one of them at two magnifications, and what else TRIDENT writes."""
    for folder in ("20x_256px_0px_overlap/features_uni_v1", "10x_256px_0px_overlap/features_uni_v1"):
        write_h5(tmp_path / folder / "a.h5", values(2), grid(2))
    write_h5(tmp_path / "20x_256px_0px_overlap/features_conch_v15/a.h5", values(2), grid(2))
    write_h5(tmp_path / "20x_256px_0px_overlap/patches/a_patches.h5", grid(2), name="coords")
    write_h5(tmp_path / "20x_256px_0px_overlap/slide_features_titan/a.h5", values(1))
    (tmp_path / "20x_256px_0px_overlap/features_conch_v15/._a.h5").write_bytes(b"resource fork")
    return tmp_path


@pytest.mark.parametrize(
    ("path", "encoder", "magnification", "found"),
    [
        (".", "conch_v15", None, "20x_256px_0px_overlap/features_conch_v15"),
        (".", "UNI_v1", 20, "20x_256px_0px_overlap/features_uni_v1"),
        (".", "uni_v1", 10, "10x_256px_0px_overlap/features_uni_v1"),
        ("20x_256px_0px_overlap", "uni_v1", None, "20x_256px_0px_overlap/features_uni_v1"),
        ("10x_256px_0px_overlap/features_uni_v1", "my_uni", None, "10x_256px_0px_overlap/features_uni_v1"),
    ],
)
def test_trident_folders_are_recognised(trident, path, encoder, magnification, found):
    store = open_folder(trident, path, encoder, magnification=magnification)
    assert store.files == {"a": trident / found / "a.h5"}
    assert store.encoder == (encoder if magnification is None else f"{encoder}@{magnification}x")


def test_an_encoder_that_is_not_there_is_refused_with_those_that_are(trident):
    message = refusal(open_folder, trident, encoder="gigapath")
    for word in (str(trident), "no folder features_gigapath", "features_conch_v15", "data.features.encoder"):
        assert word in message
    message = refusal(open_folder, trident)
    for word in ("several folders of uni_v1", "10x_256px", "20x_256px", "data.features.magnification"):
        assert word in message


def test_folders_without_features_are_refused(tmp_path):
    assert "none: no such folder" in refusal(open_folder, tmp_path, "none")
    assert "data.features.path" in refusal(open_folder, tmp_path)
    (tmp_path / "clam" / "h5_files").mkdir(parents=True)
    assert "no .h5 or .pt file" in refusal(open_folder, tmp_path, "clam")
    write_h5(tmp_path / "one" / "a.h5", values(2))
    message = refusal(open_folder, tmp_path, "one/a.h5")
    assert "is a single file" in message
    assert message.endswith(f"data.features.path to {tmp_path / 'one'}")
    write_h5(tmp_path / "one" / "a.svs.h5", values(2))
    assert "same slide as a.h5. Keep one" in refusal(open_folder, tmp_path, "one")
    write_h5(tmp_path / "hollow" / "a.h5", np.zeros((0, 4), "f4"))
    assert "none of the 1 files holds a patch" in refusal(open_folder, tmp_path, "hollow")
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "a.h5").write_bytes(b"no")
    assert "a.h5: cannot be read (OSError)" in refusal(open_folder, tmp_path, "bad")


def test_the_width_comes_from_the_first_readable_slide_with_a_patch(tmp_path):
    (tmp_path / "a.h5").write_bytes(b"damaged")
    write_h5(tmp_path / "b.h5", np.zeros((0,), "f4"))
    write_h5(tmp_path / "c.h5", values(2))
    write_h5(tmp_path / "d.h5", np.zeros((2, 9), "f4"))
    store = open_folder(tmp_path)
    assert store.width == WIDTH
    message = refusal(store.load, patient("c", "d"))
    for word in (
        str(tmp_path / "d.h5"),
        "width 9",
        "4 in",
        str(tmp_path / "c.h5"),
        "extract all slides with one",
    ):
        assert word in message
    assert "a.h5: cannot be read" in refusal(store.load, patient("a"))
    assert store.load(patient("b")) is None
    assert store.load(patient("absent")) is None
    assert store.load(patient("b", "c")).patches_PF.shape == (2, WIDTH)


def test_trident_attributes_must_agree_with_the_declaration(tmp_path):
    attributes = {"encoder": "uni_v1", "target_magnification": "20"}
    write_h5(tmp_path / "a.h5", values(2), grid(2), attributes=attributes)
    write_h5(tmp_path / "b.h5", values(2), grid(2), attributes=attributes | {"encoder": np.bytes_(b"conch")})
    write_h5(tmp_path / "c.h5", values(2), grid(2), attributes=attributes | {"target_magnification": 40})
    store = open_folder(tmp_path, magnification=20)
    assert store.load(patient("a")) is not None
    message = refusal(store.load, patient("b"))
    assert all(word in message for word in ("b.h5", "'conch'", "'uni_v1'", "data.features.encoder"))
    message = refusal(store.load, patient("c"))
    assert all(word in message for word in ("c.h5", "40x", "says 20", "data.features.magnification"))
    assert "data.features.encoder" in refusal(open_folder, tmp_path, encoder="gigapath")


# Bags -----------------------------------------------------------------------------------------


def test_slides_are_concatenated_in_the_records_order(tmp_path):
    write_h5(tmp_path / "a.h5", values(5)[::-1], grid(5)[::-1])
    write_h5(tmp_path / "b.h5", values(3, first=100), grid(3).astype(np.int32))
    write_h5(tmp_path / "c.h5", values(2, first=200))
    store = pickle.loads(pickle.dumps(open_folder(tmp_path)))
    bag = store.load(patient("b", "absent", "a"))
    assert bag.patches_PF.dtype == torch.float32
    assert bag.patches_PF[:, 0].tolist() == [100, 101, 102, 0, 1, 2, 3, 4]
    np.testing.assert_array_equal(bag.coords_P2, np.concatenate([grid(3), grid(5)]))
    assert store.load(patient("c", "a")).coords_P2 is None
    assert store.has(patient("absent", "c"))
    assert not store.has(patient("absent"))
    assert not store.has(patient())


@settings(max_examples=12)
@given(
    sizes=st.lists(st.integers(0, 40), min_size=1, max_size=4),
    cap=st.integers(1, 60),
    seed=st.one_of(st.none(), st.integers(0, 9)),
)
def test_a_capped_bag_is_a_part_of_the_whole_one(tmp_path_factory, sizes, cap, seed):
    folder = tmp_path_factory.mktemp("bag")
    write_h5(folder / "z.h5", values(1))
    for index, size in enumerate(sizes):
        write_h5(folder / f"{index}.h5", values(size, first=100 * index + 1), grid(size))
    store, record = open_folder(folder), patient(*map(str, range(len(sizes))))
    whole = store.load(record)
    bag = store.load(record, cap, None if seed is None else np.random.default_rng(seed))
    if not sum(sizes):
        assert whole is None
        assert bag is None
        return
    order = whole.patches_PF[:, 0].tolist()
    kept = bag.patches_PF[:, 0].tolist()
    assert len(kept) == min(cap, sum(sizes))
    assert kept == sorted(kept)  # values grow in slide order
    assert set(kept) <= set(order)
    places = [order.index(value) for value in kept]
    assert torch.equal(bag.coords_P2, whole.coords_P2[places])


def test_a_cap_bounds_the_memory(tmp_path):
    path = tmp_path / "big.h5"
    num, width = 6_000, 256
    with h5py.File(path, "w") as file:
        file.create_dataset("features", (num, width), "f2", chunks=(500, width))[:] = 1
        file["coords"] = grid(num)
    store = open_folder(tmp_path)
    tracemalloc.start()
    bag = store.load(patient("big"), max_patches=150)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert bag.patches_PF.shape == (150, width)
    assert peak < num * width * 2 / 4  # a quarter of the file; coordinates are most of it


# Real files -----------------------------------------------------------------------------------


@pytest.mark.real_data
def test_real_bags_are_read(data_root):
    names = [p.stem for p in sorted((data_root / "bags" / "pathomicfusion_h5").iterdir())]
    cpc = open_folder(data_root, "bags/pathomicfusion_h5", "pathomicfusion_cpc", magnification=40)
    lite = open_folder(data_root, "bags/tcga_roi_efficientnetlite0_h5", "efficientnet_lite0_imagenet")
    assert (cpc.width, cpc.encoder, lite.width) == (1024, "pathomicfusion_cpc@40x", 1280)
    assert [len(cpc.load(patient(name)).patches_PF) for name in names] == [667, 711, 373]
    assert [len(lite.load(patient(f"{name}")).patches_PF) for name in names] == [64, 64, 64]
    coords = cpc.load(patient(names[0])).coords_P2
    assert (coords[1:, 1] >= coords[:-1, 1]).all()  # the file itself is not in this order
    capped = cpc.load(patient(*names), max_patches=100)
    assert capped.patches_PF.shape == (100, 1024)


@pytest.mark.real_data
def test_a_real_trident_file_contradicts_a_wrong_declaration(data_root):
    store = open_folder(data_root, "bags", "efficientnet_lite0_imagenet", magnification=20)
    assert store.load(patient("cmu1_small_region_efficientnetlite0")).patches_PF.shape == (41, 1280)
    message = refusal(open_folder, data_root, "bags", "uni_v1")
    assert all(word in message for word in ("efficientnet_lite0_imagenet", "uni_v1"))
    assert "20x" in refusal(open_folder, data_root, "bags", "efficientnet_lite0_imagenet", magnification=40)
