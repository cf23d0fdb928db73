"""Check the weights that a strict site receives: a coordinator can craft weights that single a patient out.

Weights decide what an answer says. With a bias that switches a unit on for one patient only, the update of the unit is
that patient's values; evaluating many weights reads risks, and so values, patient by patient. Therefore a strict site
accepts weights only if an honest run could have brought them:

* Round 1 brings the start that the site computes itself from settings and agreement.
* A later round brings weights within the distance that the strategy can move (`step_bounds`) from the last ones that
  the site accepted, in as many steps as rounds have passed. A site that trains for the first time in a later round
  measures from the start.
* A round that is requested again brings the same weights; rounds never go back.
* One evaluation closes the run: of weights within the steps that remain to the last round. The same weights get the
  same answer again; others are refused, and so is any further training.

A hostile coordinator can still move the weights within these bounds, and choose where a run stands after its rounds.

**Under differential privacy** the start, the order of rounds and the single evaluation are checked in the same way; the
distance is not: every site adds noise to its update, whose norm grows with the number of parameters and with other
sites' bands, and an honest step is as long as a crafted one. The (epsilon, delta) of a site holds for any weights.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from memamba_core.model import parameter_group
from memamba_core.training.checkpoint import initial_model, weights_of
from memamba_core.training.update_norm import ROUNDING
from memamba_core.wire.protocol import EvaluateReply, EvaluateRequest, Refusal, TrainRequest

from .received_weights import ReceivedWeights, WeightRecord, digest_weights
from .session import RefusedError, Session
from .step_bounds import StepBound, path_bound

__all__ = ["WeightChecks"]

Weights = Mapping[str, npt.NDArray[Any]]

_START_TOLERANCE = 1e-5
"""Largest relative difference of a start weight from the site's own, absolute below 1. Torch's generator is the same
everywhere; its transforms to normal numbers, `exp` and `log` differ in the last bits between processors and builds of
torch. The sum of all differences is then below 1e-5 of the norm of the start, which is far below one step of a run."""

_FLOAT_TOLERANCE = 1e-5
"""Slack of a bound, relative to the norm of the weights: they travel as float32, and strategies compute in float32."""


class WeightChecks:
    """Checks of one site's received weights.

    Args:
        strict: False accepts all weights and stores nothing (a permissive site of a simulation).
    """

    def __init__(self, *, strict: bool) -> None:
        self._strict = strict
        self._received = ReceivedWeights()

    def accept_round(self, session: Session, request: TrainRequest, folder: Path | None) -> None:
        """Check the weights of a training request, and store them before anything is computed from them.

        Args:
            session: of the run, with its agreement.
            request: its round lies within the settings.
            folder: of the run on the state volume; None keeps the record in memory.

        Raises:
            RefusedError: an honest run cannot bring these weights in this round.
        """
        if not self._strict:
            return
        record = self._received.read(session, folder)
        if record.evaluated:
            raise RefusedError(Refusal.POLICY, "the run was evaluated at this site, which closed it; start a new run")
        if request.server_round < record.server_round:
            raise RefusedError(
                Refusal.POLICY,
                f"round {request.server_round} is requested after round {record.server_round}; rounds never go back",
            )
        if request.server_round == record.server_round:
            if digest_weights(request.weights) != record.digest:
                raise RefusedError(
                    Refusal.POLICY, f"round {request.server_round} is requested again with other weights"
                )
            return
        _check_distance(session, record, request.weights, request.server_round - 1)
        self._received.accept(session, folder, request.server_round, request.weights)

    def accept_evaluation(
        self, session: Session, request: EvaluateRequest, folder: Path | None
    ) -> EvaluateReply | None:
        """Check the weights of an evaluation, and store that the run is closed with them.

        Returns:
            The stored answer where these weights were evaluated before; else None.

        Raises:
            RefusedError: other weights were evaluated before, or an honest run cannot end with these.
        """
        if not self._strict:
            return None
        record, digest = self._received.read(session, folder), digest_weights(request.weights)
        if record.evaluated and record.evaluated != digest:
            raise RefusedError(
                Refusal.POLICY, "other weights of this run were evaluated before; a run has one evaluation"
            )
        if not record.evaluated:
            _check_distance(session, record, request.weights, session.experiment.federation.num_rounds)
            self._received.begin_evaluation(session, folder, digest)
        return record.reply

    def finish_evaluation(
        self, session: Session, request: EvaluateRequest, folder: Path | None, reply: EvaluateReply
    ) -> None:
        """Store the answer of an evaluation, which repeats it for the same weights."""
        if self._strict:
            self._received.finish_evaluation(session, folder, digest_weights(request.weights), reply)


def _check_distance(session: Session, record: WeightRecord, weights: Weights, last_round: int) -> None:
    """Check that the steps of the rounds since the last accepted weights, up to `last_round`, can reach these."""
    base = record.weights
    if base is None:
        assert session.agreement is not None
        base = weights_of(initial_model(session.experiment, session.agreement))
    _check_form(weights, base)
    if last_round == 0:
        _check_start(weights, base)
        return
    federation = session.experiment.federation
    if session.plan is not None or federation.update_norm is None:  # the latter never passes a strict site's policy
        return
    first = max(record.server_round, 1)  # the aggregation of this round is the first one that the site has not seen
    bound = path_bound(session.experiment.strategy, federation.update_norm, first, last_round)
    whole = session.experiment.strategy.name == "krum"
    groups: dict[str, list[str]] = {}
    for name in base:
        groups.setdefault("model" if whole else parameter_group(name), []).append(name)
    for group, names in groups.items():
        _check_group(group, names, weights, base, bound)


def _check_form(weights: Weights, base: Weights) -> None:
    if {n: (a.shape, str(a.dtype)) for n, a in weights.items()} != {n: (a.shape, "float32") for n, a in base.items()}:
        raise RefusedError(Refusal.MESSAGE, "names, shapes or dtypes of the weights differ from those of the model")
    if not all(np.isfinite(array).all() for array in weights.values()):
        raise RefusedError(Refusal.MESSAGE, "the weights hold values that are not finite")


def _check_start(weights: Weights, start: Weights) -> None:
    for name, own in start.items():
        if (np.abs(weights[name] - own) > _START_TOLERANCE * np.maximum(1.0, np.abs(own))).any():
            raise RefusedError(
                Refusal.POLICY,
                f"{name} of round 1 differs from the start that this site computes from settings and agreement. An "
                "honest coordinator has another version of torch, or set other start weights",
            )


def _check_group(group: str, names: list[str], weights: Weights, base: Weights, bound: StepBound) -> None:
    square = size = largest = 0.0
    for name in names:
        own = base[name].astype(np.float64)
        change = weights[name] - own
        square += float(np.square(change).sum())
        size += float(np.square(own).sum())
        beyond = np.abs(change) - _FLOAT_TOLERANCE * np.maximum(1.0, np.abs(own))
        largest = max(largest, float(beyond.max(initial=0.0)))
    norm, limit = square**0.5, bound.norm * ROUNDING + _FLOAT_TOLERANCE * max(1.0, size**0.5)
    if norm > limit or largest > bound.coordinate * ROUNDING:
        raise RefusedError(
            Refusal.POLICY,
            f"{group} moved by {norm:.3g} (a weight by up to {largest:.3g}) since the last weights that this site "
            f"accepted; the strategy moves it by at most {limit:.3g} ({bound.coordinate:.3g})",
        )
