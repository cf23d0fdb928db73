"""Membership inference: decide from a finished model who was in its training data.

A model fits the patients it was trained on better than others. The attacker knows everything about a person (genes,
slides, outcome), the settings and the finished model, and decides whether the person was trained on. Two attacks: the
loss alone, and the likelihood-ratio attack LiRA (Carlini et al. 2022, arXiv 2112.03570), for which the attacker trains
shadow models with and without each person.

Every model here is trained by the same federation on a random half of every site's patients, so that each patient is in
half of the models. Each model in turn is attacked; the others are the attacker's. Results are split by event: the loss
of a patient who died is larger and moves more, so an average over all patients would hide whom the leak concerns.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata

from memamba_core.config.simulation import SimulationConfig
from memamba_core.data.records import Cohort
from memamba_core.training.seeding import derive_seed
from server.federation.handshake import Run
from simulation.cohort import SimulatedCohort
from simulation.grid.build import open_grid
from simulation.methods import predict_weights, train_federated

from .records import Leak

__all__ = ["GROUPS", "Observations", "attack_by_likelihood_ratio", "attack_by_loss", "leaks", "observe"]

GROUPS = ("all", "event", "censored")
"""Groups of patients on which an attack is evaluated: all, with the event, without it."""
NO_TEST_FOLD = -1
"""Fold of an audit's runs: the half that a model is not trained on takes the place of a test fold."""
_FALSE_POSITIVE_RATE = 0.05
_MIN_VARIANCE = 1e-6


@dataclass(frozen=True)
class Observations:
    """Losses that the attacker observes.

    Attributes:
        loss_MN: negative log-likelihood of patient n under model m.
        member_MN: whether the patient was trained on.
        event_N: whether the patient had the event.
    """

    loss_MN: npt.NDArray[np.float64]
    member_MN: npt.NDArray[np.bool_]
    event_N: npt.NDArray[np.bool_]


def observe(
    config: SimulationConfig,
    cohort: SimulatedCohort,
    folder: Path,
    on_model: Callable[[], None],
) -> Observations:
    """Train the models and read every patient's loss from each.

    Args:
        config: settings with the federation and `attacks.num_models`.
        cohort: the simulated sites.
        folder: new folder for the ledgers of the sites of each model.
        on_model: called after each model.
    """
    assert config.attacks is not None, "an audit has attacks"
    experiment, num_models = config.experiment, config.attacks.num_models
    in_a_fold = cohort.cohort.subset([r.case_id for r in cohort.cohort.records if r.fold is not None])
    case_ids = [r.case_id for r in in_a_fold.records]
    rng = np.random.default_rng(derive_seed(experiment.seed, "audit", "membership"))
    member_MN = rng.random((num_models, len(case_ids))).argsort(axis=0) < num_models // 2
    losses = []
    for number, member_N in enumerate(member_MN):
        half = _only(cohort, {case_id for case_id, is_in in zip(case_ids, member_N, strict=True) if is_in})
        run = Run(f"audit-{number}", experiment, NO_TEST_FOLD)
        grid = open_grid(config, half, state=folder / f"model-{number}")
        try:
            result = train_federated(grid, run, half)
        finally:
            grid.close()
        predictions = predict_weights(result.weights, in_a_fold, experiment, result.agreement, config.device)
        losses.append(predictions.loss)
        on_model()
    return Observations(np.stack(losses), member_MN, np.array([r.event for r in in_a_fold.records], dtype=bool))


def attack_by_loss(seen: Observations) -> npt.NDArray[np.float64]:
    """Return scores [M, N], higher for members: the negative loss (Yeom et al. 2018)."""
    scores_MN: npt.NDArray[np.float64] = -seen.loss_MN
    return scores_MN


