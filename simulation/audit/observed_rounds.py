"""Rounds of private training on canaries, as an attacker sees them who knows everything but the coins and the noise.

Each round is a call of `train_dp_round`, the code that sites run, with the run's settings. The attacker sees the
weights before and after it. Most rounds take one step, so that each step is seen; a few take several, as a run may.
"""

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch

from memamba_core.config.experiment import Experiment
from memamba_core.config.privacy import DPSGDConfig
from memamba_core.config.strategy import FedProxConfig
from memamba_core.privacy.accounting import NoisyStep
from memamba_core.privacy.plan import PrivacyPlan
from memamba_core.training.dp_training import train_dp_round
from memamba_core.training.optim import build_optimizer
from memamba_core.training.seeding import seeded

from .gradient_canaries import CanaryDataset, CanaryModel

__all__ = ["ObservedRounds", "Observer"]

_SIZE_BAND = 64
"""Public band of the made-up site. The divisor follows from it and is not the number of patients in a step."""
_SEED = 0
_LEAST_RATE = 0.01
"""Least learning rate of the audit: smaller steps would be lost in the rounding of float32 weights."""
_MOST_PULL = 0.1
"""Most that FedProx and weight decay take of a move in one step: beyond, a round shows little but its last step."""


@dataclass(frozen=True)
class ObservedRounds:
    """Sums that left the made-up site in R rounds, and what only the audit knows of them.

    Attributes:
        sum_RP: noisy sum of all steps of a round, in clipping norms: the move of the weights without the public pull of
            FedProx and weight decay, over the learning rate, times the divisor. P trained parameters. With a pull,
            early steps count a little less than late ones, and a step counts 1 on average.
        spread_RP: standard deviation of the noise of right code in `sum_RP` over the noise multiplier; without a pull
            the square root of the number of steps.
        steps_R: number of steps of each round.
        draws_RN: number of steps of the round in which each of the N canaries was drawn.
        inside_RN: True for the canaries that were among the site's patients.
        frozen_moved_R: share of the frozen parameters that moved; None if the run trains all parameters.
    """

    sum_RP: npt.NDArray[np.float32]
    spread_RP: npt.NDArray[np.float32]
    steps_R: npt.NDArray[np.int64]
    draws_RN: npt.NDArray[np.int64]
    inside_RN: npt.NDArray[np.bool_]
    frozen_moved_R: npt.NDArray[np.float64] | None = None

    def __add__(self, other: "ObservedRounds") -> "ObservedRounds":
        """Return the rounds of both."""
        mine, theirs = self.frozen_moved_R, other.frozen_moved_R
        return ObservedRounds(
            np.concatenate([self.sum_RP, other.sum_RP]),
            np.concatenate([self.spread_RP, other.spread_RP]),
            np.concatenate([self.steps_R, other.steps_R]),
            np.concatenate([self.draws_RN, other.draws_RN]),
            np.concatenate([self.inside_RN, other.inside_RN]),
            None if mine is None or theirs is None else np.concatenate([mine, theirs]),
        )


