"""Canary audit: measure the privacy of the training round that sites run, and compare it with the accountant's claim.

Made-up patients with known gradients, longer than the clipping norm, are among a site's patients or not by the toss of
a coin. The site trains with the code of a deployment (`train_dp_round`). An attacker who knows all but coins and noise
sees what leaves, and two questions are asked:

* How well does the best attack tell the canaries that were there from the others? The answer is an epsilon with an
  interval (`likelihood_ratio`).
* Is the accountant's epsilon that of the mechanism, by a simulation in which no accountant takes part?
* Does what leaves consist of what the accountant was given: noise of the claimed size, independent in every step and
  round, one clipping norm for each draw, draws of the claimed rate (`step_checks`)?

The audit has a plan of its own, because a run's epsilon of 8 would leave little to contradict: an attack that is always
right proves that epsilon is not small, and not how large it is.
"""

from functools import cache

import numpy as np
from scipy.stats import norm

from memamba_core.config.experiment import Experiment
from memamba_core.patient import InputSpec
from memamba_core.privacy.accounting import NoisyStep, epsilon_of
from memamba_core.training.seeding import seeded

from .gradient_canaries import CanaryModel, Directions
from .likelihood_ratio import NoiseByArea, area, score_canaries, simulate_delta
from .observed_rounds import observe_rounds
from .records import CanaryCheck, CanaryReport
from .step_checks import check_steps

__all__ = ["audit_canaries"]

STEP = NoisyStep(0.8, 0.05)
STEPS_OF_ROUNDS = (*[1] * 30, 10, 10)
REPETITIONS = 2
DELTA = 1e-5
_SMALL = {"d_model": 8, "d_state": 2, "group_hidden": 4}
"""Widths of the audited model. The step treats parameters alike, and a small model has the tensors of a large one."""
_INTERVAL = 1.96
_SIMULATED_DELTA = 0.01


def audit_canaries(experiment: Experiment, spec: InputSpec, num_canaries: int) -> CanaryReport:
    """Run the canary audit.

    Args:
        experiment: settings of the audited run; its model is made with small widths, and all of it is trained.
        spec: inputs of the model.
        num_canaries: number of made-up patients in each of two repetitions.

    Raises:
        ValueError: the model has too few parameters for so many canaries.
    """
    rng = np.random.default_rng()  # an attacker who could repeat the coins would know them
    small = experiment.model.model_copy(update=_SMALL)
    with seeded(experiment.seed):
        model = CanaryModel(small, spec, expert_heads=experiment.training.loss.expert_weight > 0)
    sizes = [parameter.numel() for parameter in model.parameters()]
    model.directions = Directions.draw(sizes, num_canaries, rng)
    rounds = observe_rounds(model, experiment, STEP, STEPS_OF_ROUNDS, REPETITIONS, rng)
    checks = list(check_steps(rounds, model.directions, STEP, sizes))
    claimed = epsilon_of([(STEP, sum(STEPS_OF_ROUNDS))], DELTA)
    inside, outside = score_canaries(rounds, model.directions, STEP)
    by_area, found = _noise_by_area(), area(inside, outside)
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
        num_steps=int(rounds.steps_R.sum()),
        checks=(attack, _check_accountant(), *checks),
    )


@cache
def _noise_by_area() -> NoiseByArea:
    return NoiseByArea(STEP, STEPS_OF_ROUNDS)


@cache
def _check_accountant() -> CanaryCheck:
    """Compare the accountant with a simulation of the mechanism, where delta is large enough to be simulated."""
    epsilon = epsilon_of([(STEP, sum(STEPS_OF_ROUNDS))], _SIMULATED_DELTA)
    delta, error = simulate_delta(STEP, sum(STEPS_OF_ROUNDS), epsilon)
    p_value = float(norm.sf((delta - _SIMULATED_DELTA) / error))  # one-sided: the accountant gives an upper bound
    return CanaryCheck(name="accountant", measured=delta, expected=_SIMULATED_DELTA, p_value=p_value)
