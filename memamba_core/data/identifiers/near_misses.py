"""Near misses: identifiers of two lists that differ, and would be equal without leading zeros, ignoring case, or so.

Nothing is matched by such a rule, because two patients may be meant. The near misses are counted, for the people of the
site: identifiers that nearly match look like missing data.
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from memamba_core.data.identifiers.spelling_rules import LAST_RULES, RULES, TWIN_RULES

__all__ = ["NearMiss", "advise", "count_twins", "describe_near_misses", "describe_shapes", "find_near_misses"]

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
    for rules in (RULES, LAST_RULES):
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
    for how, change in TWIN_RULES:
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
