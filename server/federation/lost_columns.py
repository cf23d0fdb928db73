"""Warnings about molecular columns that the federation loses, by the site that lacks them.

The model reads the columns that every site with molecular data has. One site with damaged names takes its columns from
all sites, so the result names the site and the columns.
"""

import logging
import re
from collections import Counter
from collections.abc import Collection, Iterable, Sequence

from memamba_core.wire.protocol import FactsReply

from .exchange import quote

__all__ = ["find_lost_columns"]

_log = logging.getLogger(__name__)
_NAMED = 10
_SEPARATORS = re.compile(r"[\s._\-]+")
_ENSEMBL_VERSION = re.compile(r"^(ens[a-z]*\d+)\.\d+")


def find_lost_columns(facts: Sequence[FactsReply]) -> list[str]:
    """Return and log one warning for each site because of which molecular columns are left out.

    A column that at least half of the sites with molecular data have is lost at the sites that lack it. A column of
    fewer sites is one too many at the sites that have it; it is counted there, with the columns that it resembles.

    Args:
        facts: declarations of the sites; a site without molecular columns loses none.
    """
    with_genes = sorted((f for f in facts if f.gene_columns), key=lambda f: f.site)
    held = Counter(column for fact in with_genes for column in set(fact.gene_columns))
    usual = {column for column, sites in held.items() if 2 * sites >= len(with_genes)}
    num_lost = sum(sites < len(with_genes) for sites in held.values())
    warnings = []
    for fact in with_genes:
        own = set(fact.gene_columns)
        absent = usual - own
        others = {column for column in own if held[column] < len(with_genes)}  # that some other site lacks
        surplus = others - usual
        if not absent and not surplus:
            continue
        parts = []
        if absent:
            parts.append(f"{_count(absent)} that other sites have {_verb(absent, 'is', 'are')} absent: {_list(absent)}")
        if surplus:
            only = "only this site has" if all(held[c] == 1 for c in surplus) else "few sites have"
            parts.append(f"{_count(surplus)} {only}: {_list(surplus)}")
        if pairs := _pairs(absent, others):
            shown = ", ".join(f"{quote(got)} for {quote(wanted)}" for got, wanted in pairs[:_NAMED])
            more = ", ..." if len(pairs) > _NAMED else ""
            parts.append(f"{len(pairs)} {_verb(pairs, 'differs', 'differ')} in case or separators only: {shown}{more}")
        warnings.append(
            f"{fact.site}: {'; '.join(parts)}. {num_lost} of {len(held)} molecular columns are not at every site and "
            "are left out of the model. Compare the column names of the sites' molecular tables"
        )
    for warning in warnings:
        _log.warning(warning)
    return warnings


def _pairs(absent: Collection[str], own: Collection[str]) -> list[tuple[str, str]]:
    """Pair a site's columns with the absent columns that they equal without case, separators and ENSEMBL versions."""
    wanted: dict[str, list[str]] = {}
    for column in absent:
        wanted.setdefault(_key(column), []).append(column)
    pairs = ((column, wanted.get(_key(column), ())) for column in sorted(own))
    return [(column, names[0]) for column, names in pairs if len(names) == 1]


def _key(column: str) -> str:
    return _SEPARATORS.sub("", _ENSEMBL_VERSION.sub(r"\1", column.casefold()))


def _count(columns: Collection[str]) -> str:
    return f"{len(columns)} molecular column{'s' * (len(columns) != 1)}"


def _verb(columns: Collection[object], one: str, many: str) -> str:
    return one if len(columns) == 1 else many


def _list(columns: Iterable[str]) -> str:
    """List the first names; a name is a text of a site, and is quoted."""
    names = sorted(columns)
    return ", ".join(map(quote, names[:_NAMED])) + (", ..." if len(names) > _NAMED else "")