def attack_by_likelihood_ratio(seen: Observations) -> npt.NDArray[np.float64]:
    """Return log-likelihood ratios [M, N] of member against not, each model judged by all others (LiRA, online).

    The statistic is the logit of the likelihood that the model gives to the observed outcome. Its mean is estimated for
    each patient, its variance is one for all patients, because few models were trained on a patient. A distance from a
    mean over few models is measured by the error of that mean as well. The attacked model is not among those trained on
    its members; without this correction, members would seem further away, and the attack would do worse than guessing
    where there is no leak.
    """
    likelihood_MN = np.clip(np.exp(-seen.loss_MN), 1e-9, 1 - 1e-9)
    logit_MN: npt.NDArray[np.float64] = np.log(likelihood_MN / (1 - likelihood_MN))
    scores_MN = np.zeros(logit_MN.shape)
    for target in range(len(logit_MN)):
        others = np.arange(len(logit_MN)) != target
        inside, outside = (
            _Normal.fit(logit_MN[others], chosen[others]) for chosen in (seen.member_MN, ~seen.member_MN)
        )
        scores_MN[target] = inside.log_density(logit_MN[target]) - outside.log_density(logit_MN[target])
    return scores_MN


def leaks(scores_MN: npt.NDArray[np.float64], seen: Observations) -> dict[str, Leak]:
    """Evaluate how well scores identify members, for each of `GROUPS` in which both kinds are found."""
    chosen = {"all": np.ones_like(seen.event_N), "event": seen.event_N, "censored": ~seen.event_N}
    found = {}
    for group in GROUPS:
        pairs = [
            (scores[chosen[group] & member], scores[chosen[group] & ~member])
            for scores, member in zip(scores_MN, seen.member_MN, strict=True)
        ]
        pairs = [(members, others) for members, others in pairs if len(members) and len(others)]
        if not pairs:
            continue
        aucs = [_auc(members, others) for members, others in pairs]
        caught = [np.mean(members > np.quantile(others, 1 - _FALSE_POSITIVE_RATE)) for members, others in pairs]
        found[group] = Leak(
            auc=float(np.mean(aucs)),
            auc_std=float(np.std(aucs, ddof=1)),
            found=float(np.mean(caught)),
            num_patients=int(chosen[group].sum()),
        )
    return found


@dataclass(frozen=True)
class _Normal:
    """Normal distribution for each patient: own means, a variance shared by all.

    Attributes:
        mean_N: means, each estimated from `count_N` models.
        count_N: number of models.
        variance: variance of a model's value around the true mean.
    """

    mean_N: npt.NDArray[np.float64]
    count_N: npt.NDArray[np.int64]
    variance: float

    @classmethod
    def fit(cls, logit_MN: npt.NDArray[np.float64], chosen_MN: npt.NDArray[np.bool_]) -> "_Normal":
        mean_N: npt.NDArray[np.float64] = np.average(logit_MN, axis=0, weights=chosen_MN)
        squares = np.where(chosen_MN, (logit_MN - mean_N) ** 2, 0.0).sum()
        freedom = chosen_MN.sum() - logit_MN.shape[1]
        return cls(mean_N, chosen_MN.sum(axis=0), max(float(squares / freedom), _MIN_VARIANCE))

    def log_density(self, logit_N: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Return the log-density up to a constant, with the error of the estimated mean in the variance."""
        error_N = self.variance * (1 + 1 / self.count_N)
        density_N: npt.NDArray[np.float64] = -0.5 * ((logit_N - self.mean_N) ** 2 / error_N + np.log(self.variance))
        return density_N


def _auc(members: npt.NDArray[np.float64], others: npt.NDArray[np.float64]) -> float:
    """Return the area under the ROC curve; ties count half."""
    ranks = rankdata(np.concatenate([members, others]))[: len(members)]
    return float((ranks.sum() - len(members) * (len(members) + 1) / 2) / (len(members) * len(others)))


def _only(cohort: SimulatedCohort, case_ids: set[str]) -> SimulatedCohort:
    """Return the sites with these patients alone; sites without one are left out."""

    def kept(part: Cohort) -> Cohort:
        return part.subset(case_ids)

    sites = {name: replace(site, cohort=kept(site.cohort)) for name, site in cohort.sites.items()}
    return replace(
        cohort, cohort=kept(cohort.cohort), sites={name: site for name, site in sites.items() if site.cohort.records}
    )
