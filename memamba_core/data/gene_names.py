"""Names of molecular columns: which are read, as what, and which nearly are."""

import re
from collections import Counter
from collections.abc import Collection, Iterator, Sequence

from memamba_core.data.doubt import Doubt

__all__ = [
    "KINDS",
    "MOLECULAR",
    "find_name_doubts",
    "is_changed",
    "is_clinical",
    "list_columns",
    "list_names",
    "looks_like_gene",
    "molecular_name",
]

KINDS = ("rnaseq", "cnv", "mut")
"""Suffixes of molecular columns: expression, copy number, mutation."""
MOLECULAR = re.compile(rf"(?P<symbol>.+)_(?P<kind>{'|'.join(KINDS)})")
_VARIANT = re.compile(r"(?P<symbol>.*?\S)[\s_.-]+(?P<kind>rna[\s_.-]?seq|cnv|mut)", re.IGNORECASE)
_COPY = re.compile(r"(?P<column>.+)\.\d{1,3}")  # pandas names the second `X` of a table `X.1`
_OTHER_SUFFIX = re.compile(
    r".+[\s_.-](rna|mrna|expr|expression|tpm|fpkm|rpkm|rsem|cna|cnvs|copy.?number|gistic|mutations?|mutated|muts|snv|vaf)",
    re.IGNORECASE,
)
_PREFIX = re.compile(r"(rna.?seq|mrna|cnv|cna|mut)[\s_.-].+", re.IGNORECASE)
_FEWEST_PREFIXED = 3  # `mut_count` and `cnv_burden` are summaries, not columns of genes

_GENE = re.compile(r"[A-Z][A-Z0-9]+(ORF\d+)?(-[A-Z0-9]+)*|[A-Z]+\d+orf\d+|ENSG\d{11}(\.\d+)?")
_VERSIONED = re.compile(r"ENS[A-Z]*G\d{11}\.\d+")
_DOTTED = re.compile(r"[A-Z][A-Z0-9]*\.[A-Z][A-Z0-9.]*")  # R writes HLA-A as HLA.A
_FEWEST_GENES = 20  # so many names like gene symbols are a table of genes, not a few clinical columns

_MONTH = r"(jan|f[eé][bv]|m[aä]r|mrz|apr|avr|ma[yi]|jun|juin|jul|juil|aug|ao[uû]|sep|o[ck]t|nov|d[eé][cz])[a-zäéû]*\.?"
_DATE = re.compile(
    rf"\d{{1,4}}[\s./-]+{_MONTH}([\s./-]+\d{{2,4}})?|{_MONTH}[\s./-]+\d{{1,4}}"
    r"|\d{4}-\d{1,2}-\d{1,2}([T ].*)?|\d{1,2}[./-]\d{1,2}([./-](\d{2,4})?)?",
    re.IGNORECASE,
)
_SERIAL = re.compile(r"(3[6-9]|4[0-8])\d{3}(\.0)?")  # days of a spreadsheet since 1900: the years 1998 to 2032

_CLINICAL = frozenset().union(
    {"caseid", "patientid", "sampleid", "slideid", "slideids", "slideref", "nslides", "id", "patient", "sample"},
    {"tss", "site", "region", "country", "cohort", "center", "centre", "batch", "oncotreecode", "subtype", "stage"},
    {"grade", "age", "sex", "gender", "isfemale", "ismale", "female", "male", "race", "ethnicity", "smoker", "ecog"},
    {"treatment", "radiation", "chemotherapy", "label", "target", "time", "event", "events", "os", "dss", "pfi", "dfi"},
    {"dfs", "pfs", "rfs", "ttp", "train", "val", "test", "fold", "split"},
)
_NUMBER = re.compile(r"[\W_]\d{1,2}(?=$|[\W_])")  # the TCGA-CDR names PFI.1 and PFI.time.2
_OUTCOME = re.compile(
    r"(os|dss|dfs|dfi|pfs|pfi|rfs|efs|mfs|dmfs|css|ttp|bcrfs)"
    r"(status|events?|cens\w*|time|months?|days?|years?|cr|flag|bin|ind|indicator|code)"
    r"|(status|events?|cens\w*|time|months?|days?|years?|is|had|has)(os|dss|dfs|dfi|pfs|pfi|rfs|efs|mfs|dmfs|css)"
    r"|.*(death|deceas|surviv|censor|vitalstat|mortality|followup|lastcontact|lastvisit|daysto|recurren|relaps|progress"
    r"|metastas|outcome|endpoint|status|verstorben|gestorben|deces)\w*"
    r"|events?(flag|indicator|ind|bin|code|observed|occurred)|(is|was)?(dead|died|alive|living|vital|exitus|tod)(event|flag|indicator|\d*y?)"
)


