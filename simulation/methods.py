"""Train on a fold in three ways: federated, pooled, each site alone.

All use the same model, time bins, scaling and number of epochs.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from memamba_core.config.experiment import Experiment
from memamba_core.data.agreement import Agreement
from memamba_core.data.dataset import PatientDataset
from memamba_core.data.records import Cohort
from memamba_core.model import MEMamba
from memamba_core.survival.concordance import concordance_index, count_pairs
from memamba_core.survival.curves import integrated_brier_score, time_dependent_auc
from memamba_core.training.checkpoint import Weights, initial_model, model_from, weights_of
from memamba_core.training.seeding import derive_seed
from memamba_core.training.trainer import Predictions, Span, predict, resolve_device, train
from server.federation.handshake import Run, perform_handshake
from server.federation.journal import Journal
from server.federation.rounds import FederationResult, Observer, run_federation
from simulation.grid.local import LocalGrid

from .cohort import SimulatedCohort
from .fold_checks import can_be_ranked
from .summary import LocalOutcome, LocalSite, TestMetrics

__all__ = [
    "MIN_PAIRS",
    "PooledModel",
    "build_agreement_only",
    "evaluate_predictions",
    "predict_fold",
    "predict_weights",
    "train_federated",
    "train_local",
    "train_pooled",
]


MIN_PAIRS = 50
"""Fewest comparable pairs for a site's own C-index. With fewer it is noise: a site of 11 patients with one death
reports 1.000."""


@dataclass(frozen=True)
class PooledModel:
    """One model trained on the union of all training patients."""

    weights: Weights
    predictions: Predictions
    seconds: float


def train_federated(
    grid: LocalGrid,
    run: Run,
    cohort: SimulatedCohort,
    journal: Journal | None = None,
    observer: Observer | None = None,
) -> FederationResult:
    """Train the federation over the simulated sites with the server's own round loop."""
    return run_federation(
        grid, run, signatures=cohort.signatures, journal=journal, observer=observer, enrolled=grid.nodes
    )


def build_agreement_only(grid: LocalGrid, run: Run, cohort: SimulatedCohort) -> Agreement:
    """Make only the agreement, where no federation is trained: bins and scaling are the same for every method."""
    return perform_handshake(grid, run, cohort.signatures, enrolled=grid.nodes).agreement


def train_pooled(
    cohort: SimulatedCohort,
    experiment: Experiment,
    agreement: Agreement,
    fold: int,
    device: str = "auto",
    on_epoch: Callable[[int, float], None] | None = None,
) -> PooledModel:
    """Train one model on the union of the training patients, for as many epochs as a site trains in total."""
    start = time.perf_counter()
    model = _train_on(cohort.training_cohort(fold, experiment), experiment, agreement, "pooled", fold, device, on_epoch)
    predictions = predict_fold(model, cohort.test_cohort(fold), experiment, agreement, device)
    return PooledModel(weights_of(model), predictions, time.perf_counter() - start)


def train_local(
    cohort: SimulatedCohort,
    experiment: Experiment,
    agreement: Agreement,
    fold: int,
    device: str = "auto",
    on_site: Callable[[str], None] | None = None,
) -> LocalOutcome:
    """Train each site alone and evaluate it on the union test fold.

    The sites use the federation's bins and scaling, which flatters them: alone they would not have these.
    A site without an event among its training patients is listed and not trained.

    Returns:
        `c_index` is the mean over the trained sites, weighted by training patients. `own_c_index` of a site is given
        where its own test patients form at least `MIN_PAIRS` comparable pairs.
    """
    start, union = time.perf_counter(), cohort.test_cohort(fold)
    sites: dict[str, LocalSite] = {}
    for name, site in cohort.sites.items():
        own = site.training_cohort(fold, experiment.seed, experiment.federation.curve_holdout)
        counts = {"num_patients": len(own.records), "num_events": own.num_events}
        if own.num_events:
            model = _train_on(own, experiment, agreement, name, fold, device)
            predictions = predict_fold(model, union, experiment, agreement, device)
            own_c_index = _own_c_index(predictions, site.test_cohort(fold, experiment.seed))
            sites[name] = LocalSite(**counts, c_index=_c_index(predictions), own_c_index=own_c_index)
        else:
            reason = "no event among its training patients" if own.records else "no training patient"
            sites[name] = LocalSite(**counts, not_trained=reason)
        if on_site is not None:
            on_site(name)
    defined = [(line.c_index, line.num_patients) for line in sites.values() if line.c_index is not None]
    mean = float(np.average([c for c, _ in defined], weights=[n for _, n in defined])) if defined else None
    return LocalOutcome(c_index=mean, sites=sites, seconds=time.perf_counter() - start)


