"""Bring identifiers into one form, from any table, file name or command line."""

import unicodedata

import pandas as pd

__all__ = ["canonical", "canonical_column"]


def canonical(text: str) -> str:
    """Return an identifier in the one form in which identifiers are compared.

    Differences that no screen shows are removed, and no others: accents are composed (Unicode NFC; a Mac writes file
    names decomposed), every kind of blank is a plain blank, characters without width (byte order marks, zero-width
    blanks, soft hyphens, marks of direction) are dropped, and so are blanks at both ends. Case, leading zeros and
    punctuation stay.
    """
    if text.isascii():
        return text.strip()
    kinds = ((character, unicodedata.category(character)) for character in text)
    visible = "".join(" " if kind[0] == "Z" else character for character, kind in kinds if kind != "Cf")
    return unicodedata.normalize("NFC", visible).strip()


def canonical_column(cells: "pd.Series[str]") -> "pd.Series[str]":
    """Return a column of identifiers in their one form, for columns that tables are joined by."""
    return cells.map(canonical)
