"""Comparison of settings under differential privacy: the linear skip alone, in numpy, with many draws of the noise.

    python benchmarks/private_settings.py              # compare settings, on inner holdouts
    python benchmarks/private_settings.py --test-folds # the defaults by cohort, on the test folds
    python benchmarks/private_settings.py --test-folds 0,1,2 --cohorts tcga_brca --partition region

The defaults of `privacy=dp_sgd` train the linear skip and the last layer of the head. This program computes the skip
with the hazard biases, by the same clipped and noised steps of the same sites, without the head, which changes nothing
here. Two draws of the noise differ by more than two settings do. A draw takes seconds in a simulation, and milliseconds
in this program. Its noise comes from a seeded generator and protects no data.

Settings are evaluated on inner holdouts of the training folds, as in `screen.py`, the same for every setting. A row is
the mean over cohorts, with the mean difference to the defaults over all holdouts and its standard error. With
--test-folds nothing is compared: a cell is the mean of the defaults ± its standard deviation over folds, and in
brackets the standard deviation over draws of the noise in one fold.
"""

import argparse
import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace

from memamba_core.io.process_setup import set_up_process

if __name__ == "__main__":
    set_up_process()  # before torch is imported

import numpy as np
import numpy.typing as npt
from cohorts import COHORTS, tables_are_here
from screen import HELD_OUT, inner_cohort

from memamba_core.config.compose import compose_simulation
from memamba_core.config.simulation import SimulationConfig
from memamba_core.data.agreement import Agreement
from memamba_core.data.dataset import PatientDataset
from memamba_core.privacy.accounting import calibrate_noise
from memamba_core.wire.protocol import size_band
from server.federation.handshake import Run
from simulation.cohort import SimulatedCohort, prepare_cohort
from simulation.grid.build import open_grid
from simulation.methods import build_agreement_only

FloatArray = npt.NDArray[np.float64]
EDGES = (12.0, 24.0, 48.0)  # agreement.public_edges
SAMPLING_RATE, DELTA = 0.9, 1e-5


@dataclass(frozen=True)
class Setting:
    """One row: deviations from the defaults of `privacy=dp_sgd`."""

    label: str
    num_steps: int = 5
    learning_rate: float = 0.1
    max_norm: float = 5.0
    hazard_bias: float = -4.0
    average: bool = False
    """Release the mean of the weights after each step instead of the last."""
    bias_steps: int = 0
    """First steps, in which only the hazard biases are trained, with a clipping norm of 1 and a learning rate of 8."""
    known_hazard: bool = False
    """Add `hazard_bias` to the log odds of the cohort's own mean hazard. This is not private; it stands for published
    survival of the disease."""
    centred: bool = False
    """Subtract the mean over all patients from the columns. This is not private; it stands for public means."""


SETTINGS = (
    Setting("defaults"),
    Setting("mean of all steps' weights", average=True),
    Setting("1 step", num_steps=1, learning_rate=0.5),
    Setting("20 steps, as long a way", num_steps=20, learning_rate=0.025),
    Setting("20 steps, four times the way", num_steps=20),
    Setting("norm 1", max_norm=1.0, learning_rate=0.5),
    Setting("norm 10", max_norm=10.0, learning_rate=0.05),
    Setting("hazard bias -1.5", hazard_bias=-1.5),
    Setting("hazard bias -3", hazard_bias=-3.0),
    Setting("hazard bias -5, norm 3", hazard_bias=-5.0, max_norm=3.0, learning_rate=0.17),
    Setting("biases alone in a first step", bias_steps=1, max_norm=7.0, learning_rate=0.05),
    Setting("known hazard - 0.5, norm 7 (not private)", known_hazard=True, hazard_bias=-0.5, max_norm=7.0),
    Setting("centred columns (not private)", centred=True, hazard_bias=-1.0, max_norm=3.0),
)


@dataclass(frozen=True)
class Split:
    """Training patients by site, and the patients held out.

    Attributes:
        columns_NC: genes of all patients, times the factor of the linear skip.
        time_N, event_N: outcomes: follow-up in months, and True if the event happened then.
        sites: indices of the training patients of each site.
        held_out: indices of the other patients.
    """

    columns_NC: FloatArray
    time_N: FloatArray
    event_N: npt.NDArray[np.bool_]
    sites: tuple[npt.NDArray[np.int64], ...]
    held_out: npt.NDArray[np.int64]


