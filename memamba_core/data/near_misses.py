"""Near misses: identifiers of two lists that differ, and would be equal without leading zeros, ignoring case, or so.

Nothing is matched by such a rule, because two patients may be meant. The near misses are counted, for the people of the
site: identifiers that nearly match look like missing data.
"""

import os
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from urllib.parse import unquote

from memamba_core.data.identifiers import canonical

__all__ = ["NearMiss", "advise", "count_twins", "describe_near_misses", "describe_shapes", "find_near_misses"]

Pairs = dict[str, str]
"""Unknown identifier -> the missing one that it would match."""

_SEPARATORS = "[-_. /\u2010-\u2015\u2212]"
_NUMBER = re.compile(r"\d+(?:[.,]0+)?")
_BARCODE = re.compile(r"(TCGA-\w{2}-\w{4})-.+")
_UMLAUTS = str.maketrans({"ä": "ae", "ö": "oe", "ü": "ue", "Ä": "Ae", "Ö": "Oe", "Ü": "Ue", "ß": "ss"})
_OLD_ENCODINGS = ("cp1252", "latin-1", "cp437", "cp850", "mac-roman")
_SHAPE_LENGTH = 40


@dataclass(frozen=True)
class NearMiss:
    """One rule, and what it would match.

    Attributes:
        how: the rule, a phrase that follows `would match`.
        remedy: what to do in the files, a sentence that begins small, without full stop.
        unknown: identifiers of the one list that would match an identifier that the other list misses.
        missing: identifiers of the other list that they would match; fewer where several name one patient.
    """

    how: str
    remedy: str
    unknown: int
    missing: int


def find_near_misses(unknown: Collection[str], missing: Collection[str]) -> tuple[NearMiss, ...]:
    """Count identifiers that would match under a rule, the rule that explains most of them first.

    An identifier counts only if the rule leaves no choice: it leads to one missing identifier. No two identifiers may
    lead to the same one, unless the rule cuts samples down to patients. Each identifier counts under one rule.

    Args:
        unknown: identifiers of a table, or names of files, that match nothing; in their one form (`canonical`).
        missing: identifiers of patients, or names of slides, for which the table or folder has nothing.
    """
    left, wanted = set(unknown), set(missing)
    found: list[NearMiss] = []
    for rules in (_RULES, _LAST_RULES):
        while left and wanted:
            pairs_of = [(rule, rule.match(left, wanted)) for rule in rules]
            rule, pairs = max(pairs_of, key=lambda item: len(item[1]))
            if not pairs:
                break
            found.append(NearMiss(rule.how, rule.remedy, len(pairs), len(set(pairs.values()))))
            left -= pairs.keys()
            wanted -= set(pairs.values())
    return tuple(found)


def count_twins(names: Collection[str]) -> tuple[tuple[str, int, int], ...]:
    """Count identifiers of one list that would be equal in another spelling: one patient may stand there twice.

    Returns:
        For each rule that makes identifiers equal: its phrase, their number, and the number that would remain.
    """
    found, left = [], set(names)
    for how, change in _TWIN_RULES:
        equal = defaultdict[str, list[str]](list)
        for name in left:
            equal[change(name) or name].append(name)
        twins = [group for group in equal.values() if len(group) > 1]
        if twins:
            found.append((how, sum(map(len, twins)), len(twins)))
        left = left.difference(*twins)
    return tuple(found)


def describe_near_misses(near: Sequence[NearMiss], one: str = "patient", would: str = "would") -> str:
    """Return the counts as a clause, `24 would without leading zeros and 3 ignoring case`; '' without any."""
    parts = []
    for index, miss in enumerate(near):
        would = "" if index else f"{would} "
        fewer = f" ({miss.missing} {one}{'s' * (miss.missing != 1)})" if miss.missing < miss.unknown else ""
        parts.append(f"{miss.unknown} {would}{miss.how}{fewer}")
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


def advise(near: Sequence[NearMiss]) -> str:
    """Return the remedy of the rule that explains most, a sentence that begins small, without full stop."""
    return near[0].remedy


def describe_shapes(one: Collection[str], where_one: str, other: Collection[str], where_other: str) -> str:
    """Return a clause on how the identifiers of two lists look, without showing any; '' where it would say nothing.

    A digit is shown as 0, a capital as A, any other letter as a: `identifiers look like AAA-AA-0000 in clinical.csv and
    like 00 in genomics.csv`.
    """
    first, second = _shape(one), _shape(other)
    if not first or not second or first == second:
        return ""
    return f"identifiers look like {first} in {where_one} and like {second} in {where_other}"


def _shape(names: Collection[str]) -> str:
    """Return the shape of at least half of the names, or ''."""
    shapes = Counter("".join(map(_shape_of_character, name)) for name in names)
    if not shapes:
        return ""
    shape, count = min(shapes.items(), key=lambda item: (-item[1], item[0]))
    return f"`{shape[:_SHAPE_LENGTH]}`" if 2 * count >= len(names) else ""


def _shape_of_character(character: str) -> str:
    if character.isdigit():
        return "0"
    if character.isalpha():
        return "A" if character.isupper() else "a"
    return character


# The rules ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Rule:
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
    return str(int(re.split("[.,]", name)[0])) if _NUMBER.fullmatch(name) else ""


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
_RULES = (
    _Rule("ignoring case", "write capital and small letters alike on both sides", _same(str.casefold)),
    _Rule("without leading zeros", _AS_TEXT, _same(_without_zeros)),
    _Rule("as numbers", _AS_TEXT, _same(_as_number)),
    _Rule(
        "without quotation marks",
        "take the quotation marks and equals signs out, which keep a spreadsheet from reading a number",
        _same(lambda name: canonical(re.sub("['\"=`\u2018\u2019\u201c\u201d]", "", name))),
    ),
    _Rule(
        "ignoring separators",
        "write the same hyphens, underscores, dots and blanks on both sides",
        _same(_without_separators),
    ),
    _Rule(
        "as the first 12 characters",
        "write the patient's barcode: a TCGA patient has 12 characters, longer barcodes name samples and slides",
        _part_of(_barcode, many=True),
    ),
    _Rule(
        "without a suffix such as `-01`",
        "cut what follows the identifier, if it names a sample or a file of the same patient or slide",
        _part_of(_heads, many=True),
    ),
    _Rule(
        "without a prefix",
        "cut what stands before the identifier, if it names no other patient or slide",
        _part_of(_tails),
    ),
    _Rule(
        "ignoring accents",
        "write accents and umlauts alike on both sides",
        _same(_without_accents, lambda name: name.translate(_UMLAUTS)),
    ),
    _Rule(
        "in another character encoding",
        "save the table in UTF-8, or restore the names of files that an archive program or a copy changed",
        _same(_decoded),
    ),
)
"""From the mildest change to the strongest: of two rules that explain as much, the first is reported."""
_LAST_RULES = (
    _Rule(
        "ignoring case, separators and leading zeros",
        "write the identifiers alike on both sides",
        _same(lambda name: _without_separators(_without_zeros(_without_accents(name).casefold()))),
    ),
)
"""For identifiers that no single change explains."""
_TWIN_RULES: tuple[tuple[str, Callable[[str], str]], ...] = (
    ("ignoring case", str.casefold),
    ("without leading zeros", _without_zeros),
    ("as numbers", _as_number),
    ("as the first 12 characters", lambda name: next(iter(_barcode(name)), "")),
)
"""Rules under which two different patients are hardly equal."""