def predict_fold(
    model: MEMamba, cohort: Cohort, experiment: Experiment, agreement: Agreement, device: str = "auto"
) -> Predictions:
    """Predict a set of patients."""
    dataset = PatientDataset(cohort, agreement, experiment.agreement)
    return predict(model, dataset, device=resolve_device(device), loss=experiment.training.loss)


def predict_weights(
    weights: Weights, cohort: Cohort, experiment: Experiment, agreement: Agreement, device: str = "auto"
) -> Predictions:
    """Predict a set of patients with the weights of a federation."""
    return predict_fold(model_from(weights, experiment, agreement), cohort, experiment, agreement, device)


def evaluate_predictions(predictions: Predictions, training: Cohort, agreement: Agreement) -> TestMetrics:
    """Evaluate the predictions of a test fold; a metric is None where it is undefined, or says more than the data.

    Exact C-index, time-dependent AUC at the agreed edges and their mean, integrated Brier score, mean loss.
    """
    outcome = (predictions.survival_NK, predictions.time_months, predictions.event, agreement.time_bin_edges)
    trained_on = (
        np.array([r.time_months for r in training.records]),
        np.array([r.event for r in training.records], dtype=bool),
    )
    c_index = _c_index(predictions)
    auc = time_dependent_auc(*outcome, *trained_on)
    if c_index is None:  # an AUC would be of even fewer pairs
        auc = (None,) * len(auc)
    known = [value for value in auc if value is not None]
    return TestMetrics(
        c_index=c_index,
        num_patients=len(predictions.risk),
        num_events=int(predictions.event.sum()),
        auc_at_months={f"{edge:g}": value for edge, value in zip(agreement.time_bin_edges, auc, strict=True)},
        auc_mean=float(np.mean(known)) if known else None,
        integrated_brier_score=integrated_brier_score(*outcome, *trained_on),
        loss=float(predictions.loss.mean()) if len(predictions.loss) else None,
    )


def _train_on(
    cohort: Cohort,
    experiment: Experiment,
    agreement: Agreement,
    name: str,
    fold: int,
    device: str,
    on_epoch: Callable[[int, float], None] | None = None,
) -> MEMamba:
    epochs = experiment.federation.num_rounds * experiment.federation.local_epochs
    model = initial_model(experiment, agreement)
    train(
        model,
        PatientDataset(cohort, agreement, experiment.agreement),
        config=experiment.training,
        optimizer=experiment.training.optimizer,
        span=Span(0, epochs, epochs),
        seed=derive_seed(experiment.seed, name, fold),
        device=resolve_device(device),
        on_epoch=on_epoch,
    )
    return model


def _c_index(predictions: Predictions) -> float | None:
    """Return the C-index of a test fold; None of too few pairs."""
    if not can_be_ranked(predictions.time_months, predictions.event):
        return None
    return concordance_index(predictions.risk, predictions.time_months, predictions.event)


def _own_c_index(predictions: Predictions, own: Cohort) -> float | None:
    """Return the C-index on the site's own test patients, where they form enough comparable pairs."""
    names = {r.case_id for r in own.records}
    chosen = np.array([case_id in names for case_id in predictions.case_ids], dtype=bool)
    if not chosen.any():
        return None
    pairs = count_pairs(predictions.risk[chosen], predictions.time_months[chosen], predictions.event[chosen])
    return pairs.c_index if pairs.num_pairs >= MIN_PAIRS else None
