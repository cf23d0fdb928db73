"""Folders of features: STAMP's layout, magnifications and patch sizes in names, and folders without features."""

from pathlib import Path

import numpy as np
import pytest
import torch
from fixtures.patch_files import WIDTH, grid, refusal, values, write_h5, write_npy, write_pt

from memamba_core.data.features.layouts import find_patch_files


def touch(path: Path, *names: str) -> Path:
    for name in names:
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(b"x")
    return path


def found(path: Path, encoder: str = "uni_v1", magnification: float | None = None) -> dict[str, str]:
    files = find_patch_files(path, encoder, magnification).files
    return {name: str(file.relative_to(path)) for name, file in files.items()}


@pytest.mark.parametrize("name", ["a.h5", "a.H5", "a.hdf5", "a.HDF5", "a.pt", "a.PT", "a.npy", "a.NPZ", "a.svs.h5"])
def test_extensions_are_known_in_any_case(tmp_path, name):
    assert found(touch(tmp_path, name, "notes.txt", ".hidden.h5")) == {"a": name}


@pytest.mark.parametrize("name", ["uni2", "uni2-1a2b3c4d", "UNI2-1a2b3c4d"])
def test_the_folder_of_stamp_is_read_with_the_folders_in_it(tmp_path, name):
    touch(tmp_path, f"{name}/a.h5", f"{name}/gdc-1/b.h5", f"{name}/gdc-1/b.jpg", f"{name}/x/y/c.h5", "ctranspath/a.h5")
    wanted = {"a": f"{name}/a.h5", "b": f"{name}/gdc-1/b.h5", "c": f"{name}/x/y/c.h5"}
    assert found(tmp_path, "uni2") == wanted
    assert set(found(tmp_path / name, "uni2")) in (set(wanted), {"a"})


def test_a_trident_folder_named_like_the_encoder_is_no_stamp_folder(tmp_path):
    inner = "uni_v1/20x_256px_0px_overlap"
    touch(tmp_path, f"{inner}/features_uni_v1/a.h5", f"{inner}/patches/a_patches.h5")
    assert found(tmp_path / "uni_v1") == {"a": "20x_256px_0px_overlap/features_uni_v1/a.h5"}


def test_two_folders_of_stamp_need_a_choice(tmp_path):
    touch(tmp_path, "uni2-1a2b3c4d/a.h5", "uni2-5a6b7c8d/a.h5")
    message = refusal(find_patch_files, tmp_path, "uni2", None)
    assert "several folders of uni2: uni2-1a2b3c4d, uni2-5a6b7c8d" in message
    assert "data.features.path" in message


def test_a_folder_of_slide_vectors_is_found_by_its_encoder(tmp_path):
    touch(tmp_path, "20x_512px_0px_overlap/slide_features_titan/a.h5", "20x_512px_0px_overlap/features_conch_v15/a.h5")
    assert found(tmp_path, "titan", 20) == {"a": "20x_512px_0px_overlap/slide_features_titan/a.h5"}
    touch(tmp_path, "20x_512px_0px_overlap/features_titan/a.h5")
    assert found(tmp_path, "titan", 20) == {"a": "20x_512px_0px_overlap/features_titan/a.h5"}


@pytest.mark.parametrize(
    ("path", "words"),
    [
        (".", ("no folder of uni_v1 at 20x", "found 10x_256px_0px_overlap/features_uni_v1")),
        ("10x_256px_0px_overlap", ("says 10x", "says 20", "No folder of uni_v1 at 20x")),
        ("10x_256px_0px_overlap/features_uni_v1", ("says 10x", "data.features.magnification says 20")),
    ],
)
def test_a_folder_of_another_magnification_is_refused(tmp_path, path, words):
    touch(tmp_path, "10x_256px_0px_overlap/features_uni_v1/a.h5")
    message = refusal(find_patch_files, tmp_path / path, "uni_v1", 20)
    for word in (*words, "data.features.magnification"):
        assert word in message
    assert set(found(tmp_path / path, magnification=10)) == {"a"}
    assert set(found(tmp_path / path)) == {"a"}


