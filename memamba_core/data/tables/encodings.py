"""Text tables in the encodings that spreadsheets write, as UTF-8 with one kind of line end."""

import codecs
from pathlib import Path

from memamba_core.errors import DataError

__all__ = ["to_utf8"]

MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
"""Byte order marks; that of UTF-32 begins like that of UTF-16."""
WINDOWS = "UTF-8 and Windows-1252"
_SAMPLE = 4096


def to_utf8(path: Path, data: bytes) -> tuple[bytes, str]:
    r"""Return the text as UTF-8 without byte order mark and with `\n` as line end, and the encoding it had.

    Bytes that are not UTF-8 are read as Windows-1252, which contains the letters of latin-1. The rule is applied byte
    by byte, so that the answer does not depend on the place of a letter, and a file that two programs wrote keeps the
    letters of both.

    Raises:
        DataError: the text is cut off, has bytes of no known encoding, or holds NUL bytes.
    """
    mark, encoding = next(((m, name) for m, name in MARKS if data.startswith(m)), (b"", ""))
    data = data[len(mark) :]
    if encoding.startswith("utf-8"):
        encoding = ""
    encoding = encoding or _guess_utf16(data)
    if encoding:
        try:
            data = data.decode(encoding).encode()
        except UnicodeError:
            raise DataError(f"{path}: is cut off or damaged: not valid {encoding.upper()}. Export it again") from None
        data = data.removeprefix(codecs.BOM_UTF8)
    elif not data.isascii():
        data, encoding = _from_windows(path, data)
    if b"\0" in data:
        line = data[: data.index(b"\0")].count(b"\n") + 1
        raise DataError(f"{path}: holds NUL bytes, the first in line {line}: it is damaged or no text. Export it again")
    if b"\r" in data:
        data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    return data, encoding or "utf-8"


def _guess_utf16(data: bytes) -> str:
    """Return the kind of UTF-16 of a text without a mark, or '': nearly every second byte of western text is NUL."""
    sample = data[:_SAMPLE]
    for offset, name in ((1, "utf-16-le"), (0, "utf-16-be")):
        half = sample[offset::2]
        if len(half) > 1 and half.count(0) > 0.7 * len(half) and not sample[1 - offset :: 2].count(0):
            return name
    return ""


def _from_windows(path: Path, data: bytes) -> tuple[bytes, str]:
    try:
        data.decode()
    except UnicodeDecodeError as error:
        try:
            return data.decode(errors=_HANDLER).encode(), WINDOWS
        except UnicodeDecodeError:
            line = data[: error.start].count(b"\n") + 1
            raise DataError(
                f"{path}: holds bytes that are neither UTF-8 nor Windows-1252 from line {line} on. Export it in UTF-8"
            ) from None
    return data, ""


def _as_windows(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeDecodeError)
    return error.object[error.start : error.end].decode("cp1252"), error.end


_HANDLER = "memamba.windows-1252"
codecs.register_error(_HANDLER, _as_windows)
