"""Feature files of CLAM, TRIDENT, STAMP and others: where features lie in a file, and what it says of their origin."""

import sys
import types

import h5py
import numpy as np
import pytest
import torch
from fixtures.patch_files import WIDTH, grid, refusal, values, write_h5, write_pt

from memamba_core.data.features.patch_files import hdf5, inspect_patch_file, read_patches, sample_patch_file

STAMP = {"stamp_version": "2.4.0", "extractor": "uni2", "unit": "um", "tile_size_um": 256.0, "tile_size_px": 224}


def write(path, datasets, attributes=None):
    with h5py.File(path, "w") as file:
        for name, data in datasets.items():
            file[name] = data
        file.attrs.update(attributes or {})
    return path


@pytest.mark.parametrize("attributes", [STAMP, {"extractor": "uni2", "unit": "um", "tile_size": 256.0}])
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_stamp_files_are_read_in_the_order_of_the_slide(tmp_path, attributes, dtype):
    shuffle = np.random.default_rng(1).permutation(12)
    coords = (grid(12) * (258.867 / 256)).astype(np.float32)
    coords[:, 1] += np.random.default_rng(2).uniform(-1e-3, 1e-3, 12).astype(np.float32)  # rounding within a row
    path = write(
        tmp_path / "a.h5", {"feats": values(12, 1)[shuffle].astype(dtype), "coords": coords[shuffle]}, attributes
    )
    patches, read_coords = read_patches(path)
    np.testing.assert_array_equal(patches, values(12, 1))
    np.testing.assert_array_equal(read_coords, np.rint(coords))
    facts = inspect_patch_file(path)
    assert (facts.encoder, facts.dataset, dict(facts.origin)["unit"]) == ("uni2", "feats", "um")
    assert not facts.slide_level


def test_whole_numbers_stored_as_floats_are_coordinates(tmp_path):
    path = write(tmp_path / "a.h5", {"features": values(6)[::-1], "coords": grid(6)[::-1].astype(np.float64)})
    np.testing.assert_array_equal(read_patches(path)[1], grid(6))


def test_an_extractor_of_another_program_is_no_encoder(tmp_path):
    path = write(tmp_path / "a.h5", {"features": values(2)}, {"extractor": "extract_features.py"})
    assert inspect_patch_file(path).encoder is None


@pytest.mark.parametrize(
    ("attribute", "magnification"),
    [(20, 20), ("20", 20), ("20x", 20), (b"40X", 40), (np.array([2.5]), 2.5), ("unknown", None), ([20, 40], None)],
)
def test_a_magnification_is_read_however_it_is_written(tmp_path, attribute, magnification):
    path = write_h5(tmp_path / "a.h5", values(2), grid(2), attributes={"target_magnification": attribute})
    assert inspect_patch_file(path).magnification == magnification


# Groups and names -----------------------------------------------------------------------------


@pytest.mark.parametrize("coords", ["coords", "20x/coords"])
def test_features_in_one_group_are_read(tmp_path, coords):
    path = write(tmp_path / "a.h5", {"20x/features": values(6, 1)[::-1], coords: grid(6)[::-1]})
    patches, read_coords = read_patches(path)
    np.testing.assert_array_equal(patches, values(6, 1))
    np.testing.assert_array_equal(read_coords, grid(6))
    assert inspect_patch_file(path).dataset == "20x/features"
    assert inspect_patch_file(path).magnification == 20


def test_features_in_several_groups_need_a_name(tmp_path):
    path = write(tmp_path / "a.h5", {"10x/feats": values(3, 5), "20x/feats": values(6, 1), "coords": grid(6)})
    message = refusal(read_patches, path)
    assert "features in 2 places, 10x/feats, 20x/feats. Name the one to use in data.features.dataset" in message
    np.testing.assert_array_equal(read_patches(path, dataset="20x/feats")[0], values(6, 1))
    message = refusal(read_patches, path, dataset="40x/feats")
    assert all(word in message for word in ("no dataset '40x/feats'", "data.features.dataset", "10x/feats, 20x/feats"))


