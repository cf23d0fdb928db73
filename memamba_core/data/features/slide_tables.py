"""Read slide-level features: a table with one vector per slide (or per patient), its columns in families."""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from memamba_core.config.site import FeatureFolder
from memamba_core.data.features.row_choice import choose_rows
from memamba_core.data.identifiers.key_columns import parse_keys
from memamba_core.data.identifiers.slide_names import slide_name
from memamba_core.data.records import PatientRecord
from memamba_core.data.tables import open_table
from memamba_core.errors import ConfigError, DataError
from memamba_core.patient import Bag

__all__ = ["SlideTable", "build_families", "open_slide_table"]

SMALLEST_FAMILY = 8
"""Families with fewer columns are joined with others of their kind of measurement: three columns carry too little."""


@dataclass(eq=False)
class SlideTable:
    """A slide-level table in memory.

    Attributes:
        encoder: declared name of the table, with the magnification where one is declared.
        columns: names of the F feature columns.
        families: family of each column; empty where a slide is one token.
        values_SF: float32, one row per slide, unscaled; NaN where not measured.
        rows_of_slide: name of a slide -> its rows that hold at least one value.
        rows_of_case: key as an identifier, which may be a case id -> such rows.
        width: number F of columns.
    """

    encoder: str
    columns: tuple[str, ...]
    families: tuple[str, ...]
    values_SF: npt.NDArray[np.float32]
    rows_of_slide: Mapping[str, tuple[int, ...]]
    rows_of_case: Mapping[str, tuple[int, ...]]
    width: int = field(init=False)

    def __post_init__(self) -> None:
        self.width = len(self.columns)

    def has(self, record: PatientRecord) -> bool:
        """Return True if a row of the patient or of one of the slides holds a value."""
        return bool(self.rows_of(record))

    def load(
        self, record: PatientRecord, max_patches: int | None = None, rng: np.random.Generator | None = None
    ) -> Bag | None:
        """Return the slide vectors of the patient in the order of the record (of the table if keyed by case id).

        Values that were not measured stay NaN: unlike patch features, this bag may hold values that are not finite.
        Scaling (`dataset`) replaces them by the centre that the sites agreed on; a mean of the own rows would differ
        from site to site.

        Args:
            record: the patient.
            max_patches: most slide vectors to return; None for all.
            rng: samples them at random without replacement; None takes them evenly spaced.

        Returns:
            float32 vectors without coordinates, or None if the table holds no value of the patient.
        """
        rows = self.rows_of(record)
        if not rows:
            return None
        chosen = choose_rows(len(rows), max_patches, rng)
        return Bag(torch.from_numpy(self.values_SF[np.array(rows)[chosen]]))

    def fingerprint(self, record: PatientRecord) -> bytes:
        """Return the values of the patient's rows, as `FeatureStore.fingerprint` describes."""
        return self.values_SF[list(self.rows_of(record))].tobytes()

    def with_values(self, values_SF: npt.NDArray[np.float32]) -> "SlideTable":
        """Return the table with other values in the same rows and columns."""
        return replace(self, values_SF=values_SF)

    def rows_of(self, record: PatientRecord) -> tuple[int, ...]:
        """Return the rows of the patient: those of the slides, or those under the case id."""
        by_slide = tuple(row for slide in record.slides for row in self.rows_of_slide.get(slide, ()))
        return by_slide or self.rows_of_case.get(record.case_id, ())