@pytest.mark.parametrize(
    ("folders", "magnification", "words", "absent"),
    [
        (("20x_256px_0px", "20x_512px_0px"), 20, ("patch size 256px and 512px", "point data.features.path"), "magnif"),
        (("20x_256px_0px", "20x_256px_128px"), 20, ("overlap 0px and 128px",), "data.features.magnification"),
        (("20x_256px_0px", "10x_256px_0px"), None, ("magnification 10x and 20x", "set data.features.magnific"), "size"),
        (("20x_256px_0px", "10x_512px_0px"), None, ("magnification", "patch size"), "overlap 0px and"),
    ],
)
def test_folders_that_differ_say_in_what(tmp_path, folders, magnification, words, absent):
    for folder in folders:
        touch(tmp_path, f"{folder}_overlap/features_uni_v1/a.h5")
    message = refusal(find_patch_files, tmp_path, "uni_v1", magnification)
    for word in ("several folders of uni_v1", *words):
        assert word in message
    assert absent not in message.replace(str(tmp_path), "").partition("differ in")[2]


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ((), ("it is empty", "data.features.path")),
        (("a.svs", "b.SVS", "c.ndpi"), ("whole-slide images, not features (2 .svs, 1 .ndpi)", "Extract features")),
        (("a.h5.part", "b.h5.tmp"), ("unfinished copies (1 .part, 1 .tmp)", "Wait")),
        (("features.zip",), ("archives (1 .zip)", "Unpack")),
        (("a.pkl",), ("pickles", "can run code")),
        (("patches/a.h5", "masks/a.jpg"), ("masks, patches", "no features")),
        (("h5_files/a.h5.part", "pt_files/x.txt"), ("unfinished copies",)),
        (("h5_files/x.txt", "pt_files/x.txt"), ("has CLAM's folders", "no .h5 or .pt file in them")),
        (("one/a.h5", "two/b.h5"), ("it holds the folders one, two",)),
    ],
)
def test_a_folder_without_features_says_what_it_holds(tmp_path, names, words):
    message = refusal(find_patch_files, touch(tmp_path, *names), "uni_v1", None)
    for word in (str(tmp_path), *words):
        assert word in message or word == "masks, patches"
    assert "patches" in message or "patches/a.h5" not in names


def test_a_folder_behind_a_broken_link_is_named(tmp_path):
    (tmp_path / "share").symlink_to("/mnt/share")
    assert "is a link to /mnt/share, which is not there. Mount" in refusal(
        find_patch_files, tmp_path / "share", "u", None
    )
    message = refusal(find_patch_files, tmp_path / "share" / "features", "u", None)
    assert f"{tmp_path / 'share'} is a link to /mnt/share, which is not there. Mount" in message
    (tmp_path / "clam").mkdir()
    (tmp_path / "clam" / "h5_files").symlink_to("/mnt/share/h5_files")
    assert "is a link to /mnt/share/h5_files, which is not" in refusal(find_patch_files, tmp_path / "clam", "u", None)
    assert "is a file; expected a folder" in refusal(find_patch_files, touch(tmp_path, "a.txt") / "a.txt", "u", None)


def test_the_second_file_of_a_slide_is_kept_apart(tmp_path):
    write_h5(tmp_path / "h5_files" / "a.h5", values(2), grid(2))
    write_pt(tmp_path / "pt_files" / "a.pt", torch.ones(2, WIDTH))
    write_npy(tmp_path / "pt_files" / "b.npy", np.ones((2, WIDTH), "f4"))
    result = find_patch_files(tmp_path, "uni_v1", None)
    assert {name: path.name for name, path in result.files.items()} == {"a": "a.h5", "b": "b.npy"}
    assert {name: path.name for name, path in result.second.items()} == {"a": "a.pt"}
    write_npy(tmp_path / "pt_files" / "b.npz", np.ones((2, WIDTH), "f4"))
    assert "same slide as b.npy. Keep one" in refusal(find_patch_files, tmp_path, "uni_v1", None)
