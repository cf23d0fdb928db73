"""Bytes of a text table: unpacked if they are compressed, refused by name if they are of another kind."""

import gzip
import io
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from memamba_core.errors import DataError

__all__ = ["read_unpacked"]

FOREIGN = {
    b"PAR1": "a parquet file. Give it a name that ends in .parquet",
    b"\xd0\xcf\x11\xe0": "an Excel workbook of the old kind (.xls). Save it as .xlsx or CSV",
    b"%PDF": "a PDF file. Export the table as CSV",
    b"\x89HDF": "an HDF5 file. Export the table as CSV",
    b"RDX": "an R data file. Write the table with write.csv",
    b"X\n\x00\x00": "an R data file (saveRDS). Write the table with write.csv",
    b"BZh": "a bzip2 file. Unpack it, or pack it with gzip",
    b"\xfd7zXZ": "an xz file. Unpack it, or pack it with gzip",
    b"\x28\xb5\x2f\xfd": "a zstd file. Unpack it, or pack it with gzip",
    b"7z\xbc\xaf": "a 7-zip file. Unpack it, or pack it with gzip",
    b"version https://git-lfs": "a Git LFS pointer and not the table itself. Fetch the file with `git lfs pull`",
    b"<!doctype html": "a web page, perhaps of a failed download or login. Download the table again",
    b"<html": "a web page, perhaps of a failed download or login. Download the table again",
    b"<?xml": "an XML file. Save the table as .xlsx or CSV",
    b"{\\rtf": "a text document (RTF). Save the table as CSV",
}
"""First bytes (lower case for the texts among them) of files that are taken for CSV by their name alone."""


def read_unpacked(path: Path) -> bytes:
    """Return the bytes of a text file, of a gzip file, or of the one member of a zip file.

    The content decides, and not the name: browsers and mail programs unpack files without renaming them.

    Raises:
        DataError: the file cannot be read, is damaged, or is of another kind; a zip file holds several files or is
            encrypted.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or type(error).__name__})") from None
    if data.startswith(b"\x1f\x8b"):
        try:
            data = gzip.decompress(data)
        except (OSError, EOFError, zlib.error) as error:
            raise DataError(
                f"{path}: its gzip stream is cut off or damaged ({type(error).__name__}). Copy or export the file again"
            ) from None
    elif data.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        data = _only_member(path, data)
    start = data[:64].lstrip().lower()
    for mark, kind in FOREIGN.items():
        if data.startswith(mark) or start.startswith(mark):
            raise DataError(f"{path}: is {kind}")
    return data


def _only_member(path: Path, data: bytes) -> bytes:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            names = [info.filename for info in archive.infolist() if not info.is_dir()]
            if "[Content_Types].xml" in names:
                raise DataError(
                    f"{path}: is an Excel workbook or another Office file. Give it a name that ends in .xlsx"
                )
            # macOS adds a hidden twin of each file.
            members = [
                name for name in names if not name.startswith("__MACOSX/") and PurePosixPath(name).name[0] != "."
            ]
            if len(members) != 1:
                raise DataError(
                    f"{path}: holds {len(members)} files; expected one table. Unpack it and name the table in site.yaml"
                )
            member = archive.getinfo(members[0])
            if member.flag_bits & 1:
                raise DataError(f"{path}: is encrypted. Unpack it and name the table in site.yaml")
            return archive.read(member)
    except (zipfile.BadZipFile, OSError, EOFError, zlib.error, NotImplementedError, IndexError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(
            f"{path}: its zip archive is cut off or damaged ({type(error).__name__}). Copy or export the file again"
        ) from None