def open_slide_table(config: FeatureFolder, root: Path) -> SlideTable:
    """Read a slide-level table. A row without a value counts as absent.

    Args:
        config: `path` names the table, `key` the column of slide names or case ids
            (several rows of one patient are several slides), `columns` is a regular expression of the feature
            columns, `groups_file` the names that `build_families` sorts into families.
        root: folder that the files are relative to.

    Raises:
        ConfigError: `columns` is no regular expression.
        DataError: a file or column is missing, a key is empty, a cell is neither empty nor a finite number,
            or a feature column has no name in the groups file.
    """
    table = open_table(root / config.path, config)
    table.require(config.key, "data.features.key")
    try:
        pattern = re.compile(config.columns)
    except re.error as error:
        raise ConfigError(f"data.features.columns: {config.columns!r} is no regular expression: {error}") from None
    columns = tuple(c for c in table.columns if c != config.key and pattern.search(c))
    if not columns:
        raise DataError(
            f"{table.path}: no column matches data.features.columns {config.columns!r}; the columns are "
            f"{', '.join(table.columns[:8])}, ... Set it to a regular expression of the feature columns"
        )
    keys = parse_keys(table, config.key, table.text([config.key])[config.key])
    remedy = "Set data.features.key to a column that names the slide or the patient in every row"
    table.refuse(config.key, keys == "", "is empty", remedy)
    families = () if config.groups_file is None else _read_families(root / config.groups_file, columns)
    values_SF = table.numbers(columns)
    measured = np.flatnonzero(~np.isnan(values_SF).all(axis=1)).tolist()
    # Case ids are compared whole: a part that looks like a folder or an extension belongs to the case id.
    rows_of_slide, rows_of_case = defaultdict[str, list[int]](list), defaultdict[str, list[int]](list)
    for row in measured:
        rows_of_slide[slide_name(keys[row])].append(row)
        rows_of_case[keys[row]].append(row)
    at = "" if config.magnification is None else f"@{config.magnification:g}x"
    return SlideTable(
        encoder=f"{config.encoder}{at}",
        columns=columns,
        families=families,
        values_SF=values_SF,
        rows_of_slide={name: tuple(rows) for name, rows in rows_of_slide.items()},
        rows_of_case={name: tuple(rows) for name, rows in rows_of_case.items()},
    )


def build_families(names: Sequence[str]) -> tuple[str, ...]:
    """Sort long feature names into families by the kind of measurement and its object.

    The kind is the text before the first colon or, without a colon, the first word. The object is the word after the
    last ` OF ` of a name with a colon (without the stain `_HE`), or the first word in brackets of a name without a
    colon:

    * `REGION PROPERTIES: PERIMETER (MM) OF LARGEST REGION OF TUMOR_HE` -> `REGION PROPERTIES: TUMOR`
    * `DENSITY RATIO [PLASMA CELLS] IN [[TUMOR] OVER [STROMA]]_HE` -> `DENSITY: PLASMA`

    Families with fewer than `SMALLEST_FAMILY` columns are joined under their kind alone (`AREA`). The 607
    human-interpretable features of Diao et al. (Nature Communications, 2021) fall into 23 families of 8
    to 92 columns.

    Args:
        names: one per column.

    Returns:
        The family of each name, in the order of `names`.
    """
    kinds = [_kind(name) for name in names]
    families = [
        f"{kind}: {about}" if (about := _object(name)) else kind for kind, name in zip(kinds, names, strict=True)
    ]
    return tuple(
        family if families.count(family) >= SMALLEST_FAMILY else kind
        for kind, family in zip(kinds, families, strict=True)
    )


def _kind(name: str) -> str:
    head, colon, _ = name.partition(":")
    return head.strip() if colon else name.split()[0]


def _object(name: str) -> str:
    _, colon, tail = name.partition(":")
    match = re.search(r".* OF (\w+?)(?:_HE)?\b", tail) if colon else re.search(r"\[(\w+)", name)
    return match[1] if match else ""


def _read_families(path: Path, columns: Sequence[str]) -> tuple[str, ...]:
    """Return the family of each column, from a table with columns `id` and `name`."""
    table = open_table(path)
    for column in ("id", "name"):
        table.require(column)
    text = table.text(["id", "name"])
    for column in ("id", "name"):
        table.refuse(column, text[column] == "", "is empty", "Write one id and one name per row")
    table.refuse("id", text["id"].duplicated(), "repeats a column", "Keep one row per column")
    # Built over the whole file and not over the columns of this site, so that all sites have the same families.
    families = dict(zip(text["id"], build_families(tuple(text["name"])), strict=True))
    nameless = [column for column in columns if column not in families]
    if nameless:
        raise DataError(
            f"{path}: column 'id' lacks {len(nameless)} feature columns, the first is {nameless[0]!r}. Add "
            "them with a name, or narrow data.features.columns"
        )
    return tuple(families[column] for column in columns)