def splits_of(cohort_name: str, partition: tuple[str, ...], test_folds: tuple[int, ...] | None) -> Iterator[Split]:
    """Yield these test folds of a cohort; None: the inner holdouts of the training patients of each fold."""
    overrides = (f"data={cohort_name}", "model=genomics", *partition)
    # As under privacy=dp_sgd, but without its ledgers.
    overrides = (*overrides, "agreement.time_bins=public", "agreement.gene_scaling=public")
    config = compose_simulation(overrides)
    outer = prepare_cohort(config)
    run = Run("settings", config.experiment, 0)
    agreement = build_agreement_only(open_grid(config, outer, state=None), run, outer)
    if test_folds is not None:
        yield from (_split(config, outer, agreement, fold) for fold in test_folds)
    else:
        yield from (_split(config, inner_cohort(outer, fold, seed=0), agreement, HELD_OUT) for fold in range(5))


def _split(config: SimulationConfig, cohort: SimulatedCohort, agreement: Agreement, fold: int) -> Split:
    dataset = PatientDataset(cohort.cohort, agreement, config.experiment.agreement)
    genes = [dataset.load(i).genes_C for i in range(len(dataset))]
    width = len(agreement.gene_columns)
    rows = np.array([np.zeros(width) if g is None else g.numpy() for g in genes], dtype=np.float64)
    place = {record.case_id: i for i, record in enumerate(dataset.records)}
    trained = [
        np.array([place[r.case_id] for r in site.cohort.records if r.fold not in (None, fold)], dtype=np.int64)
        for site in cohort.sites.values()
    ]
    held_out = np.array([i for i, r in enumerate(dataset.records) if r.fold == fold], dtype=np.int64)
    sites = tuple(indices for indices in trained if len(indices))
    return Split(rows * 15 * width**-0.5, dataset.times, dataset.events, sites, held_out)


def clipped_sums(
    split: Split,
    site: npt.NDArray[np.int64],
    logits_NKR: FloatArray,
    max_norm: float,
    taking_part_NR: npt.NDArray[np.bool_],
    only_biases: bool,
) -> tuple[FloatArray, FloatArray]:
    """Return the sums [C, R] and [K, R] of the patients' clipped gradients of the likelihood, for each of R draws."""
    hazard_NKR = 1 / (1 + np.exp(-logits_NKR))
    bins_N = np.searchsorted(EDGES, split.time_N[site], side="right")
    at_risk_NK = np.arange(len(EDGES) + 1) <= bins_N[:, None]
    by_bin_NKR = hazard_NKR * at_risk_NK[:, :, None]
    by_bin_NKR[np.arange(len(site)), bins_N] -= split.event_N[site][:, None]
    shift_NR = np.zeros(taking_part_NR.shape) if only_biases else by_bin_NKR.sum(axis=1)
    columns_NC = split.columns_NC[site]
    norm_NR = np.sqrt(shift_NR**2 * (columns_NC**2).sum(axis=1)[:, None] + (by_bin_NKR**2).sum(axis=1))
    factor_NR = taking_part_NR * np.minimum(1.0, max_norm / np.maximum(norm_NR, 1e-12))
    return columns_NC.T @ (shift_NR * factor_NR), (by_bin_NKR * factor_NR[:, None]).sum(axis=0)


def c_indices(split: Split, setting: Setting, epsilon: float | None, num_draws: int, seed: int) -> FloatArray:
    """Return the C-index of the patients held out, for each draw of sampling and noise."""
    if setting.centred:
        split = replace(split, columns_NC=split.columns_NC - split.columns_NC.mean(axis=0))
    rng = np.random.default_rng(seed)
    num_steps = setting.bias_steps + setting.num_steps
    sigma = 0.0 if epsilon is None else calibrate_noise(epsilon, DELTA, SAMPLING_RATE, num_steps)
    bands = np.array([size_band(len(site)) for site in split.sites], dtype=np.float64)
    weights_CR = np.zeros((split.columns_NC.shape[1], num_draws))
    bias_KR = np.full((len(EDGES) + 1, num_draws), setting.hazard_bias)
    if setting.known_hazard:
        trained = np.concatenate(split.sites)
        bins_at_risk = np.searchsorted(EDGES, split.time_N[trained], side="right") + 1
        hazard = split.event_N[trained].sum() / bins_at_risk.sum()
        bias_KR += np.log(hazard / (1 - hazard))
    path_CR = np.zeros_like(weights_CR)
    for step in range(num_steps):
        only_biases = step < setting.bias_steps
        max_norm, rate = (1.0, 8.0) if only_biases else (setting.max_norm, setting.learning_rate)
        move_CR, move_KR = np.zeros_like(weights_CR), np.zeros_like(bias_KR)
        for site, band in zip(split.sites, bands, strict=True):
            logits_NKR = bias_KR + (split.columns_NC[site] @ weights_CR)[:, None]
            taking_part_NR = rng.random((len(site), num_draws)) < SAMPLING_RATE
            sums = clipped_sums(split, site, logits_NKR, max_norm, taking_part_NR, only_biases)
            share = band / bands.sum() / max(1.0, SAMPLING_RATE * band)
            move_KR += share * (sums[1] + rng.normal(size=move_KR.shape) * sigma * max_norm)
            if not only_biases:
                move_CR += share * (sums[0] + rng.normal(size=move_CR.shape) * sigma * max_norm)
        weights_CR -= rate * move_CR
        bias_KR -= rate * move_KR
        path_CR += weights_CR / setting.num_steps
    final_CR = path_CR if setting.average else weights_CR
    logits_NKR = bias_KR + (split.columns_NC[split.held_out] @ final_CR)[:, None]
    risk_NR = -np.exp(-np.logaddexp(0, logits_NKR).cumsum(axis=1)).sum(axis=1)
    time_N, event_N = split.time_N[split.held_out], split.event_N[split.held_out]
    first, later = np.nonzero((time_N[:, None] < time_N) & event_N[:, None])
    difference = risk_NR[first] - risk_NR[later]
    result: FloatArray = ((difference > 0) + 0.5 * (difference == 0)).mean(axis=0)
    return result