class Observer:
    """The made-up site, and the attacker who sees its weights.

    Args:
        model: has its directions; its weights are moved, mostly by noise.
        experiment: settings of the audited run: trained parameters, clipping norm, loss, precision, weight decay and
            FedProx's term. Its schedule is replaced by a constant, and its learning rate is kept within bounds.
        step: noise multiplier and sampling rate.
    """

    def __init__(self, model: CanaryModel, experiment: Experiment, step: NoisyStep) -> None:
        privacy, strategy, optimizer = experiment.privacy, experiment.strategy, experiment.federation.optimizer
        assert isinstance(privacy, DPSGDConfig), "SimulationConfig refuses an audit of a run without a claim"
        self._model = model
        self._mu = strategy.proximal_mu if isinstance(strategy, FedProxConfig) else 0.0
        pull = max(self._mu + max(optimizer.weight_decay, optimizer.skip_weight_decay), 1e-12)
        self._rate = min(max(optimizer.learning_rate, _LEAST_RATE), _MOST_PULL / pull)
        optimizer = optimizer.model_copy(update={"learning_rate": self._rate})
        training = experiment.training.model_copy(update={"schedule": "constant", "warmup_fraction": 0.0})
        federation = experiment.federation.model_copy(update={"optimizer": optimizer})
        self._experiment = experiment.model_copy(update={"training": training, "federation": federation})
        only_last = privacy.trained == "last_layers"
        self._plan = PrivacyPlan(step, 1, 1, only_last, privacy.max_norm, epsilon=np.inf, delta=0.0)
        model.max_norm = privacy.max_norm
        groups = build_optimizer(model, optimizer).param_groups
        decays = {id(parameter): group["weight_decay"] for group in groups for parameter in group["params"]}
        self._decay_P = np.concatenate([np.full(p.numel(), float(decays[id(p)])) for p in model.trained])

    def observe(self, inside_N: npt.NDArray[np.bool_], steps_of_rounds: Sequence[int]) -> ObservedRounds:
        """Train on some of the canaries and return what leaves.

        Each call has the rounds of the same numbers, and begins each round with the same seeds of all generators that
        have one: noise that can be repeated is repeated.

        Args:
            inside_N: True for the canaries among the patients.
            steps_of_rounds: number of steps in each round.
        """
        model, frozen = self._model, self._model.frozen()
        before = [parameter.detach().clone() for parameter in frozen]
        sums, spreads, draws, moved = [], [], [], []
        for server_round, steps in enumerate(steps_of_rounds, 1):
            draws_N = np.zeros(len(inside_N), dtype=np.int64)
            anchor_P = _weights(model)
            with _equal_seeds():
                train_dp_round(
                    model,
                    CanaryDataset(np.flatnonzero(inside_N).tolist(), draws_N),
                    experiment=self._experiment,
                    plan=replace(self._plan, steps_per_round=steps, num_rounds=len(steps_of_rounds)),
                    size_band=_SIZE_BAND,
                    server_round=server_round,
                    proximal_mu=self._mu,
                )
            sum_P, spread_P = self._without_pull(anchor_P, _weights(model), steps)
            sums.append(sum_P * self._plan.divisor(_SIZE_BAND) / self._plan.max_norm)
            spreads.append(spread_P)
            draws.append(draws_N)
            changed = sum(int((new != old).sum()) for new, old in zip(frozen, before, strict=True))
            moved.append(changed / max(1, sum(parameter.numel() for parameter in frozen)))
        return ObservedRounds(
            np.stack(sums).astype(np.float32),
            np.stack(spreads).astype(np.float32),
            np.array(steps_of_rounds),
            np.stack(draws),
            np.stack([inside_N] * len(steps_of_rounds)),
            np.array(moved) if frozen else None,
        )

    def _without_pull(
        self, anchor_P: npt.NDArray[np.float64], after_P: npt.NDArray[np.float64], steps: int
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Return the sum of a round's noisy gradients, and its spread.

        The move v of the weights w = a + v follows v' = r v - rate (g + decay a) with r = 1 - rate (decay + mu). The
        gradient g of a step is therefore multiplied by r once for each later step.
        """
        kept_P = 1.0 - self._rate * (self._decay_P + self._mu)
        power_SP = kept_P ** np.arange(steps)[:, None]
        sum_P = (anchor_P - after_P) / self._rate - self._decay_P * anchor_P * power_SP.sum(0)
        mean_P = power_SP.mean(0)
        return sum_P / mean_P, np.sqrt((power_SP**2).sum(0)) / mean_P


def _weights(model: CanaryModel) -> npt.NDArray[np.float64]:
    """Return the trained parameters as one vector, [P]."""
    return torch.cat([p.detach().double().flatten() for p in model.trained]).cpu().numpy()


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
