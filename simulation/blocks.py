"""Blocks of simulated sites (`blocks=true`): the sites of a deployment, imitated in memory."""

from collections.abc import Mapping
from dataclasses import replace

from client.blocks import SmallestBlock
from client.cohort_registry import CohortRegistry
from memamba_core.config.simulation import SimulationConfig
from memamba_core.data.records import Cohort
from memamba_core.errors import ConfigError
from memamba_core.training.seeding import derive_seed

__all__ = ["draw_site_blocks"]


def draw_site_blocks(
    cohort: Cohort, partition: Mapping[str, tuple[str, ...]], config: SimulationConfig
) -> tuple[Cohort, dict[str, tuple[str, ...]], dict[str, CohortRegistry], tuple[str, ...]]:
    """Draw the blocks of each site, and make them its test folds.

    Args:
        cohort: all patients; their folds are overwritten.
        partition: site name -> case ids.
        config: thresholds, and the seed that takes the place of the secrets of the sites.

    Returns:
        The cohort with a test fold for each patient of a block (None in a site of one block, which always trains); the
        sites that have a block; their registries; and warnings.

    Raises:
        ConfigError: no site has a block.
    """
    smallest, fold_of = SmallestBlock.of(config.disclosure), dict[str, int | None]()
    kept, registries, single = dict[str, tuple[str, ...]](), dict[str, CohortRegistry](), list[str]()
    for name, case_ids in partition.items():
        own = replace(cohort.subset(case_ids), has_folds=False)
        key = derive_seed(config.experiment.seed, name, "blocks").to_bytes(8, "big")
        registry = CohortRegistry(None, smallest, key)
        registry.freeze(own)
        blocks = registry.status(own).usable
        if not blocks:
            continue
        kept[name], registries[name] = case_ids, registry
        fold_of |= {case_id: block.fold for block in blocks for case_id in block.case_ids}
        if len(blocks) == 1:
            single.append(name)
    if not kept:
        raise ConfigError(
            f"blocks=true: none of the {len(partition)} sites has {smallest.patients} patients, {smallest.events} with "
            "the event and as many without it; use partition=tss_merged, or lower disclosure.min_round_patients"
        )
    if len(single) == len(kept):
        raise ConfigError(
            f"blocks=true: no site has two blocks, so no patient is tested; two need {2 * smallest.patients} patients, "
            f"{2 * smallest.events} with the event and as many without it. Use larger sites (partition=tss_merged)"
        )
    warnings = []
    if left_out := sorted(set(partition) - set(kept)):
        warnings.append(f"{len(left_out)} of {len(partition)} sites are below the thresholds and take no part")
    if single:
        warnings.append(f"{len(single)} sites have one block: they train in every fold and are tested in none")
    records = tuple(replace(r, fold=fold_of.get(r.case_id)) for r in cohort.records)
    return replace(cohort, records=records), kept, registries, tuple(warnings)
