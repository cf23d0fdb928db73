"""Split a cell that lists several slides of a patient."""

import re
from collections.abc import Sequence

from memamba_core.data.identifiers.slide_names import slide_name

__all__ = ["is_ambiguous_list", "split_slides"]

_CERTAIN = re.compile(r"[;|\t\r\n]+")
"""Separators that no name of a slide holds."""
_BRACKETS = {"[": "]", "(": ")", "{": "}"}
_QUOTES = "'\""


def split_slides(cell: str) -> list[str]:
    """Return the slides that a cell lists, each as written.

    `;`, `|`, a tab and a line break always separate. If a cell holds none of them, a comma separates slides, unless the
    parts contradict (see `is_ambiguous_list`), and a blank separates slides if the parts look alike: all end in an
    extension of slides, or all begin alike and have one pattern of letters and digits. File names can hold commas and
    blanks; a `;` behind such a name says that the cell is one name. Brackets and quotes around a list, as Python writes
    it, are no part of a name.
    """
    text = cell.strip()
    if _is_bracketed(text):
        text = text[1:-1]
    if _CERTAIN.search(text):
        parts = _CERTAIN.split(text)
    elif "," in text:
        parts = text.split(",")
    else:
        blanks = text.split()
        parts = blanks if len(blanks) > 1 and _alike(blanks) else [text]
    return [_bare(part) for part in parts]


def is_ambiguous_list(cell: str) -> bool:
    """Return True if commas in a cell may belong to a name: a part is empty, holds a blank, or lacks an extension."""
    if "," not in cell or _CERTAIN.search(cell) or _is_bracketed(cell.strip()):
        return False
    parts = split_slides(cell)
    extended = [_has_extension(part) for part in parts]
    return not all(parts) or (not all(extended) and (any(extended) or any(" " in part for part in parts)))


def _is_bracketed(text: str) -> bool:
    """Return True for a list as Python writes it: `['a', 'b']`."""
    return bool(text) and text.endswith(_BRACKETS.get(text[0], " ")) and ("," in text or text[1:2] in tuple(_QUOTES))


def _bare(part: str) -> str:
    """Return a part without surrounding blanks and quotes."""
    text = part.strip()
    return text[1:-1].strip() if len(text) > 1 and text[0] == text[-1] and text[0] in _QUOTES else text


def _alike(parts: Sequence[str]) -> bool:
    """Return True if all parts look like whole names of slides."""
    if all(map(_has_extension, parts)):
        return True
    shapes = {re.sub(r"[0-9A-Za-z]", "x", part) for part in parts}
    one_is_a_name = bool(re.fullmatch(r"(?=.*[A-Za-z])(?=.*\d).{8,}", parts[0]))
    return len(shapes) == 1 and len({part[:4] for part in parts}) == 1 and one_is_a_name


def _has_extension(name: str) -> bool:
    return slide_name(name) != name.replace("\\", "/").rpartition("/")[2]
