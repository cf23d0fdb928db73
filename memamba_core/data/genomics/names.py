"""Names of molecular columns: which are read, as what, and which are clinical."""

import re
from collections.abc import Collection, Sequence

__all__ = [
    "KINDS",
    "MOLECULAR",
    "VERSIONED",
    "is_changed",
    "is_clinical",
    "is_date",
    "list_columns",
    "list_names",
    "looks_like_gene",
    "molecular_name",
    "plain_name",
]

KINDS = ("rnaseq", "cnv", "mut")
"""Suffixes of molecular columns: expression, copy number, mutation."""
MOLECULAR = re.compile(rf"(?P<symbol>.+)_(?P<kind>{'|'.join(KINDS)})")
_VARIANT = re.compile(r"(?P<symbol>.*?\S)[\s_.-]+(?P<kind>rna[\s_.-]?seq|cnv|mut)", re.IGNORECASE)

_GENE = re.compile(r"[A-Z][A-Z0-9]+(ORF\d+)?(-[A-Z0-9]+)*|[A-Z]+\d+orf\d+|ENSG\d{11}(\.\d+)?")
VERSIONED = re.compile(r"ENS[A-Z]*G\d{11}\.\d+")

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
    {"dfs", "pfs", "rfs", "ttp", "train", "val", "test", "fold", "split", "diabetes", "hypertension", "surgery"},
    {"geschlecht", "weiblich", "männlich", "raucher", "chemotherapie", "bestrahlung", "strahlentherapie", "stadium"},
    {"sexe", "femme", "homme", "fumeur", "chimiothérapie", "radiothérapie", "chemo", "radiotherapy", "smoking"},
)
_NUMBER = re.compile(r"[\W_]\d{1,2}(?=$|[\W_])")  # the TCGA-CDR names PFI.1 and PFI.time.2
_OUTCOME = re.compile(
    r"(os|dss|dfs|dfi|pfs|pfi|rfs|efs|mfs|dmfs|css|ttp|bcrfs)"
    r"(status|events?|cens\w*|time|months?|days?|years?|cr|flag|bin|ind|indicator|code)"
    r"|(status|events?|cens\w*|time|months?|days?|years?|is|had|has)(os|dss|dfs|dfi|pfs|pfi|rfs|efs|mfs|dmfs|css)"
    r"|.*(death|deceas|surviv|censor|vitalstat|mortality|followup|lastcontact|lastvisit|daysto|recurren|relaps|progress"
    r"|metasta[sz]|rezidiv|r[eé]cidiv|exitus|outcome|endpoint|status|verstorben|gestorben|deces)\w*"
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
    plain = {plain_name(name), plain_name(_NUMBER.sub("", name))}
    if plain & _CLINICAL or plain.intersection(map(plain_name, further)):
        return True
    return any(_OUTCOME.fullmatch(form) for form in plain)


def looks_like_gene(name: str) -> bool:
    """Return True if a name has the form of a human gene symbol or of an ENSEMBL identifier, and is not clinical."""
    return _GENE.fullmatch(name.strip()) is not None and not is_clinical(name)


def list_names(names: Sequence[str], most: int = 3) -> str:
    """Return the first names in quotes, and the number of the others."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(f"'{name}'" for name in names[:most]) + more


def count_columns(columns: Sequence[str], file: str) -> str:
    """Return the beginning of a sentence about names of columns: `1 column of t.csv is`, `2 columns of t.csv are`."""
    return f"{len(columns)} column{'s' * (len(columns) > 1)} of {file} {'are' if len(columns) > 1 else 'is'}"


def list_columns(columns: Sequence[str], most: int = 3) -> str:
    """Return the beginning of a sentence about the values of columns: `columns 'A', 'B' and 2 more hold`."""
    return f"column{'s' * (len(columns) > 1)} {list_names(columns, most)} hold{'s' * (len(columns) == 1)}"


def is_changed(symbol: str) -> bool:
    """Return True for a symbol that a program changed: a date, its serial number, an identifier with a version."""
    return is_date(symbol, serial=True) or VERSIONED.fullmatch(symbol) is not None


def is_date(name: str, *, serial: bool) -> bool:
    """Return True for a date as spreadsheets write it; `serial`: or its number of days since 1900."""
    return bool(_DATE.fullmatch(name.strip())) or (serial and bool(_SERIAL.fullmatch(name.strip())))


def plain_name(name: str) -> str:
    """Return a name in lower case, without separators."""
    return re.sub(r"[\W_]+", "", name.casefold())
