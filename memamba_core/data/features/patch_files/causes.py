"""Say why a feature file cannot be read: a broken link, an empty file, a web page, a missing permission, a cut copy."""

import os
import re
from pathlib import Path

from memamba_core.errors import DataError

__all__ = ["explain_failure"]

_AGAIN = "Copy or extract this slide again, or remove the file: a slide without a file is left out"
_HEAD_BYTES = 4096
_CUT = re.compile(r"truncated file: eof = (\d+).*stored_eof = (\d+)")
_LINK_TEXT = re.compile(rb"\s*(\.{0,2}[/\\]|[A-Za-z]:\\)[^\x00-\x1f]+\s*")
_SIGNATURES = (  # begin of a file, what the file is, and what to do; compared in lower case
    (b"version https://git-lfs", "is a pointer of Git LFS, not the file itself", "Run `git lfs pull` in its folder"),
    (b"/annex/objects/", "is a pointer of git-annex, not the file itself", "Run `git annex get` in its folder"),
    (b"<!doctype html", "is a web page, which a failed download leaves behind", "Download the file again"),
    (b"<html", "is a web page, which a failed download leaves behind", "Download the file again"),
    (b"<?xml", "is an XML text, which a failed download leaves behind", "Download the file again"),
    (b'{"', "is a JSON text, which a failed download leaves behind", "Download the file again"),
    (b"\x1f\x8b", "is compressed with gzip as a whole", "Unpack it with `gunzip`"),
    (b"\x28\xb5\x2f\xfd", "is compressed with zstd as a whole", "Unpack it with `unzstd`"),
    (b"ii*\x00", "is an image (TIFF), not features", "Extract the features of the slide"),
    (b"mm\x00*", "is an image (TIFF), not features", "Extract the features of the slide"),
)
_FORMATS = (
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file", (".h5", ".hdf5")),
    (b"\x93NUMPY", "a NumPy array", (".npy",)),
    (b"PK\x03\x04", "a zip file (of torch or NumPy)", (".pt", ".npz")),
)


def explain_failure(path: Path, error: BaseException) -> DataError:
    """Return the error for a file that cannot be opened or read, with the cause that the file itself shows.

    Args:
        path: the file.
        error: as the reading library raised it.
    """
    return DataError(f"{path}: {_from_file_system(path) or _from_content(path, error) or _unknown(error)}")


def _from_file_system(path: Path) -> str | None:
    """Return a cause that lies outside the file."""
    try:
        if path.is_symlink() and not path.exists():
            return (
                f"is a link to {path.readlink()}, which is not there. Mount the share that holds it, or correct the "
                "link"
            )
        if not path.exists():
            return "the file was removed after the folder was read. Restore it, or start again"
        if path.is_dir():
            return "is a folder with the name of a feature file. Rename or remove it"
        with path.open("rb"):
            return None
    except PermissionError:
        return f"may not be read by user {os.getuid()}. Give this user the right to read the file and its folder"
    except OSError as failure:
        return f"cannot be opened ({failure.strerror}). Check the disk or the share that holds it"


def _from_content(path: Path, error: BaseException) -> str | None:
    """Return a cause that the first bytes of the file, or the library's error, show."""
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    if not head:
        return f"is empty (0 bytes): a copy or an extraction was broken off. {_AGAIN}"
    if not any(head):
        return f"begins with {len(head):,} zero bytes: the copy of it was broken off. {_AGAIN}"
    start = head.lstrip().lower()
    for signature, what, remedy in _SIGNATURES:
        if start.startswith(signature):
            return f"{what}. {remedy}, or remove the file: a slide without a file is left out"
    if _LINK_TEXT.fullmatch(head):
        target = head.decode(errors="replace").strip()
        return (
            f"is a link to {target}, turned into a text by a copy; the file itself is not there. Mount the share that "
            "holds it, and make the link again or copy the file"
        )
    for signature, what, suffixes in _FORMATS:
        if head.startswith(signature) and path.suffix.lower() not in suffixes:
            return f"is {what} with the extension {path.suffix}. Rename it to {' or '.join(suffixes)}"
    if cut := _CUT.search(str(error)):
        return f"is cut off: {int(cut[1]):,} of {int(cut[2]):,} bytes are there. {_AGAIN}"
    if "already open for write" in str(error) or "consistency flags" in str(error):
        return (
            "is still being written, or its program was killed while writing. Wait for the extraction to finish, or "
            "extract this slide again"
        )
    if isinstance(error, MemoryError):
        return f"claims more data than fit into memory ({path.stat().st_size:,} bytes are on disk). {_AGAIN}"
    return None


def _unknown(error: BaseException) -> str:
    return f"cannot be read ({type(error).__name__}); it is truncated or damaged. {_AGAIN}"
