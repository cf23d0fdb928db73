"""One file of patch features: every form is read, everything else is refused by name, and no code in it is run."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from fixtures.patch_files import WIDTH, grid, refusal, values, write_h5, write_npy, write_pt

from memamba_core.data.features.patch_files import inspect_patch_file, read_patches


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("leading", [False, True])
@pytest.mark.parametrize("coords_dtype", [np.int32, np.int64, None])
@pytest.mark.parametrize("kind", ["h5", "gzip", "pt", "pt_old", "npy", "npz"])
def test_patches_come_row_by_row_in_every_form(tmp_path, dtype, leading, coords_dtype, kind):
    shuffle = np.random.default_rng(1).permutation(10)
    if coords_dtype is None or kind == "npy":  # an array alone has no coordinates
        shuffle = np.arange(10)
    features = values(10)[shuffle].astype(dtype)
    coords = None if coords_dtype is None else grid(10)[shuffle].astype(coords_dtype)
    if leading:
        features, coords = features[None], None if coords is None else coords[None]
    if kind in ("h5", "gzip"):
        storage = {"chunks": (*features.shape[:-2], 3, WIDTH), "compression": "gzip"} if kind == "gzip" else {}
        path = write_h5(tmp_path / "s.h5", features, coords, **storage)
    elif kind == "npy":
        path, coords = write_npy(tmp_path / "s.NPY", features), None
    elif kind == "npz":
        path = tmp_path / "s.npz"
        np.savez_compressed(path, features=features, **({} if coords is None else {"coords": coords}))
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
    monkeypatch.setattr("memamba_core.data.features.patch_files.reading.BLOCK_ROWS", 7)
    order = np.random.default_rng(0).permutation(100)
    path = write_h5(tmp_path / "s.h5", values(100)[order], grid(100)[order])
    np.testing.assert_array_equal(read_patches(path)[0], values(100))


@pytest.mark.parametrize(
    ("features", "coords", "name", "words"),
    [
        (np.zeros((2, 3, 4), "f4"), None, "features", ("shape [2, 3, 4]", "expected [patches, width]")),
        (np.zeros(70_000, "f4"), None, "features", ("shape [70000]", "Extract")),
        (np.zeros((2, 4), "i4"), None, "features", ("int32", "expected float16")),
        (
            np.zeros((2, 4), "f4"),
            np.zeros((3, 2), "i4"),
            "features",
            ("coords", "[3, 2]", "[2, 2]", "Extract"),
        ),
        (np.ones((2, 4), "f4"), np.full((2, 2), 0.5, "f4"), "features", ("coords", "float32", "integers", "unit='um'")),
        (np.ones((2, 4), "f4"), np.full((2, 2), np.inf, "f4"), "features", ("coords", "not finite")),
        (np.zeros((2, 4), "f4"), None, "features", ("nothing but zeros", "Extract this slide again")),
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
    assert "was removed after the folder was read" in refusal(read_patches, tmp_path / "absent.h5")
    assert "was removed after the folder was read" in refusal(read_patches, tmp_path / "absent.pt")


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
    assert "holds a list; expected a tensor" in refusal(read_patches, write_pt(tmp_path / "a.pt", [1, 2]))
    assert "holds labels; expected" in refusal(read_patches, write_pt(tmp_path / "b.pt", {"labels": torch.zeros(1)}))
    assert "holds a NoneType; expected a tensor" in refusal(read_patches, write_pt(tmp_path / "n.pt", None))
    path = write_pt(tmp_path / "c.pt", {"features": torch.zeros(1, 2), "coords": [1]})
    assert "holds a list; expected a tensor" in refusal(read_patches, path)
