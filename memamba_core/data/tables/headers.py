"""Names of columns in messages: without a header, or with patients in columns, they are data of patients."""

import re
from collections.abc import Sequence

__all__ = ["describe_column", "holds_numbers", "printable"]

_NUMBER = re.compile(r"[+-]?\d+([.,]\d+)?")
_MOLECULAR = re.compile(r".+_(rnaseq|cnv|mut)")


def holds_numbers(columns: Sequence[str]) -> int:
    """Return how many names are numbers, as in a row of data; 0 if they only count the columns (0, 1, 2, ...)."""
    numbers = [name for name in columns if _NUMBER.fullmatch(name)]
    counted = [str(int(numbers[0]) + step) for step in range(len(numbers))] if numbers and numbers[0].isdigit() else []
    return 0 if numbers == counted and len(numbers) > 1 else len(numbers)


def printable(columns: Sequence[str]) -> list[str]:
    """Return the names that a message may show, in their order.

    None of a header that holds numbers. If two names with digits have one pattern of letters and digits, names with
    digits may be identifiers of patients, and none of them is shown.
    """
    if holds_numbers(columns):
        return []
    numbered = [name for name in columns if re.search(r"\d", name)]
    alike = len({_pattern(name) for name in numbered}) < len(numbered)
    return [name for name in columns if not alike or name not in numbered]


def describe_column(columns: Sequence[str], name: str) -> str:
    """Return a column in words: its name, or its places (from 1) if the name may be data of a patient."""
    if not re.search(r"\d", name) or _MOLECULAR.fullmatch(name):
        return f"column {name!r}"
    places = [str(place) for place, column in enumerate(columns, 1) if column == name]
    return f"the name of columns {', '.join(places)}"


def _pattern(name: str) -> str:
    return re.sub(r"[^\W\d_]+", "a", re.sub(r"\d+", "0", name))