def test_features_of_another_name_are_named(tmp_path):
    path = write(tmp_path / "a.h5", {"embeddings": values(3, 1), "coords": grid(3)})
    message = refusal(read_patches, path)
    assert "embeddings (float32 [3, 4])" in message
    assert "data.features.dataset" in message
    np.testing.assert_array_equal(read_patches(path, dataset="embeddings")[0], values(3, 1))
    message = refusal(read_patches, write(tmp_path / "b.h5", {"coords": grid(3)}))
    assert "holds coords; expected a dataset `features`" in message
    assert "not to the folder of patch coordinates" in message
    path = write_pt(tmp_path / "c.pt", {"x": torch.ones(3, 4)})
    assert "if x is meant, name it in data.features.dataset" in refusal(read_patches, path)
    assert read_patches(path, dataset="x")[0].shape == (3, 4)
    np.savez(tmp_path / "d.npz", values(3, 1))
    np.testing.assert_array_equal(read_patches(tmp_path / "d.npz")[0], values(3, 1))
    np.savez(tmp_path / "e.npz", a=values(3, 1), b=values(3, 2))
    assert "a or b is meant" in refusal(read_patches, tmp_path / "e.npz")


def test_a_file_of_many_slides_names_none_of_them(tmp_path):
    path = write(tmp_path / "titan-slide-1a2b3c4d.h5", {f"patient-{i}": values(1, 1)[0] for i in range(3)})
    message = refusal(inspect_patch_file, path)
    assert "holds 3 vectors, one for each slide" in message
    assert "patient-1" not in message


def test_links_in_a_file_are_not_followed(tmp_path):
    write(tmp_path / "other.h5", {"features": values(2)})
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["group/elsewhere"] = h5py.ExternalLink("other.h5", "/features")
        file["group/again"] = file["group"]
    assert "expected a dataset `features`" in refusal(inspect_patch_file, tmp_path / "a.h5")


# One vector per slide -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "num_coords", "attributes", "slide_level"),
    [
        ((WIDTH,), 7, {}, True),  # TRIDENT
        ((WIDTH,), None, {}, True),
        ((1, WIDTH), 7, {}, True),
        ((1, WIDTH), None, {"feat_type": "slide"}, True),  # STAMP
        ((1, WIDTH), None, {}, False),
        ((1, WIDTH), 1, {}, False),  # a slide with one patch
        ((WIDTH,), 1, {}, False),
        ((1, 1, WIDTH), 1, {}, False),
    ],
)
def test_a_vector_of_the_whole_slide_is_one_row(tmp_path, shape, num_coords, attributes, slide_level):
    datasets = {"features": np.arange(1, WIDTH + 1, dtype="f4").reshape(shape)}
    if num_coords is not None:
        datasets["coords"] = grid(num_coords).squeeze()
    path = write(tmp_path / "a.h5", datasets, attributes)
    patches, coords = read_patches(path)
    np.testing.assert_array_equal(patches, [[1, 2, 3, 4]])
    assert (coords is None) == (slide_level or num_coords is None)
    assert inspect_patch_file(path).slide_level == slide_level


# Filters --------------------------------------------------------------------------------------


def write_filtered(path):
    """Write a file whose features need a filter that is not installed."""
    with h5py.File(path, "w") as file:
        create = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        create.set_chunk((4, WIDTH))
        create.set_filter(32015, h5py.h5z.FLAG_OPTIONAL, ())
        h5py.h5d.create(file.id, b"features", h5py.h5t.IEEE_F32LE, h5py.h5s.create_simple((4, WIDTH)), create)
    return path


def test_a_filter_that_is_not_installed_is_named_by_every_function(tmp_path, monkeypatch):
    monkeypatch.setattr(hdf5.importlib.util, "find_spec", lambda name: None)
    path = write_filtered(tmp_path / "a.h5")
    for function in (inspect_patch_file, read_patches, sample_patch_file):
        message = refusal(function, path)
        assert "needs HDF5 filter 32015 (zstd), which is not installed" in message
        assert "pip install hdf5plugin" in message
        assert "gzip" in message


def test_installed_plugins_are_loaded(tmp_path, monkeypatch):
    available: list[int] = []
    monkeypatch.setattr(hdf5.importlib.util, "find_spec", lambda name: types.SimpleNamespace())
    monkeypatch.setitem(sys.modules, "hdf5plugin", types.ModuleType("hdf5plugin"))
    monkeypatch.setattr(hdf5.h5py.h5z, "filter_avail", lambda code: available.append(code) or len(available) > 1)
    assert inspect_patch_file(write_filtered(tmp_path / "a.h5")).num_patches == 4