def molecular_name(column: str) -> str | None:
    """Return the name `SYMBOL_rnaseq`, `SYMBOL_cnv` or `SYMBOL_mut` that a column is read as; None for another column.

    Upper case in the suffix, another separator before it (`.`, `-`, a blank) and surrounding blanks make no difference.
    """
    if MOLECULAR.fullmatch(column) and not re.search(r"\s", column):
        return column
    match = _VARIANT.fullmatch(column.strip())
    if match is None:
        return None
    kind = re.sub(r"[\s_.-]", "", match["kind"].lower())
    return f"{match['symbol']}_{kind}"


def is_clinical(name: str, further: Collection[str] = ()) -> bool:
    """Return True for a name of a clinical column, above all of an outcome, in any case and with any separators.

    Such a column is never a gene: an outcome among the genes would leak the answer.

    Args:
        name: of the column.
        further: names that are clinical in this table.
    """
    plain = {_plain(name), _plain(_NUMBER.sub("", name))}
    if plain & _CLINICAL or plain.intersection(map(_plain, further)):
        return True
    return any(_OUTCOME.fullmatch(form) for form in plain)


def looks_like_gene(name: str) -> bool:
    """Return True if a name has the form of a human gene symbol or of an ENSEMBL identifier, and is not clinical."""
    return _GENE.fullmatch(name.strip()) is not None and not is_clinical(name)


def list_names(names: Sequence[str], most: int = 3) -> str:
    """Return the first names in quotes, and the number of the others."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(f"'{name}'" for name in names[:most]) + more


def list_columns(columns: Sequence[str], most: int = 3) -> str:
    """Return the beginning of a sentence about the values of columns: `columns 'A', 'B' and 2 more hold`."""
    return f"column{'s' * (len(columns) > 1)} {list_names(columns, most)} hold{'s' * (len(columns) == 1)}"


def find_name_doubts(file: str, read: Sequence[str], ignored: Sequence[str]) -> Iterator[Doubt]:
    """Doubt columns of a molecular table that are nearly molecular, or whose symbols a program has changed.

    Args:
        file: name of the table.
        read: the columns that are read, `SYMBOL_rnaseq`, `SYMBOL_cnv` or `SYMBOL_mut`.
        ignored: the other columns, as the file names them.
    """
    symbols = [name.rpartition("_")[0] for name in read]
    yield from _unread(file, ignored)
    yield from _copies(file, set(read), ignored)
    yield from _dates(file, symbols, ignored)
    yield from _odd_symbols(file, list(dict.fromkeys(symbols)))


def _unread(file: str, ignored: Sequence[str]) -> Iterator[Doubt]:
    prefixed = [name for name in ignored if _PREFIX.fullmatch(name) and not is_clinical(name)]
    near = [name for name in ignored if _OTHER_SUFFIX.fullmatch(name) and not is_clinical(name)]
    near += prefixed if len(prefixed) >= _FEWEST_PREFIXED else []
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
            f"{len(copies)} columns of {file} are named like copies of another column: {list_names(copies)}",
            "a program numbers columns that have one name; keep one column per gene and kind, and remove the number",
        )


def _dates(file: str, symbols: Sequence[str], ignored: Sequence[str]) -> Iterator[Doubt]:
    numbers = sum(bool(re.fullmatch(r"\d+", symbol)) for symbol in symbols)
    entrez = 2 * numbers > len(symbols)  # a table of Entrez numbers has no symbols that became dates
    names = list(dict.fromkeys([*symbols, *ignored]))
    dates = [name for name in names if _is_date(name, serial=not entrez)]
    if dates:
        yield Doubt(
            "gene symbols",
            f"{len(dates)} columns of {file} are named like dates: {list_names(dates, 6)}. A spreadsheet has turned "
            "gene symbols into dates: MARCH1 into 1-Mar, SEPT2 into 2-Sep, DEC1 into 1-Dec, or any into a number",
            "take the symbols from the table before the spreadsheet (today they are MARCHF1, SEPTIN2, DELEC1); until "
            "then no other site and no signature has these columns",
        )


def is_changed(symbol: str) -> bool:
    """Return True for a symbol that a program changed: a date, its serial number, an identifier with a version."""
    return _is_date(symbol, serial=True) or _VERSIONED.fullmatch(symbol) is not None


def _is_date(name: str, *, serial: bool) -> bool:
    return bool(_DATE.fullmatch(name.strip())) or (serial and bool(_SERIAL.fullmatch(name.strip())))


def _odd_symbols(file: str, symbols: Sequence[str]) -> Iterator[Doubt]:
    check = "gene symbols"
    if versioned := [s for s in symbols if _VERSIONED.fullmatch(s)]:
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
    plain = Counter(map(_plain, symbols))
    twins = [s for s in symbols if plain[_plain(s)] > 1]
    if twins:
        yield Doubt(
            check,
            f"{len(twins)} gene symbols of {file} differ only in case or separators: {list_names(twins)}",
            "write each gene in one way: such columns are read as different genes",
        )


def _plain(name: str) -> str:
    """Return a name in lower case, without separators."""
    return re.sub(r"[\W_]+", "", name.casefold())
