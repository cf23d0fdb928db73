"""Canary audit: measure the privacy of the training round that sites run, and compare it with the accountant's claim.

Made-up patients with known gradients, longer than the clipping norm, are among a site's patients or not by the toss of
a coin. The site trains with the code of a deployment (`train_dp_round`). An attacker who knows all but coins and noise
sees what leaves, and three questions are asked:

* How well does the best attack tell the canaries that were there from the others? The answer is an epsilon with an
  interval (`likelihood_ratio`).
* Is the accountant's epsilon that of the mechanism, by a simulation in which no accountant takes part?
* Does what leaves consist of what the accountant was given: noise of the claimed size, independent in every step and
  round, one clipping norm for each draw, draws of the claimed rate (`step_checks`)?

The run's own settings are audited: the parameters that it trains, clipping norm, weight decay and FedProx's term. Steps
that draw no patient are seen at a site without patients, and at a site with one. Noise and sampling rate are those
of the audit, because a run's epsilon of 8 would leave little to contradict: an attack that is always right proves that
epsilon is not small, and not how large it is.
"""

from functools import cache

import numpy as np
from scipy.stats import norm

from memamba_core.config.experiment import Experiment
from memamba_core.config.privacy import DPSGDConfig
from memamba_core.patient import InputSpec
from memamba_core.privacy.accounting import NoisyStep, epsilon_of
from memamba_core.training.seeding import seeded

from .gradient_canaries import CanaryModel, Directions
from .likelihood_ratio import NoiseByArea, area, score_canaries, simulate_delta
from .observed_rounds import Observer
from .records import CanaryCheck, CanaryReport
from .step_checks import check_steps

__all__ = ["audit_canaries"]

STEP = NoisyStep(0.8, 0.05)
STEPS_OF_ROUNDS = (*[1] * 30, 10, 10)
QUIET_ROUNDS = (1, 1, 1, 1, 1, 10)
"""Steps in each round of a site without patients, and of a site with one: most of these steps draw no patient."""
DELTA = 1e-5
_SMALL = {"d_state": 2, "group_hidden": 4}
_WIDTHS = (8, 64, 512)
"""Widths of the audited model. The step treats parameters alike, and a small model has the tensors of a large one. The
last layers alone need a wider model for the same number of canaries."""
_INTERVAL = 1.96
_SIMULATED_DELTA = 0.01


def audit_canaries(experiment: Experiment, spec: InputSpec, num_canaries: int) -> CanaryReport:
    """Run the canary audit with the settings of a run.

    Args:
        experiment: settings of the audited run, with differential privacy. Its model is made with small widths.
        spec: inputs of the model.
        num_canaries: number of made-up patients in each of two repetitions.

    Raises:
        ConfigError: the run trains too few parameters for so many canaries.
    """
    rng = np.random.default_rng()  # an attacker who could repeat the coins would know them
    model = _build_model(experiment, spec, num_canaries)
    sizes = [parameter.numel() for parameter in model.trained]
    directions = model.directions = Directions.draw(sizes, num_canaries, rng)
    observer = Observer(model, experiment, STEP)
    rounds = observer.observe(rng.random(num_canaries) < 0.5, STEPS_OF_ROUNDS)
    rounds += observer.observe(rng.random(num_canaries) < 0.5, STEPS_OF_ROUNDS)
    quiet = observer.observe(np.zeros(num_canaries, dtype=np.bool_), QUIET_ROUNDS)
    quiet += observer.observe(np.arange(num_canaries) == 0, QUIET_ROUNDS)
    checks = list(check_steps(rounds, quiet, directions, STEP, sizes))
    claimed = epsilon_of([(STEP, sum(STEPS_OF_ROUNDS))], DELTA)
    inside, outside = score_canaries(rounds, directions, STEP)
    spread_R = np.sqrt((rounds.spread_RP[: len(STEPS_OF_ROUNDS)].astype(np.float64) ** 2).mean(1))
    by_area, found = _noise_by_area(tuple(spread_R.round(6).tolist())), area(inside, outside)
    attack = CanaryCheck(
        name="attack",
        measured=found.value,
        expected=by_area.claimed.value,
        p_value=by_area.p_value(found, len(inside), len(outside)),
    )
    low, middle, high = (
        by_area.epsilon(found.value + side * found.error, DELTA) for side in (-_INTERVAL, 0.0, _INTERVAL)
    )
    return CanaryReport(
        claimed_epsilon=claimed,
        epsilon=middle,
        epsilon_low=low,
        epsilon_high=high,
        auc=found.value,
        num_canaries=len(inside) + len(outside),
        num_steps=int((rounds + quiet).steps_R.sum()),
        checks=(attack, _check_accountant(), *checks),
    )


def _build_model(experiment: Experiment, spec: InputSpec, num_canaries: int) -> CanaryModel:
    """Build the smallest model whose trained parameters give each canary two coordinates, or the widest one tried."""
    assert isinstance(experiment.privacy, DPSGDConfig), "SimulationConfig refuses an audit of a run without a claim"
    for d_model in _WIDTHS:
        small = experiment.model.model_copy(update={**_SMALL, "d_model": d_model})
        with seeded(experiment.seed):
            model = CanaryModel(small, spec, expert_heads=experiment.training.loss.expert_weight > 0)
        model.trained = model.last_layers() if experiment.privacy.trained == "last_layers" else list(model.parameters())
        if sum(parameter.numel() for parameter in model.trained) >= 2 * num_canaries:
            break
    return model


@cache
def _noise_by_area(spread_of_rounds: tuple[float, ...]) -> NoiseByArea:
    return NoiseByArea(STEP, STEPS_OF_ROUNDS, spread_of_rounds)


@cache
def _check_accountant() -> CanaryCheck:
    """Compare the accountant with a simulation of the mechanism, where delta is large enough to be simulated."""
    epsilon = epsilon_of([(STEP, sum(STEPS_OF_ROUNDS))], _SIMULATED_DELTA)
    delta, error = simulate_delta(STEP, sum(STEPS_OF_ROUNDS), epsilon)
    p_value = float(norm.sf((delta - _SIMULATED_DELTA) / error))  # one-sided: the accountant gives an upper bound
    return CanaryCheck(name="accountant", measured=delta, expected=_SIMULATED_DELTA, p_value=p_value)
