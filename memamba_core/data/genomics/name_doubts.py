"""Doubts about the names of molecular columns: nearly molecular, changed by a program, or no genes at all."""

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Sequence

from memamba_core.data.doubt import Doubt
from memamba_core.data.genomics.names import (
    VERSIONED,
    count_columns,
    is_changed,
    is_clinical,
    is_date,
    list_names,
    looks_like_gene,
    molecular_name,
    plain_name,
)

__all__ = ["find_name_doubts"]

_COPY = re.compile(r"(?P<column>.+)\.\d{1,3}")  # pandas names the second `X` of a table `X.1`
_OTHER_SUFFIX = re.compile(
    r".+[\s_.-](rna|mrna|expr|expression|tpm|fpkm|rpkm|rsem|cna|cnvs|copy.?number|gistic|mutations?|mutated|muts|snv|vaf)",
    re.IGNORECASE,
)
_PREFIX = re.compile(r"(rna.?seq|mrna|cnv|cna|mut)[\s_.-].+", re.IGNORECASE)
_FEWEST_PREFIXED = 3  # `mut_count` and `cnv_burden` are summaries, not columns of genes
_DOTTED = re.compile(r"[A-Z][A-Z0-9]*\.[A-Z][A-Z0-9.]*")  # R writes HLA-A as HLA.A
_FEWEST_GENES = 20  # so many names like gene symbols are a table of genes, not a few clinical columns
_FEWEST_AFFIXED = 10
_BETWEEN = r"\s_.:|()\[\]\u2010-\u2015-"
_TAIL = re.compile(rf"(?P<gene>.+?)[{_BETWEEN}]+(?P<affix>[^{_BETWEEN}]+)[)\]]?")
_HEAD = re.compile(rf"(?P<affix>[^{_BETWEEN}]+)[{_BETWEEN}]+(?P<gene>.+)")
_LOST = re.compile(r"\d+([.,]\d+)?E\+?\d+|nan|na|n/a|none|null|\?|unnamed.*", re.IGNORECASE)
_WORD = re.compile(r"[^\W\d_A-Z]{6}")  # six small letters in a row: a symbol in lower case is shorter


def find_name_doubts(file: str, read: Sequence[str], ignored: Sequence[str]) -> Iterator[Doubt]:
    """Doubt columns of a molecular table that are nearly molecular, or whose symbols a program has changed.

    Args:
        file: name of the table.
        read: the columns that are read, `SYMBOL_rnaseq`, `SYMBOL_cnv` or `SYMBOL_mut`.
        ignored: the other columns, as the file names them.
    """
    symbols = [name.rpartition("_")[0] for name in read]
    yield from _unread(file, ignored, frozenset(symbols))
    yield from _copies(file, set(read), ignored)
    yield from _dates(file, symbols, ignored)
    yield from _odd_symbols(file, list(dict.fromkeys(symbols)))


def _unread(file: str, ignored: Sequence[str], symbols: Collection[str]) -> Iterator[Doubt]:
    prefixed = [name for name in ignored if _PREFIX.fullmatch(name) and not is_clinical(name)]
    near = [name for name in ignored if _OTHER_SUFFIX.fullmatch(name) and not is_clinical(name)]
    near += prefixed if len(prefixed) >= _FEWEST_PREFIXED else []
    near = list(dict.fromkeys(near + _affixed(ignored, symbols)))
    if len(near) > 1:  # Y_RNA is a gene
        yield Doubt(
            "molecular columns",
            f"{len(near)} columns of {file} look molecular and are not read: {list_names(near)}",
            "name them SYMBOL_rnaseq, SYMBOL_cnv or SYMBOL_mut if the model should read them",
        )
    bare = [name for name in ignored if looks_like_gene(name)]
    if len(bare) >= _FEWEST_GENES:
        yield Doubt(
            "molecular columns",
            f"{len(bare)} columns of {file} are named like genes without a suffix and are not read: {list_names(bare)}",
            "add the suffix _rnaseq, _cnv or _mut to their names, or set data.genomics.bare_columns to mut if they are "
            "mutations",
        )


