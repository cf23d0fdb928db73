"""Rounds of private training on canaries, as an attacker sees them who knows everything but the coins and the noise.

Each round is a call of `train_dp_round`, the code that sites run. The attacker sees the weights before and after it.
Most rounds take one step, so that each step is seen; a few take several, as a run may.
"""

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from memamba_core.config.experiment import Experiment
from memamba_core.config.training import SGDConfig
from memamba_core.privacy.accounting import NoisyStep
from memamba_core.privacy.plan import PrivacyPlan
from memamba_core.training.dp_training import train_dp_round
from memamba_core.training.seeding import seeded

from .gradient_canaries import CanaryDataset, CanaryModel

__all__ = ["ObservedRounds", "observe_rounds"]

_SIZE_BAND = 64
"""Public band of the made-up site. The divisor follows from it and is not the number of patients in a step."""
_MAX_NORM = 1.0
_SEED = 0


@dataclass(frozen=True)
class ObservedRounds:
    """Sums that left the made-up site in R rounds, and what only the audit knows of them.

    Attributes:
        sum_RP: noisy sum of all steps of a round, in clipping norms: the move of the weights over the learning rate,
            times the divisor. P parameters.
        steps_R: number of steps of each round.
        draws_RN: number of steps of the round in which each of the N canaries was drawn.
        inside_RN: True for the canaries that were among the site's patients.
    """

    sum_RP: npt.NDArray[np.float32]
    steps_R: npt.NDArray[np.int64]
    draws_RN: npt.NDArray[np.int64]
    inside_RN: npt.NDArray[np.bool_]


def observe_rounds(
    model: CanaryModel,
    experiment: Experiment,
    step: NoisyStep,
    steps_of_rounds: Sequence[int],
    repetitions: int,
    rng: np.random.Generator,
) -> ObservedRounds:
    """Train on canaries and return what leaves.

    Each repetition tosses new coins, has the rounds of the same numbers, and begins each round with the same seeds of
    all generators that have one: noise that can be repeated is repeated.

    Args:
        model: has its directions; its weights are moved, mostly by noise.
        experiment: loss and precision of the audited run. Learning rate and schedule are replaced by constants.
        step: noise multiplier and sampling rate.
        steps_of_rounds: number of steps in each round of a repetition.
        repetitions: number of repetitions.
        rng: tosses the coins of the canaries.
    """
    optimizer = SGDConfig(learning_rate=1.0, weight_decay=0.0, skip_weight_decay=0.0)
    training = experiment.training.model_copy(update={"schedule": "constant", "warmup_fraction": 0.0})
    federation = experiment.federation.model_copy(update={"optimizer": optimizer})
    experiment = experiment.model_copy(update={"training": training, "federation": federation})
    model.max_norm = _MAX_NORM
    num, sums, draws, inside = len(model.directions), [], [], []
    for _ in range(repetitions):
        chosen_N = rng.random(num) < 0.5
        for server_round, steps in enumerate(steps_of_rounds, 1):
            plan = PrivacyPlan(step, steps, len(steps_of_rounds), False, _MAX_NORM, epsilon=np.inf, delta=0.0)
            draws_N = np.zeros(num, dtype=np.int64)
            before_P = _weights(model)
            with _equal_seeds():
                train_dp_round(
                    model,
                    CanaryDataset(np.flatnonzero(chosen_N).tolist(), draws_N),
                    experiment=experiment,
                    plan=plan,
                    size_band=_SIZE_BAND,
                    server_round=server_round,
                )
            sums.append(((before_P - _weights(model)) * plan.divisor(_SIZE_BAND) / _MAX_NORM).astype(np.float32))
            draws.append(draws_N)
            inside.append(chosen_N)
    steps_R = np.array([*steps_of_rounds] * repetitions)
    return ObservedRounds(np.stack(sums), steps_R, np.stack(draws), np.stack(inside))


def _weights(model: CanaryModel) -> npt.NDArray[np.float64]:
    """Return all parameters as one vector, [P]."""
    return torch.cat([p.detach().double().flatten() for p in model.parameters()]).cpu().numpy()


@contextmanager
def _equal_seeds() -> Iterator[None]:
    """Seed the global generators of torch, NumPy and Python within the block, and restore them after it."""
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002  # a site's code may use it by mistake
    random.seed(_SEED)
    np.random.seed(_SEED)  # noqa: NPY002
    try:
        with seeded(_SEED):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002
