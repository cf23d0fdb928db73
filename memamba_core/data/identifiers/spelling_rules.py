"""Rules under which two spellings of one identifier are equal: ignoring case, without leading zeros, and so on."""

import os
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from urllib.parse import unquote

from memamba_core.data.identifiers.canonical import canonical

__all__ = ["LAST_RULES", "RULES", "TWIN_RULES", "Pairs", "Rule"]

Pairs = dict[str, str]
"""Unknown identifier -> the missing one that it would match."""

_SEPARATORS = "[-_. /\u2010-\u2015\u2212]"
_NUMBER = re.compile(r"\d+(?:[.,]0+)?")
_BARCODE = re.compile(r"(TCGA-\w{2}-\w{4})-.+")
_UMLAUTS = str.maketrans({"ä": "ae", "ö": "oe", "ü": "ue", "Ä": "Ae", "Ö": "Oe", "Ü": "Ue", "ß": "ss"})
_OLD_ENCODINGS = ("cp1252", "latin-1", "cp437", "cp850", "mac-roman")


@dataclass(frozen=True)
class Rule:
    """One way in which identifiers may be spelled differently.

    Attributes:
        how: phrase that follows `would match`.
        remedy: what to do in the files, a sentence that begins small, without full stop.
        match: returns the pairs of unknown and missing identifiers that leave no choice.
    """

    how: str
    remedy: str
    match: Callable[[Collection[str], Collection[str]], Pairs]


def _same(*changes: Callable[[str], str | Iterable[str]]) -> Callable[..., Pairs]:
    """Return a rule that compares what is left of both identifiers after the changes, which are tried side by side.

    A change leaves one text of an identifier, or several.
    """

    def texts(name: str) -> set[str]:
        left = (change(name) for change in changes)
        return {text for one in left for text in ([one] if isinstance(one, str) else one) if text}

    def match(unknown: Collection[str], missing: Collection[str]) -> Pairs:
        wanted = defaultdict[str, set[str]](set)
        for name in missing:
            for text in texts(name):
                wanted[text].add(name)
        return _unique({name: set().union(*(wanted[t] for t in texts(name) if t in wanted)) for name in unknown})

    return match


def _part_of(cut: Callable[[str], list[str]], *, many: bool = False) -> Callable[..., Pairs]:
    """Return a rule that finds the one identifier in the other.

    Args:
        cut: lists the parts of an identifier, in the order in which they are tried.
        many: several unknown identifiers may hold one missing identifier.
    """

    def match(unknown: Collection[str], missing: Collection[str]) -> Pairs:
        found = defaultdict[str, set[str]](set)
        for name in unknown:
            found[name].update(next(([part] for part in cut(name) if part in missing), []))
        for name in missing:
            for part in next(([part] for part in cut(name) if part in unknown), []):
                found[part].add(name)
        return _unique(found, many=many)

    return match


def _unique(found: Mapping[str, Collection[str]], *, many: bool = False) -> Pairs:
    """Return the pairs that leave no choice; `many`: several unknown identifiers may share a missing one."""
    pairs = {name: next(iter(names)) for name, names in found.items() if len(names) == 1}
    owners = Counter(pairs.values())
    return pairs if many else {name: owner for name, owner in pairs.items() if owners[owner] == 1}


def _without_zeros(name: str) -> str:
    return re.sub(r"(?<!\d)0+(?=\d)", "", name)


def _as_number(name: str) -> str:
    return re.split("[.,]", name)[0].lstrip("0") or "0" if _NUMBER.fullmatch(name) else ""


def _number_alone(name: str) -> list[str]:
    match = re.fullmatch(r"[^\W\d_]+(0*(\d+))", name)
    return [match[1], match[2]] if match else []


def _without_separators(name: str) -> str:
    return re.sub(_SEPARATORS, "", name)


def _without_accents(name: str) -> str:
    return "".join(c for c in unicodedata.normalize("NFKD", name) if not unicodedata.combining(c))


def _decoded(name: str) -> list[str]:
    """Return the name as it may have been before a program read it in another encoding."""
    texts = [name, canonical(unquote(name))]
    for encoding in () if name.isascii() else _OLD_ENCODINGS:
        for change in (
            lambda text, codec=encoding: text.encode(codec).decode("utf-8"),
            lambda text, codec=encoding: os.fsencode(text).decode(codec),  # bytes of a file name that are no UTF-8
        ):
            with suppress(UnicodeError):
                texts.append(canonical(change(name)))
    return texts


def _barcode(name: str) -> list[str]:
    return [match[1]] if (match := _BARCODE.fullmatch(name)) else []


def _heads(name: str) -> list[str]:
    """Return what is left of a name after its last separator is cut, the second last, and so on."""
    return [name[: match.start()] for match in reversed(list(re.finditer(f"{_SEPARATORS}+", name))) if match.start()]


def _tails(name: str) -> list[str]:
    return [name[match.end() :] for match in re.finditer(f"{_SEPARATORS}+", name) if match.end() < len(name)]


_AS_TEXT = "export the column as text: a spreadsheet or a program took the identifiers for numbers"
RULES = (
    Rule("ignoring case", "write capital and small letters alike on both sides", _same(str.casefold)),
    Rule("without leading zeros", _AS_TEXT, _same(_without_zeros)),
    Rule("as numbers", _AS_TEXT, _same(_as_number)),
    Rule(
        "without letters before the number",
        "write the same identifiers on both sides: R puts an X before a number that becomes a name",
        _part_of(_number_alone),
    ),
    Rule(
        "without quotation marks",
        "take the quotation marks and equals signs out, which keep a spreadsheet from reading a number",
        _same(lambda name: canonical(re.sub("['\"=`\u2018\u2019\u201c\u201d]", "", name))),
    ),
    Rule(
        "ignoring separators",
        "write the same hyphens, underscores, dots and blanks on both sides",
        _same(_without_separators),
    ),
    Rule(
        "as the first 12 characters",
        "write the patient's barcode: a TCGA patient has 12 characters, longer barcodes name samples and slides",
        _part_of(_barcode, many=True),
    ),
    Rule(
        "without a suffix such as `-01`",
        "cut what follows the identifier, if it names a sample or a file of the same patient or slide",
        _part_of(_heads, many=True),
    ),
    Rule(
        "without a prefix",
        "cut what stands before the identifier, if it names no other patient or slide",
        _part_of(_tails),
    ),
    Rule(
        "ignoring accents",
        "write accents and umlauts alike on both sides",
        _same(_without_accents, lambda name: name.translate(_UMLAUTS)),
    ),
    Rule(
        "in another character encoding",
        "save the table in UTF-8, or restore the names of files that an archive program or a copy changed",
        _same(_decoded),
    ),
)
"""From the mildest change to the strongest: of two rules that explain as much, the first is reported."""
LAST_RULES = (
    Rule(
        "ignoring case, separators and leading zeros",
        "write the identifiers alike on both sides",
        _same(lambda name: _without_separators(_without_zeros(_without_accents(name).casefold()))),
    ),
)
"""For identifiers that no single change explains."""
TWIN_RULES: tuple[tuple[str, Callable[[str], str]], ...] = (
    ("ignoring case", str.casefold),
    ("without leading zeros", _without_zeros),
    ("as numbers", _as_number),
    ("as the first 12 characters", lambda name: next(iter(_barcode(name)), "")),
)
"""Rules under which two different patients are hardly equal."""
