"""Cost of blocks: sites of five TCGA cohorts, their number of blocks, and the C-index with blocks and without.

    python benchmarks/blocks.py            # the number of blocks of each site, seconds
    python benchmarks/blocks.py --train    # the C-index as well; an hour on two cores

The sites are those of `partition=tss_merged partition.min_patients=50`. Without blocks the test folds are drawn at
random over the cohort, and time bins and scaling come from all sums (a simulation's permissive policy). With blocks
(`blocks=true`, the thresholds of a `site.yaml`) a test fold is the union of one block of each site with two blocks or
more, sites below the thresholds take no part, and public constants apply in place of event counts and of moments of
copy number and mutations. Cells are means over five folds ± the standard deviation over folds; every model is that of
the last round, and nothing is chosen.
"""

import argparse
import logging
from collections import Counter
from dataclasses import replace

from memamba_core.io.process_setup import set_up_process

if __name__ == "__main__":
    set_up_process()  # before torch is imported

import numpy as np
from cohorts import COHORTS, tables_are_here

from client.blocks import SmallestBlock
from client.cohort_registry import CohortRegistry
from memamba_core.config.compose import compose_simulation
from memamba_core.config.site import DisclosureConfig
from memamba_core.errors import NoComparablePairError
from memamba_core.survival.concordance import concordance_index
from server.federation.handshake import Run
from simulation.cohort import prepare_cohort
from simulation.grid.build import open_grid
from simulation.methods import predict_weights, train_federated

FOLDS = range(5)
SITES = (
    "partition=tss_merged",
    "partition.min_patients=50",
    "model=genomics",
    "fold_source=random",
)
POLICIES = {"free folds": (), "blocks": ("blocks=true",)}


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", action="store_true", help="also train with blocks and without")
    parser.add_argument("--smallest", type=int, help="fewest patients of a block (default: as in a site.yaml)")
    parser.add_argument("--seeds", type=int, default=1, help="number of seeds")
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    if not tables_are_here():
        return
    print_blocks(options.smallest)
    if options.train:
        print_c_index(options.seeds)


def print_blocks(fewest: int | None = None) -> None:
    """Print how many sites of each cohort have how many blocks, with the thresholds of a site that answers alone."""
    smallest = SmallestBlock.of(DisclosureConfig())
    if fewest is not None:
        smallest = replace(smallest, patients=fewest)
    print(f"| cohort | sites | {' | '.join(f'{n} blocks' for n in range(6))} | patients in a site with two or more |")
    print("|---|---|" + "---|" * 7)
    for cohort in COHORTS:
        simulated = prepare_cohort(compose_simulation([f"data={cohort}", *SITES]))
        counts, tested, patients = Counter[int](), 0, 0
        for name, site in simulated.sites.items():
            registry = CohortRegistry(None, smallest, name.encode())
            own = replace(site.cohort, has_folds=False)
            registry.freeze(own)
            number = len(registry.status(own).usable)
            counts[number] += 1
            patients += len(site.cohort.records)
            tested += len(site.cohort.records) if number > 1 else 0
        cells = " | ".join(str(counts[number]) for number in range(6))
        print(f"| {cohort} | {len(simulated.sites)} | {cells} | {tested} of {patients} |", flush=True)


def print_c_index(seeds: int) -> None:
    """Print the C-index of the federation on the test folds, with blocks and without."""
    print(f"| cohort | {' | '.join(POLICIES)} | difference |")
    print("|---|---|---|---|")
    for cohort in COHORTS:
        means = {}
        cells = []
        for policy, overrides in POLICIES.items():
            scores = [score for seed in range(seeds) for score in train(cohort, seed, overrides)]
            means[policy] = float(np.mean(scores))
            cells.append(f"{means[policy]:.3f} ± {np.std(scores, ddof=1):.3f}")
        difference = means["blocks"] - means["free folds"]
        print(f"| {cohort} | {' | '.join(cells)} | {difference:+.3f} |", flush=True)


def train(cohort: str, seed: int, overrides: tuple[str, ...]) -> list[float]:
    """Return the C-index of the federation's last model on each test fold with a comparable pair."""
    config = compose_simulation([f"data={cohort}", *SITES, f"seed={seed}", *overrides])
    simulated, scores = prepare_cohort(config), []
    for fold in FOLDS:
        if not simulated.test_cohort(fold).num_events:
            continue
        grid = open_grid(config, simulated)
        try:
            result = train_federated(grid, Run(f"blocks-{fold}", config.experiment, fold), simulated)
        finally:
            grid.close()
        predictions = predict_weights(
            result.weights, simulated.test_cohort(fold), config.experiment, result.agreement, config.device
        )
        try:
            scores.append(concordance_index(predictions.risk, predictions.time_months, predictions.event))
        except NoComparablePairError:
            continue
    return scores


if __name__ == "__main__":
    main()
