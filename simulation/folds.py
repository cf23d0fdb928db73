"""Assign patients to test folds: from published split files, at random, or whole sites at a time."""

from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np

from memamba_core.data.records import Cohort
from memamba_core.data.splits import read_splits
from memamba_core.errors import ConfigError, DataError

__all__ = ["assign_folds"]


def assign_folds(
    cohort: Cohort,
    *,
    source: Literal["cohort", "random", "site_grouped"],
    splits: Path | None,
    num_folds: int,
    seed: int,
    sites: Mapping[str, tuple[str, ...]],
    folds: Collection[int] = (0,),
) -> tuple[Cohort, tuple[str, ...]]:
    """Set `fold` of each patient: the test fold that holds the patient out. Earlier folds are overwritten.

    Args:
        cohort: the patients; the order of its records does not matter.
        source: ``cohort`` reads the split files, or draws at random if there are none. ``random`` deals the
            patients so that fold sizes differ by at most one, and so do the numbers of events.
            ``site_grouped`` holds out whole sites, largest first, each in the fold with the fewest
            patients so far.
        splits: published splits in a layout of `read_splits`.
        num_folds: number of folds for ``random`` and ``site_grouped``; split files define their own.
        seed: seed of ``random``.
        sites: site name -> case ids, each patient in one site; for ``site_grouped``.
        folds: test folds that are run; of one published split into training and test patients, only fold 0 can be.

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
        fold_of, warnings = _use_splits(cohort, splits, folds)
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


def _use_splits(cohort: Cohort, path: Path, folds: Collection[int]) -> tuple[dict[str, int], tuple[str, ...]]:
    """Return the fold of each patient of the published splits, and warnings."""
    try:
        published = read_splits(path, cohort.records)
    except (ConfigError, DataError) as error:
        raise type(error)(f"{error}; or correct data.splits, or use fold_source=random") from None
    if published.single and any(fold != 0 for fold in folds):
        raise ConfigError(
            f"folds={list(folds)}: {path} is one split into training and test patients; only folds=[0] can be tested"
        )
    return published.fold_of, published.warnings
