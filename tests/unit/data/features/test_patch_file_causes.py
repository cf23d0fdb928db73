"""A feature file that cannot be read: the message names the cause in the file, and what to do about it."""

import os
import subprocess
import sys
import zipfile

import h5py
import numpy as np
import pytest
import torch
from fixtures.patch_files import grid, refusal, values, write_h5, write_npy, write_pt

from memamba_core.data.features.patch_files import inspect_patch_file, read_patches, sample_patch_file

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 4\n"
HTML = b"\n<!DOCTYPE html>\n<html><title>Sign in</title></html>"
TIFF = b"II*\x00" + bytes(100)


@pytest.mark.parametrize("suffix", [".h5", ".pt", ".npy", ".npz"])
@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", ("is empty (0 bytes)", "again")),
        (bytes(5000), ("zero bytes", "broken off", "again")),
        (LFS, ("a pointer of Git LFS", "git lfs pull")),
        (b"/annex/objects/SHA256E-s4--01.h5\n", ("a pointer of git-annex", "git annex get")),
        (HTML, ("is a web page", "Download the file again")),
        (b"<HTML>", ("is a web page",)),
        (b"<?xml version='1.0'?><Error><Code>AccessDenied", ("an XML text", "Download")),
        (b'{"error": "not found"}', ("a JSON text", "Download")),
        (b"\x1f\x8b\x08" + bytes(50), ("compressed with gzip", "gunzip")),
        (TIFF, ("is an image", "Extract the features")),
        (b"/mnt/share/features/a.h5", ("is a link to /mnt/share/features/a.h5", "not there", "Mount")),
        (b"../features/a b.h5\n", ("is a link to ../features/a b.h5", "Mount")),
        (b"Z:\\share\\a.h5", ("is a link to Z:\\share\\a.h5", "Mount")),
        (b"anything else", ("cannot be read", "truncated or damaged")),
    ],
)
def test_the_first_bytes_say_what_a_file_is(tmp_path, suffix, content, words):
    path = tmp_path / f"s{suffix}"
    path.write_bytes(content)
    message = refusal(inspect_patch_file, path)
    for word in (str(path), *words):
        assert word in message


def test_links_folders_and_permissions_are_named(tmp_path):
    (tmp_path / "link.h5").symlink_to("/mnt/share/link.h5")
    message = refusal(read_patches, tmp_path / "link.h5")
    assert "is a link to /mnt/share/link.h5, which is not there. Mount the share" in message
    (tmp_path / "loop.h5").symlink_to(tmp_path / "loop.h5")
    assert "loop.h5" in refusal(read_patches, tmp_path / "loop.h5")
    (tmp_path / "folder.pt").mkdir()
    assert "is a folder" in refusal(read_patches, tmp_path / "folder.pt")


@pytest.mark.parametrize("suffix", [".h5", ".pt", ".npy", ".npz"])
def test_a_file_of_another_user_is_named(tmp_path, monkeypatch, suffix):
    path = write_h5(tmp_path / f"s{suffix}", values(2))
    path.chmod(0)
    if os.getuid() == 0:  # root may read everything
        real = type(path).open

        def denied(self, *arguments, **settings):
            if self == path:
                raise PermissionError(13, "Permission denied")
            return real(self, *arguments, **settings)

        monkeypatch.setattr(type(path), "open", denied)
        monkeypatch.setattr(h5py, "File", raise_permission)
        monkeypatch.setattr(np, "load", raise_permission)
        monkeypatch.setattr(zipfile, "ZipFile", raise_permission)
    assert "may not be read by user" in refusal(read_patches, path)


def raise_permission(*_, **__):
    raise PermissionError(13, "Permission denied")


def test_a_file_of_another_format_is_named(tmp_path):
    write_pt(tmp_path / "a.pt", torch.ones(2, 4)).rename(tmp_path / "a.h5")
    assert "a zip file" in refusal(read_patches, tmp_path / "a.h5")
    assert "Rename it to .pt or .npz" in refusal(read_patches, tmp_path / "a.h5")
    write_h5(tmp_path / "b.h5", values(2)).rename(tmp_path / "b.pt")
    assert "is an HDF5 file with the extension .pt" in refusal(read_patches, tmp_path / "b.pt")
    write_npy(tmp_path / "c.npy", values(2)).rename(tmp_path / "c.npz")
    assert "is a NumPy array with the extension .npz" in refusal(read_patches, tmp_path / "c.npz")
    np.savez(tmp_path / "d.npz", features=values(2))
    (tmp_path / "d.npz").rename(tmp_path / "d.npy")
    assert "Rename it to .pt or .npz" in refusal(read_patches, tmp_path / "d.npy")


def test_a_cut_copy_says_how_much_is_there(tmp_path):
    path = write_h5(tmp_path / "a.h5", values(1000), grid(1000))
    size = path.stat().st_size
    path.write_bytes(path.read_bytes()[: size // 2])
    assert f"is cut off: {size // 2:,} of {size:,} bytes" in refusal(inspect_patch_file, path)


def test_a_file_whose_writer_was_killed_is_named(tmp_path):
    code = (
        "import h5py, os, sys\n"
        "f = h5py.File(sys.argv[1], 'w', libver='latest'); f['features'] = [[1.0]]; f.flush(); os._exit(1)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "a.h5")], check=False)
    message = refusal(inspect_patch_file, tmp_path / "a.h5")
    assert "still being written, or its program was killed" in message


def test_no_object_of_python_is_loaded(tmp_path):
    path = write_npy(tmp_path / "a.npy", np.array([{"a": 1}], object))
    assert "Python objects, which can run code" in refusal(read_patches, path)
    np.savez(tmp_path / "b.npz", features=np.array([{"a": 1}], object))
    assert "Python objects, which can run code" in refusal(read_patches, tmp_path / "b.npz")


def test_a_claim_of_more_than_the_file_holds_allocates_nothing(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("features", (10**12, 1024), "f4", chunks=(1, 1024))
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file.create_dataset("features", (10**7, 1024), "f4")
    write_pt(tmp_path / "c.pt", torch.ones(1, 4).expand(10**12, 4))
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000, 1024), }".ljust(117) + b"\n"
    (tmp_path / "d.npy").write_bytes(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header)
    with zipfile.ZipFile(tmp_path / "e.npz", "w") as archive:
        archive.write(tmp_path / "d.npy", "features.npy")
    for name, word in (
        ("a.h5", "claims"),
        ("b.h5", "claims"),
        ("c.pt", "repeats rows"),
        ("d.npy", "d.npy"),
        ("e.npz", "needs"),
    ):
        message = refusal(inspect_patch_file, tmp_path / name)
        assert word in message
        assert refusal(read_patches, tmp_path / name) == message


def test_blocks_that_were_never_written_are_found(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        features = file.create_dataset("features", (100, 4), "f4", chunks=(10, 4))
        features[:30] = 1
    assert "7 of 10 blocks of its features were never written" in refusal(sample_patch_file, tmp_path / "a.h5")


@pytest.mark.parametrize("content", [torch.ones(3, 4).to_sparse(), {"features": torch.ones(3, 4, device="meta")}])
def test_tensors_without_values_of_their_own_are_refused(tmp_path, content):
    assert "sparse or quantized" in refusal(read_patches, write_pt(tmp_path / "a.pt", content))