def _affixed(ignored: Sequence[str], symbols: Collection[str]) -> list[str]:
    """Return columns of genes with an affix that at least ten columns share: `TP53_zscore`, `TP53 (TPM)`, `RNA:TP53`.

    Args:
        ignored: columns that are not read.
        symbols: symbols of the columns that are read.
    """
    sharing = defaultdict[str, list[str]](list)
    for name in ignored:
        if is_clinical(name) or looks_like_gene(name):
            continue
        for match in filter(None, (_TAIL.fullmatch(name), _HEAD.fullmatch(name))):
            gene, affix = match["gene"], match["affix"].lower()
            if not affix.isdigit() and (gene in symbols or molecular_name(gene) or looks_like_gene(gene)):
                sharing[f"{affix} {match.start('affix') == 0}"].append(name)
    return [name for names in sharing.values() if len(names) >= _FEWEST_AFFIXED for name in names]


def _copies(file: str, read: Collection[str], ignored: Sequence[str]) -> Iterator[Doubt]:
    copies = [c for c in ignored if (m := _COPY.fullmatch(c)) and molecular_name(m["column"]) is not None]
    symbols = {name.rpartition("_")[0] for name in read}
    for name in read:
        symbol, _, kind = name.rpartition("_")
        match = _COPY.fullmatch(symbol)
        if match and match["column"] in symbols and f"{match['column']}_{kind}" in read:
            copies.append(name)
    if copies:
        yield Doubt(
            "molecular columns",
            f"{count_columns(copies, file)} named like copies of another column: {list_names(copies)}",
            "a program numbers columns that have one name; keep one column per gene and kind, and remove the number",
        )


def _dates(file: str, symbols: Sequence[str], ignored: Sequence[str]) -> Iterator[Doubt]:
    numbers = sum(bool(re.fullmatch(r"\d+", symbol)) for symbol in symbols)
    entrez = 2 * numbers > len(symbols)  # a table of Entrez numbers has no symbols that became dates
    names = list(dict.fromkeys([*symbols, *ignored]))
    dates = [name for name in names if is_date(name, serial=not entrez)]
    if dates:
        yield Doubt(
            "gene symbols",
            f"{count_columns(dates, file)} named like dates: {list_names(dates, 6)}. A spreadsheet has turned "
            "gene symbols into dates: MARCH1 into 1-Mar, SEPT2 into 2-Sep, DEC1 into 1-Dec, or any into a number",
            "take the symbols from the table before the spreadsheet (today they are MARCHF1, SEPTIN2, DELEC1); until "
            "then no other site and no signature has these columns",
        )


def _odd_symbols(file: str, symbols: Sequence[str]) -> Iterator[Doubt]:
    check = "gene symbols"
    if lost := [s for s in symbols if _LOST.fullmatch(s)]:
        yield Doubt(
            check,
            f"{len(lost)} gene symbols of {file} are numbers that a program rounded, or marks of an unknown one: "
            f"{list_names(lost)}",
            "take the symbols from the source; a spreadsheet reads 2310009E13 as 2.31E+19",
        )
    words = [s for s in symbols if _WORD.search(s.replace("orf", "")) and s != "Metazoa_SRP" and not is_changed(s)]
    if words and 2 * len(words) <= len(symbols):
        yield Doubt(
            check,
            f"{len(words)} symbols of {file} are words rather than genes: {list_names(words)}",
            "list columns that are no genes in data.genomics.not_genes; the model would read them",
        )
    if versioned := [s for s in symbols if VERSIONED.fullmatch(s)]:
        yield Doubt(
            check,
            f"{len(versioned)} columns of {file} have an ENSEMBL identifier with a version: {list_names(versioned)}",
            "remove the version (.17), which differs between annotations, so that the columns of all sites match",
        )
    if dotted := [s for s in symbols if _DOTTED.fullmatch(s)]:
        yield Doubt(
            check,
            f"{len(dotted)} gene symbols of {file} have a dot between letters: {list_names(dotted)}",
            "write a hyphen if R has replaced it (HLA-A becomes HLA.A; read.csv has check.names=FALSE)",
        )
    lower = [s for s in symbols if s != s.upper() and s == s.lower()]
    if len(symbols) >= _FEWEST_GENES and 2 * len(lower) > len(symbols):
        yield Doubt(
            check,
            f"{len(lower)} of {len(symbols)} gene symbols of {file} are in lower case: {list_names(lower)}",
            "write symbols in upper case, as signatures and other sites do: tp53 and TP53 are different columns",
        )
    plain = Counter(map(plain_name, symbols))
    twins = [s for s in symbols if plain[plain_name(s)] > 1]
    if twins:
        yield Doubt(
            check,
            f"{len(twins)} gene symbols of {file} differ only in case or separators: {list_names(twins)}",
            "write each gene in one way: such columns are read as different genes",
        )
