"""Assign patients to test folds: from published split files, at random, or whole sites at a time."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from memamba_core.data.records import Cohort
from memamba_core.data.tables import Table, open_table
from memamba_core.errors import ConfigError, DataError

__all__ = ["assign_folds"]

_ONE_TEST_FOLD = "A patient is tested in one fold, and not trained on there"
_NO_THIRD_SET = (
    "train must hold all patients who are in val of another file; splits that set a third group aside are not "
    "supported. Correct the file or use fold_source=random"
)


def assign_folds(
    cohort: Cohort,
    *,
    source: Literal["cohort", "random", "site_grouped"],
    splits: Path | None,
    num_folds: int,
    seed: int,
    sites: Mapping[str, tuple[str, ...]],
) -> tuple[Cohort, tuple[str, ...]]:
    """Set `fold` of each patient: the test fold that holds the patient out. Earlier folds are overwritten.

    Args:
        cohort: the patients; the order of its records does not matter.
        source: ``cohort`` reads the split files, or draws at random if there are none. ``random`` deals the
            patients so that fold sizes differ by at most one, and so do the numbers of events.
            ``site_grouped`` holds out whole sites, largest first, each in the fold with the fewest
            patients so far.
        splits: folder of `splits_0.csv`, `splits_1.csv`, ... with columns `train` and `val`, as MCAT
            publishes them. Its `val` is the test fold.
        num_folds: number of folds for ``random`` and ``site_grouped``; split files define their own.
        seed: seed of ``random``.
        sites: site name -> case ids, each patient in one site; for ``site_grouped``.

    Returns:
        The same patients in the same order, and warnings. With split files, a patient in none of them has fold None
        and is neither trained on nor tested; a warning counts these patients.

    Raises:
        ConfigError: fewer patients or sites than folds, or no split files where they should be.
        DataError: the split files contradict each other, or are of another cohort.
    """
    warnings: tuple[str, ...] = ()
    if source == "site_grouped":
        fold_of = _group_sites({r.case_id for r in cohort.records}, sites, num_folds)
    elif source == "cohort" and splits is not None:
        fold_of = _read_splits(splits)
        warnings = _compare_patients(cohort, fold_of, splits)
    else:
        fold_of = _draw(cohort, num_folds, np.random.default_rng(seed))
    records = tuple(replace(r, fold=fold_of.get(r.case_id)) for r in cohort.records)
    return replace(cohort, records=records, has_folds=True), warnings


def _draw(cohort: Cohort, num_folds: int, rng: np.random.Generator) -> dict[str, int]:
    """Shuffle patients with the event and censored ones apart, then deal them in turn, so that folds are even."""
    if num_folds > len(cohort.records):
        raise ConfigError(f"num_folds={num_folds}, but the cohort has {len(cohort.records)} patients; lower num_folds")
    dealt: list[str] = []
    for event in (True, False):
        stratum = sorted(r.case_id for r in cohort.records if r.event == event)
        dealt += [stratum[i] for i in rng.permutation(len(stratum))]
    return {case_id: i % num_folds for i, case_id in enumerate(dealt)}


def _group_sites(case_ids: set[str], sites: Mapping[str, tuple[str, ...]], num_folds: int) -> dict[str, int]:
    """Put whole sites into folds of similar size."""
    members = {name: [c for c in sites[name] if c in case_ids] for name in sorted(sites)}
    members = {name: found for name, found in members.items() if found}
    assert case_ids == {c for found in members.values() for c in found}, "a partition covers all patients"
    if len(members) < num_folds:
        raise ConfigError(
            f"fold_source=site_grouped: num_folds={num_folds}, but there are {len(members)} sites and a fold "
            "holds out at least one; lower num_folds or use fold_source=random"
        )
    fold_of: dict[str, int] = {}
    sizes = [0] * num_folds
    for name in sorted(members, key=lambda name: (-len(members[name]), name)):
        fold = sizes.index(min(sizes))
        sizes[fold] += len(members[name])
        fold_of.update(dict.fromkeys(members[name], fold))
    return fold_of


def _read_splits(folder: Path) -> dict[str, int]:
    """Return, for each case id, k of the `splits_{k}.csv` whose `val` holds it; check that the files agree."""
    num_folds = len(list(folder.glob("splits_*.csv")))
    paths = [folder / f"splits_{k}.csv" for k in range(num_folds)]
    absent = [p.name for p in paths if not p.is_file()]
    if num_folds < 2 or absent:
        raise ConfigError(
            f"{folder}: found {num_folds} files splits_*.csv{f', but not {absent[0]}' if absent else ''}; "
            "wanted splits_0.csv, splits_1.csv, ... without a gap. Correct data.splits or use "
            "fold_source=random"
        )
    tables = [open_table(path) for path in paths]
    columns = [(_read_column(table, "train"), _read_column(table, "val")) for table in tables]
    fold_of: dict[str, int] = {}
    for fold, (table, (train, val)) in enumerate(zip(tables, columns, strict=True)):
        table.refuse("val", val.isin(set(fold_of)), "repeats a patient of another file's val", _ONE_TEST_FOLD)
        table.refuse("val", val.isin(train[train != ""]), "repeats a patient of train", _ONE_TEST_FOLD)
        fold_of.update(dict.fromkeys(val[val != ""], fold))
    for fold, (table, (train, _)) in enumerate(zip(tables, columns, strict=True)):
        expected = {case_id for case_id, k in fold_of.items() if k != fold}
        table.refuse("train", ~train.isin(expected | {""}), "has patients who are in no val", _NO_THIRD_SET)
        if missing := len(expected.difference(train)):
            raise DataError(
                f"{table.path}: column 'train' lacks {missing} patients who are in val of another file. {_NO_THIRD_SET}"
            )
    return fold_of


def _read_column(table: Table, name: str) -> "pd.Series[str]":
    """Read a column of case ids; the shorter column of a file is padded with empty cells."""
    table.require(name)
    case_ids = table.text([name])[name]
    twice = case_ids.duplicated() & (case_ids != "")
    table.refuse(name, twice, "repeats a patient", "List each patient once")
    return case_ids


def _compare_patients(cohort: Cohort, fold_of: Mapping[str, int], splits: Path) -> tuple[str, ...]:
    """Return warnings that count patients in the table or in the splits only; no patient in both is an error."""
    present = {r.case_id for r in cohort.records}
    if not present & set(fold_of):
        raise DataError(
            f"{splits}: none of the cohort's {len(present)} patients is in these splits ({len(fold_of)} "
            "patients); they are of another cohort. Correct data.splits or use fold_source=random"
        )
    without_fold, unknown = len(present - set(fold_of)), len(set(fold_of) - present)
    warnings = []
    if without_fold:
        warnings.append(f"{without_fold} patients are in no split of {splits}: neither trained on nor tested")
    if unknown:
        warnings.append(f"{unknown} patients of the splits in {splits} are not in the cohort and are ignored")
    return tuple(warnings)