def compare(splits: list[Split], epsilons: list[float | None], num_draws: int) -> None:
    """Print settings by epsilon, with differences to the first."""
    defaults: dict[float | None, FloatArray] = {}
    for setting in SETTINGS:
        cells = []
        for epsilon in epsilons:
            reached = np.array(
                [c_indices(split, setting, epsilon, num_draws, n).mean() for n, split in enumerate(splits)]
            )
            difference = reached - defaults.setdefault(epsilon, reached)
            error = difference.std(ddof=1) / np.sqrt(len(difference))
            compared = f" ({difference.mean():+.3f} ± {error:.3f})" if setting is not SETTINGS[0] else ""
            cells.append(f"{reached.mean():.3f}{compared}")
        print(f"| {setting.label} | " + " | ".join(cells) + " |", flush=True)


def print_defaults(
    cohorts: list[str], splits: list[Split], epsilons: list[float | None], names: list[str], num_draws: int
) -> None:
    """Print the defaults' C-index on the test folds: epsilons by cohort."""
    for epsilon, name in zip(epsilons, names, strict=True):
        drawn = np.array([c_indices(split, SETTINGS[0], epsilon, num_draws, n) for n, split in enumerate(splits)])
        by_cohort = drawn.reshape(len(cohorts), -1, num_draws)
        spread, noise = by_cohort.mean(axis=2).std(axis=1, ddof=1), by_cohort.std(axis=2, ddof=1).mean(axis=1)
        cells = [
            f"{mean:.3f} ± {s:.3f} ({n:.3f})" for mean, s, n in zip(by_cohort.mean((1, 2)), spread, noise, strict=True)
        ]
        mean = [f"{drawn.mean():.3f}"] if len(cohorts) > 1 else []
        print(f"| {name} | " + " | ".join([*cells, *mean]) + " |", flush=True)


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cohorts", default=",".join(COHORTS))
    parser.add_argument("--epsilons", default="none,16,8,4,2")
    parser.add_argument("--draws", type=int, default=24, help="number of draws of sampling and noise")
    parser.add_argument(
        "--partition", default="tss_merged", help="partition into sites; tss_merged: sites of at least 50 patients"
    )
    parser.add_argument(
        "--test-folds",
        nargs="?",
        const="0,1,2,3,4",
        metavar="FOLDS",
        help="evaluate the defaults on test folds (default: all five)",
    )
    arguments = parser.parse_args()
    if not tables_are_here():
        return
    for name in ("flwr", "memamba_core", "server"):
        logging.getLogger(name).setLevel(logging.ERROR)
    epsilons = [None if text == "none" else float(text) for text in arguments.epsilons.split(",")]
    names = ["no noise" if e is None else f"epsilon {e:g}" for e in epsilons]
    cohorts = arguments.cohorts.split(",")
    partition: tuple[str, ...] = (f"partition={arguments.partition}",)
    if arguments.partition == "tss_merged":
        partition = (*partition, "partition.min_patients=50")
    folds = tuple(map(int, arguments.test_folds.split(","))) if arguments.test_folds else None
    splits = [split for name in cohorts for split in splits_of(name, partition, folds)]
    columns = [*cohorts, "mean"][: len(cohorts) + (len(cohorts) > 1)] if folds else names
    print("| | " + " | ".join(columns) + " |\n|" + "---|" * (len(columns) + 1))
    if folds:
        print_defaults(cohorts, splits, epsilons, names, arguments.draws)
    else:
        compare(splits, epsilons, arguments.draws)


if __name__ == "__main__":
    main()
