"""Cut a cohort into sites: by the tissue source site of its patients, or at random."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from memamba_core.config.simulation import (
    DirichletPartition,
    IIDPartition,
    MergedTSSPartition,
    PartitionConfig,
    TSSPartition,
)
from memamba_core.data.identifiers.canonical import canonical_column
from memamba_core.data.records import Cohort
from memamba_core.data.tables import open_table
from memamba_core.errors import ConfigError, DataError

__all__ = ["partition_cohort"]

Sites = dict[str, tuple[str, ...]]

_CODE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,39}")
_MOST_CODES_IN_A_NAME = 4
_LONGEST_NAME = 64  # of a site


def partition_cohort(cohort: Cohort, config: PartitionConfig, *, tss_table: Path | None = None, seed: int = 0) -> Sites:
    """Give every patient of the cohort to one site.

    * ``tss``: one per tissue source site; named ``tss-2F``.
    * ``tss_merged``: sites of `min_patients` or more as they are. Smaller ones are joined, in alphabetical
      order of region and code, until the minimum is met; a remainder below it joins the last of these groups.
      Looks at codes and counts only, never at outcomes. Named ``tss-2F_5N`` or ``tss-01_02_04_and_7_more``.
    * ``region``: one per `flamby_region` of the tss table; named ``europe``. A code without a region is an
      error: a guessed region would say something untrue about a site. BRCA has FLamby's six regions, and
      ``other`` with 6 patients from Brazil, Nigeria and Pakistan.
    * ``iid``: `num_sites` of equal size, at random; named ``site-01``.
    * ``dirichlet``: `num_sites`. The patients with event fall to them by shares drawn from a symmetric
      Dirichlet(`alpha`), those without by shares drawn a second time: sizes and event rates are uneven. A site
      without a patient gets one from the largest site. Named ``site-01``.

    Args:
        cohort: the patients; the order of its records does not matter.
        config: kind of partition.
        tss_table: CSV with columns `tss` and `flamby_region`. Needed by ``region``; without it,
            ``tss_merged`` orders by code alone.
        seed: seed of ``iid`` and ``dirichlet``.

    Returns:
        Site name (valid in a site.yaml) -> case ids; both sorted, no site empty, each patient in one site.

    Raises:
        ConfigError: a setting does not fit the cohort.
        DataError: patients without a tissue source site, a code without a region, or an unreadable table.
    """
    if not cohort.records:
        raise DataError("partition: the cohort has no patients")
    if isinstance(config, IIDPartition | DirichletPartition):
        sites = _random_sites(cohort, config, np.random.default_rng(seed))
    else:
        by_code = _by_code(cohort)
        if isinstance(config, TSSPartition):
            sites = {f"tss-{code}": case_ids for code, case_ids in by_code.items()}
        elif isinstance(config, MergedTSSPartition):
            regions = {} if tss_table is None else _read_regions(tss_table)
            sites = _merge_small(by_code, regions, config.min_patients)
        else:
            sites = _by_region(by_code, tss_table)
    return {name: tuple(sorted(sites[name])) for name in sorted(sites)}


def _by_code(cohort: Cohort) -> dict[str, list[str]]:
    """Return the case ids of each tissue source site code."""
    by_code: dict[str, list[str]] = {}
    unknown = 0
    for record in cohort.records:
        if record.tss is None or not record.tss:
            unknown += 1
        elif not _CODE.fullmatch(record.tss):
            raise DataError(
                f"partition: tissue source site {record.tss!r}; wanted at most 40 letters, digits, hyphens and "
                "underscores, such as '2F' or 'north-clinic' (they become part of a site's name). Correct the column "
                "data.clinical.tss or use partition=iid"
            )
        else:
            by_code.setdefault(record.tss, []).append(record.case_id)
    if unknown:
        raise DataError(
            f"partition: {unknown} of {len(cohort.records)} patients have no tissue source site; name its "
            "column in data.clinical.tss, or use partition=iid or partition=dirichlet"
        )
    return by_code


def _read_regions(path: Path) -> dict[str, str]:
    """Read the region of each code that has one."""
    table = open_table(path)
    for column in ("tss", "flamby_region"):
        table.require(column)
    text = table.text(["tss", "flamby_region"])
    codes = canonical_column(text["tss"])
    table.refuse("tss", codes.duplicated(), "repeats a code", "Keep one row per tissue source site")
    return {tss: region for tss, region in zip(codes, text["flamby_region"], strict=True) if region}


def _by_region(by_code: Mapping[str, list[str]], tss_table: Path | None) -> dict[str, list[str]]:
    """Cut into one site per region."""
    if tss_table is None:
        raise ConfigError(
            "partition=region needs a table of tissue source sites: set data.tss_table to a CSV with columns "
            "tss and flamby_region, or use partition=tss_merged"
        )
    regions = _read_regions(tss_table)
    unmapped = sorted(set(by_code) - set(regions))
    if unmapped:
        patients = sum(len(by_code[code]) for code in unmapped)
        raise DataError(
            f"{tss_table}: no region for {len(unmapped)} of the cohort's {len(by_code)} tissue source sites "
            f"({patients} patients): {', '.join(unmapped)}. Add them to the table, or use partition=tss or "
            "partition=tss_merged"
        )
    sites: dict[str, list[str]] = {}
    for code, case_ids in by_code.items():
        if not re.fullmatch(r"[A-Za-z0-9]+( [A-Za-z0-9]+)*", regions[code]):
            raise DataError(
                f"{tss_table}: region {regions[code]!r} of {code}; wanted words of letters and digits, "
                "which become the site's name"
            )
        sites.setdefault(regions[code].lower().replace(" ", "-"), []).extend(case_ids)
    return sites


def _merge_small(
    by_code: Mapping[str, list[str]], regions: Mapping[str, str], min_patients: int
) -> dict[str, list[str]]:
    """Join the sites below the minimum, see `partition_cohort`."""
    total = sum(len(case_ids) for case_ids in by_code.values())
    if total < min_patients:
        raise ConfigError(
            f"partition=tss_merged: partition.min_patients={min_patients}, but the cohort has {total} "
            "patients; lower it"
        )
    codes = sorted(by_code, key=lambda code: (regions.get(code, ""), code))
    large = [[code] for code in codes if len(by_code[code]) >= min_patients]
    joined: list[list[str]] = []
    group: list[str] = []
    for code in codes:
        if len(by_code[code]) < min_patients:
            group.append(code)
            if sum(len(by_code[c]) for c in group) >= min_patients:
                joined.append(group)
                group = []
    if group:  # a remainder below the minimum
        (joined or large)[-1].extend(group)
    sites: dict[str, list[str]] = {}
    for group in (*large, *joined):
        name = _merged_name(group)
        if name in sites:  # a and b joined, and a_b
            raise DataError(
                f"partition=tss_merged: two sites would be named {name}; rename a site in the column data.clinical.tss"
            )
        sites[name] = [i for code in group for i in by_code[code]]
    return sites


def _merged_name(codes: list[str]) -> str:
    """Join the codes of a group; where the name would be too long, the first codes and the number of the others."""
    num_shown = len(codes) if len(codes) <= _MOST_CODES_IN_A_NAME else _MOST_CODES_IN_A_NAME - 1
    while True:
        more = f"_and_{len(codes) - num_shown}_more" if num_shown < len(codes) else ""
        name = f"tss-{'_'.join(codes[:num_shown])}{more}"
        if len(name) <= _LONGEST_NAME:
            return name
        num_shown -= 1


def _random_sites(
    cohort: Cohort, config: IIDPartition | DirichletPartition, rng: np.random.Generator
) -> dict[str, list[str]]:
    """Cut at random: `iid` and `dirichlet`."""
    num_sites = config.num_sites
    if num_sites > len(cohort.records):
        raise ConfigError(
            f"partition={config.name}: partition.num_sites={num_sites}, but the cohort has "
            f"{len(cohort.records)} patients; every site has at least one"
        )
    if isinstance(config, IIDPartition):
        shuffled = _shuffled((r.case_id for r in cohort.records), rng)
        members = [shuffled[site::num_sites] for site in range(num_sites)]
    else:
        members = [[] for _ in range(num_sites)]
        for event in (True, False):
            stratum = _shuffled((r.case_id for r in cohort.records if r.event == event), rng)
            share = rng.dirichlet(np.full(num_sites, config.alpha))
            edges = np.round(np.cumsum(share)[:-1] * len(stratum)).astype(np.int64).tolist()
            for site, start, stop in zip(members, [0, *edges], [*edges, len(stratum)], strict=True):
                site.extend(stratum[start:stop])
        for site in members:
            if not site:  # the largest site gives one patient away; there are enough patients that it keeps one
                site.append(max(members, key=len).pop())
    digits = max(2, len(str(num_sites)))
    return {f"site-{i + 1:0{digits}d}": case_ids for i, case_ids in enumerate(members)}


def _shuffled(case_ids: Iterable[str], rng: np.random.Generator) -> list[str]:
    """Shuffle from alphabetical order, so that the order of the source table does not matter."""
    ordered = sorted(case_ids)
    return [ordered[i] for i in rng.permutation(len(ordered))]
