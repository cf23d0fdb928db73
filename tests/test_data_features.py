import pickle
import tracemalloc
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from memamba_core.config.site import FeatureFolder
from memamba_core.data.features import PatchFolder, open_features
from memamba_core.data.patch_files import inspect_patch_file, read_patches
from memamba_core.data.records import FeatureStore, PatientRecord
from memamba_core.data.row_choice import choose_rows
from memamba_core.data.slide_names import slide_name
from memamba_core.errors import DataError

WIDTH = 4


def patient(*slides: str) -> PatientRecord:
    return PatientRecord("p", 1.0, True, slides=slides)


def grid(num: int) -> np.ndarray:
    """Coordinates in slide order, three patches a row."""
    return np.stack([np.arange(num) % 3 * 256, np.arange(num) // 3 * 256], axis=1)


def values(num: int, first: int = 0) -> np.ndarray:
    """Row i of the slide is filled with first + i."""
    return np.repeat(np.arange(first, first + num, dtype=np.float32)[:, None], WIDTH, axis=1)


def write_h5(path: Path, features, coords=None, *, attributes=None, name="features", **storage) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        dataset = file.create_dataset(name, data=features, **storage)
        if coords is not None:
            file["coords"] = coords
        for key, value in (attributes or {}).items():
            (file["coords"] if key == "target_magnification" else dataset).attrs[key] = value
    return path


def write_pt(path: Path, content) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(content, path)
    return path


def open_folder(root: Path, path: str = ".", encoder: str = "uni_v1", **settings) -> PatchFolder:
    store = open_features(FeatureFolder(path=path, encoder=encoder, **settings), root)
    assert isinstance(store, PatchFolder)
    return store


def refusal(function, *arguments, **settings) -> str:
    with pytest.raises(DataError) as raised:
        function(*arguments, **settings)
    return str(raised.value)


# Names ----------------------------------------------------------------------------------------


@given(st.text(st.characters(exclude_categories=["C", "Z"], exclude_characters="/\\"), min_size=1))
def test_a_slide_has_one_name_with_and_without_folder_and_extension(text):
    name = slide_name(text)
    assert slide_name(name) == name
    for extension in (".svs", ".h5", ".pt", ".TIFF", ".svs.h5"):
        assert slide_name(f"/data/slides/{name}{extension}") == name
        assert slide_name(f" C:\\slides\\{name}{extension} ") == name


def test_only_known_extensions_are_cut():
    name = "TCGA-2F-A9KO-01Z-00-DX1.195576CF-B739-4BD9-B15B-4A70AE287D3E"
    assert slide_name(name) == name
    assert slide_name(f"{name}.svs") == name
    assert slide_name("case.v2.final") == "case.v2.final"
    assert slide_name(".svs") == ".svs"
    assert slide_name("  ") == ""


# Choosing rows --------------------------------------------------------------------------------


@given(st.integers(0, 10**9), st.integers(1, 300), st.booleans())
def test_a_cap_keeps_exactly_so_many_rows_in_order(num_rows, cap, random):
    if num_rows <= cap:
        num_rows = num_rows % 300
    if random:
        num_rows %= 10_000
    rows = choose_rows(num_rows, cap, np.random.default_rng(0) if random else None)
    assert len(rows) == min(cap, num_rows)
    assert rows.dtype == np.int64
    assert (np.diff(rows) > 0).all()
    assert not len(rows) or (rows[0] >= 0 and rows[-1] < num_rows)


@given(st.lists(st.integers(0, 400), min_size=1, max_size=5), st.integers(1, 200))
def test_evenly_spaced_rows_give_each_slide_its_share(sizes, cap):
    rows, ends = choose_rows(sum(sizes), cap, None), np.cumsum(sizes)
    kept = np.diff(np.searchsorted(rows, np.concatenate([[0], ends])))
    share = np.array(sizes) * min(1.0, cap / max(sum(sizes), 1))
    assert (np.abs(kept - share) <= 1).all()


def test_a_cap_of_zero_is_refused():
    with pytest.raises(ValueError, match="max_patches is 0; wanted at least 1, or None"):
        choose_rows(5, 0, None)


# One file -------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("leading", [False, True])
@pytest.mark.parametrize("coords_dtype", [np.int32, np.int64, None])
@pytest.mark.parametrize("kind", ["h5", "gzip", "pt", "pt_old"])
def test_patches_come_row_by_row_in_every_form(tmp_path, dtype, leading, coords_dtype, kind):
    shuffle = np.random.default_rng(1).permutation(10)
    if coords_dtype is None:
        shuffle = np.arange(10)
    features = values(10)[shuffle].astype(dtype)
    coords = None if coords_dtype is None else grid(10)[shuffle].astype(coords_dtype)
    if leading:
        features, coords = features[None], None if coords is None else coords[None]
    if kind in ("h5", "gzip"):
        storage = {"chunks": (*features.shape[:-2], 3, WIDTH), "compression": "gzip"} if kind == "gzip" else {}
        path = write_h5(tmp_path / "s.h5", features, coords, **storage)
    else:
        content = {"feats": torch.from_numpy(features)}
        content |= {} if coords is None else {"coords": torch.from_numpy(coords)}
        path = tmp_path / "s.pt"
        torch.save(content, path, _use_new_zipfile_serialization=kind == "pt")
    assert (inspect_patch_file(path).num_patches, inspect_patch_file(path).width) == (10, WIDTH)
    for positions in (None, np.array([0, 1, 2, 5, 9]), np.array([3])):
        patches, read_coords = read_patches(path, positions)
        rows = np.arange(10) if positions is None else positions
        assert patches.dtype == np.float32
        np.testing.assert_array_equal(patches, values(10)[rows])
        if coords is None:
            assert read_coords is None
        else:
            assert read_coords.dtype == np.int64
            np.testing.assert_array_equal(read_coords, grid(10)[rows])


def test_a_bare_tensor_and_bfloat16_are_read(tmp_path):
    path = write_pt(tmp_path / "s.pt", torch.from_numpy(values(3)).bfloat16())
    np.testing.assert_array_equal(read_patches(path)[0], values(3))


@pytest.mark.parametrize("shape", [(0,), (0, 0), (0, WIDTH), (1, 0, WIDTH)])
def test_an_empty_slide_has_no_patches(tmp_path, shape):
    path = write_h5(tmp_path / "s.h5", np.zeros(shape, np.float32), np.zeros((0,)))
    assert inspect_patch_file(path).num_patches == 0
    assert read_patches(path)[0].shape[0] == 0


def test_long_files_are_read_in_blocks_of_any_length(tmp_path, monkeypatch):
    monkeypatch.setattr("memamba_core.data.patch_files.BLOCK_ROWS", 7)
    order = np.random.default_rng(0).permutation(100)
    path = write_h5(tmp_path / "s.h5", values(100)[order], grid(100)[order])
    np.testing.assert_array_equal(read_patches(path)[0], values(100))


@pytest.mark.parametrize(
    ("features", "coords", "name", "words"),
    [
        (np.zeros((2, 3, 4), "f4"), None, "features", ("shape [2, 3, 4]", "wanted [patches, width]")),
        (np.zeros(5, "f4"), None, "features", ("shape [5]", "Extract")),
        (np.zeros((2, 4), "i4"), None, "features", ("int32", "wanted float16")),
        (
            np.zeros((2, 4), "f4"),
            np.zeros((3, 2), "i4"),
            "features",
            ("coords", "[3, 2]", "[2, 2]", "Extract"),
        ),
        (np.zeros((2, 4), "f4"), np.zeros((2, 2), "f4"), "features", ("coords", "float32", "integers")),
        (
            np.zeros((2, 4), "f4"),
            grid(2),
            "patches",
            ("holds coords, patches", "`features`", "data.features.path"),
        ),
        (
            np.full((2, 4), np.nan, "f4"),
            None,
            "features",
            ("not finite", "Extract this slide again", "remove"),
        ),
        (np.full((2, 4), 1e300), None, "features", ("not finite", "row 1")),
    ],
)
def test_files_that_hold_something_else_are_refused(tmp_path, features, coords, name, words):
    path = write_h5(tmp_path / "s.h5", features, coords, name=name)
    message = refusal(read_patches, path)
    for word in (str(path), *words):
        assert word in message


def test_damaged_files_are_refused(tmp_path):
    for path in (
        write_h5(tmp_path / "whole.h5", values(1000), grid(1000)),
        write_pt(tmp_path / "whole.pt", torch.zeros(1000, 4)),
    ):
        content = path.read_bytes()
        for size in (0, 10, len(content) // 2, len(content) - 100):
            cut = path.with_stem(f"cut{size}")
            cut.write_bytes(content[:size])
            message = refusal(read_patches, cut)
            assert str(cut) in message
            assert "again" in message
    overwritten = write_h5(tmp_path / "o.h5", values(1000), compression="gzip")
    content = bytearray(overwritten.read_bytes())
    content[len(content) // 2 :] = bytes(len(content) - len(content) // 2)
    overwritten.write_bytes(content)
    assert "truncated or damaged" in refusal(read_patches, overwritten)
    assert "is gone. Start again" in refusal(read_patches, tmp_path / "absent.h5")
    assert "is gone. Start again" in refusal(read_patches, tmp_path / "absent.pt")


class Trap:
    """Leaves a file behind if it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_a_pickle_dressed_up_as_tensors_is_not_run(tmp_path):
    sprung = tmp_path / "sprung"
    plain = tmp_path / "plain.pt"
    plain.write_bytes(pickle.dumps(Trap(sprung)))
    for path in (plain, write_pt(tmp_path / "zip.pt", {"features": Trap(sprung)})):
        message = refusal(read_patches, path)
        assert str(path) in message
        assert "run code and is not opened" in message
        assert "Save it again with torch.save" in message
    assert not sprung.exists()


def test_a_pt_of_something_else_says_what_was_wanted(tmp_path):
    assert "holds a list where a tensor was wanted" in refusal(read_patches, write_pt(tmp_path / "a.pt", [1, 2]))
    assert "holds labels; wanted" in refusal(read_patches, write_pt(tmp_path / "b.pt", {"labels": torch.zeros(1)}))
    assert "holds a NoneType where" in refusal(read_patches, write_pt(tmp_path / "n.pt", None))
    path = write_pt(tmp_path / "c.pt", {"features": torch.zeros(1, 2), "coords": [1]})
    assert "holds a list where a tensor was wanted" in refusal(read_patches, path)


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


@settings(max_examples=30)
@given(
    sizes=st.lists(st.integers(0, 40), min_size=1, max_size=4),
    cap=st.integers(1, 60),
    seed=st.one_of(st.none(), st.integers(0, 9)),
)
def test_a_capped_bag_is_a_part_of_the_whole_one(tmp_path_factory, sizes, cap, seed):
    folder = tmp_path_factory.mktemp("bag")
    write_h5(folder / "z.h5", values(1))
    for index, size in enumerate(sizes):
        write_h5(folder / f"{index}.h5", values(size, first=100 * index), grid(size))
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
    num, width = 20_000, 256
    with h5py.File(path, "w") as file:
        file.create_dataset("features", (num, width), "f2", chunks=(500, width))[:] = 1
        file["coords"] = grid(num)
    store = open_folder(tmp_path)
    tracemalloc.start()
    bag = store.load(patient("big"), max_patches=500)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert bag.patches_PF.shape == (500, width)
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
