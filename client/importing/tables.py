"""Format `tables`: clinical and molecular tables and folders of features, which stay where they are."""

import os
from collections.abc import Sequence
from pathlib import Path

from client.importing.clinical_columns import Clinical, find_clinical
from client.importing.feature_folders import find_feature_folders, propose_features
from client.importing.options import ImportOptions
from client.importing.outcome import Imported, Section
from client.importing.sources import open_sheets
from memamba_core.data.genomics.names import is_clinical, molecular_name
from memamba_core.data.tables import Table, is_table
from memamba_core.errors import DataError

from .column_names import match_case_id

__all__ = ["read"]

_FEWEST_BARE = 20
"""Fewest columns of 0 and 1 without a suffix that look like mutations under bare symbols."""


def read(sources: Sequence[Path], options: ImportOptions) -> Imported:
    """Propose the settings that read the tables as they are.

    Args:
        sources: tables, folders of tables, and folders of features.
        options: `columns` names columns that are not recognised; `decimal_mark`.

    Raises:
        DataError: no table has the columns of a clinical table, or several have.
    """
    files, folders = _expand(sources)
    tables, left_out = list[Table](), list[str]()
    for path in files:
        opened, failures = open_sheets(path, options.decimal_mark)
        tables += opened
        left_out += failures
    clinical = _choose_clinical(tables, options, left_out)
    base = Path(
        os.path.commonpath([path.resolve().parent if path.is_file() else path.resolve() for path in [*files, *folders]])
    )
    imported = Imported({}, base)
    imported.found.append(f"read: {', '.join(map(_name, tables))}")
    imported.found += [f"a sheet that is no table: {failure}" for failure in left_out]
    imported.sections["clinical"] = Section({**_location(clinical.table, base), **clinical.settings}, clinical.evidence)
    imported.questions += clinical.questions
    _add_genomics(imported, tables, clinical, base)
    if folders:
        propose_features(imported, folders, base)
    if not {"genomics", "features"} & set(imported.sections):
        raise DataError(
            f"{base}: no table has columns SYMBOL_rnaseq, SYMBOL_cnv or SYMBOL_mut, and no folder has .h5 or .pt "
            "files; there is nothing to learn from. Name the molecular table or the folder of features "
            "as a further source"
        )
    return imported


def _expand(sources: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """Return the tables and the feature folders of the sources."""
    files: list[Path] = []
    folders: list[Path] = []
    for source in sources:
        if source.is_dir():
            files += [p for p in sorted(source.iterdir()) if p.is_file() and is_table(p.name) and p.name[0] != "."]
            folders += find_feature_folders(source)
        else:
            files.append(source)
    unique = list(dict.fromkeys(path.absolute() for path in files))
    if not unique:
        raise DataError(f"{sources[0]}: has no table. Name the clinical table, or the folder that holds it")
    return unique, list(dict.fromkeys(path.absolute() for path in folders))


def _choose_clinical(tables: Sequence[Table], options: ImportOptions, left_out: Sequence[str]) -> Clinical:
    """Return the one table with an identifier, a follow-up time and an event."""
    found = [clinical for table in tables if (clinical := find_clinical(table, options.columns)) is not None]
    if len(found) > 1:
        names = ", ".join(_name(clinical.table) for clinical in found)
        raise DataError(f"{names}: each has a follow-up time and an event. Name one of them, and not its folder")
    if found:
        return found[0]
    listed = "; ".join([*(f"{_name(t)}: {', '.join(_not_molecular(t)[:25])}" for t in tables), *left_out])
    raise DataError(
        "no table has a column of patients, of follow-up times and of events that is recognised. Name them with "
        f"--column case_id=NAME, --column time=NAME, --column event=NAME. Columns are {listed}"
    )


def _not_molecular(table: Table) -> list[str]:
    return [column for column in table.columns if molecular_name(column) is None]


def _add_genomics(imported: Imported, tables: Sequence[Table], clinical: Clinical, base: Path) -> None:
    """Propose the molecular table: the one with suffixes, else one with many bare columns of 0 and 1."""
    suffixed = [table for table in tables if len(_not_molecular(table)) < len(table.columns)]
    if len(suffixed) > 1:
        names = ", ".join(map(_name, suffixed))
        raise DataError(f"{names}: each has molecular columns. Join them into one table, or name one of them")
    bare = {}
    for table in suffixed or tables:
        known = [str(value) for value in clinical.settings.values()]
        rest = [c for c in _not_molecular(table) if not is_clinical(c, known)]
        binary = table.binary_columns(rest) if len(rest) >= _FEWEST_BARE else ()
        if len(binary) >= _FEWEST_BARE:
            bare[_name(table)] = len(binary)
    candidates = suffixed or [table for table in tables if _name(table) in bare]
    if not candidates:
        return
    table = candidates[0]
    is_same = table is clinical.table
    case_id = clinical.settings["case_id"] if is_same else _case_id_of(table, clinical)
    kinds = {
        kind: sum((molecular_name(c) or "").endswith(f"_{kind}") for c in table.columns)
        for kind in ("rnaseq", "cnv", "mut")
    }
    evidence = {"file": ", ".join(f"{count} {kind}" for kind, count in kinds.items() if count) or "bare columns"}
    section = Section({**_location(table, base), "case_id": case_id}, evidence)
    imported.sections["genomics"] = section
    if table.decimal_mark is not None:
        section.settings["decimal_mark"] = table.decimal_mark
    if _name(table) in bare:
        section.settings["bare_columns"] = "ignore" if suffixed else "mut"
        imported.ask(
            "genomics.bare_columns",
            f"{bare[_name(table)]} columns without a suffix hold 0 and 1 only. Set mut if they are mutations under the "
            "bare gene symbol (MCAT's full tables), and check that no outcome is among them. A site with `privacy` "
            "renames them to SYMBOL_mut instead.",
        )


def _case_id_of(table: Table, clinical: Clinical) -> str:
    """Return the column of the molecular table that holds the most patients of the clinical table."""
    patients = set(clinical.table.text([clinical.settings["case_id"]])[clinical.settings["case_id"]])
    columns = [c for c in _not_molecular(table) if c == clinical.settings["case_id"] or match_case_id(c) is not None]
    shares = {column: table.text([column])[column].isin(patients).mean() for column in columns}
    best = max(shares, key=lambda column: shares[column], default=None)
    if best is None or not shares[best]:
        raise DataError(
            f"{table.path}: no column holds identifiers of the clinical table {clinical.table.path.name}. Write the "
            "same identifiers in both, in a column named as there"
        )
    return best


def _location(table: Table, base: Path) -> dict[str, str]:
    """Return the settings that name a table."""
    location = {"file": str(table.path.resolve().relative_to(base))}
    return location if table.sheet is None else {**location, "sheet": table.sheet}


def _name(table: Table) -> str:
    return table.path.name if table.sheet is None else f"{table.path.name}, sheet {table.sheet!r}"
