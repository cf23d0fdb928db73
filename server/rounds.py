"""The round loop: settle, then train round by round, then one closing evaluation.

The same in a simulation and over a network; only the Grid differs. After each round the journal holds everything
that the next one needs.
"""

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy.typing as npt
from flwr.serverapp import Grid

from memamba_core.config.federation import FederationConfig
from memamba_core.data.agreement import Agreement
from memamba_core.errors import BudgetError, FederationError, ProtocolError
from memamba_core.protocol import (
    EvaluateReply,
    EvaluateRequest,
    FactsReply,
    Metrics,
    Phase,
    Refusal,
    TrainReply,
    TrainRequest,
)
from memamba_core.training.checkpoint import initial_model, weights_of
from memamba_core.training.deltas import weights_from_delta

from .evaluation import Evaluation, metrics_line, summarise_metrics
from .exchange import Answers, SiteFailure, ask, wait_for_return
from .gate import objection_to, objection_to_metrics
from .journal import Journal, JournalEntry, RoundRecord
from .settle import Run, Settlement, settle
from .strategy import GroupedStrategy

__all__ = ["FederationResult", "Observer", "run_federation"]

_log = logging.getLogger(__name__)
Weights = dict[str, npt.NDArray[Any]]


class Observer(Protocol):
    """Told what happens, while it happens."""

    def on_phase(self, phase: Phase, num_sites: int, server_round: int) -> None:
        """A phase begins; `server_round` is 0 outside of training."""
        ...

    def on_round(self, record: RoundRecord) -> None:
        """A round is finished and in the journal."""
        ...


@dataclass(frozen=True)
class FederationResult:
    """What a federation ends with."""

    weights: Weights
    agreement: Agreement
    facts: dict[str, FactsReply]
    rounds: tuple[RoundRecord, ...]
    evaluation: Evaluation
    failures: dict[str, SiteFailure]
    warnings: tuple[str, ...]


def run_federation(
    grid: Grid,
    run: Run,
    *,
    signatures: Mapping[str, tuple[str, ...]] | None = None,
    journal: Journal | None = None,
    observer: Observer | None = None,
    enrolled: Mapping[str, int] | None = None,
) -> FederationResult:
    """Run a federation to its end, or go on with an interrupted one.

    Args:
        grid: Flower's Grid.
        run: experiment, fold and names.
        signatures: gene groups, symbol lists by name.
        journal: written after each round, and read first: if it holds rounds, they are not done again.
        observer: told of phases and rounds.
        enrolled: Flower's node id of each site that takes part, known by its key; None takes who is connected.

    A federation whose sites have all spent their privacy budget ends with the model that it has.

    Raises:
        FederationError: too few accepted answers, twice in a row; with a journal the run can be resumed.
        AgreementError: sites declare different things.
    """
    past = journal.read() if journal is not None else None
    _tell(observer, Phase.FACTS, 0)
    settlement = settle(grid, run, signatures, past.agreement if past else None, enrolled)
    weights = past.weights if past else weights_of(initial_model(run.experiment, settlement.agreement))
    strategy = GroupedStrategy(run.experiment.strategy, list(weights))
    rounds: tuple[RoundRecord, ...] = ()
    warnings = past.warnings if past else settlement.warnings
    if past is not None:
        strategy.restore(past.strategy_state, weights)
        rounds = past.rounds
        _log.info("resuming after round %d", len(rounds))
    for server_round in range(len(rounds) + 1, run.experiment.federation.num_rounds + 1):
        try:
            weights, record = _train_round(grid, run, settlement, strategy, weights, server_round, observer)
        except BudgetError as error:
            warnings = (*warnings, str(error))
            _log.warning(warnings[-1])
            break
        rounds = (*rounds, record)
        if journal is not None:
            journal.write(JournalEntry(weights, strategy.state(), settlement.agreement, rounds, warnings))
        if observer is not None:
            observer.on_round(record)
    _tell(observer, Phase.EVALUATE, len(settlement.nodes))
    evaluation = _evaluate(grid, run, settlement, weights)
    return FederationResult(
        weights,
        settlement.agreement,
        settlement.facts,
        rounds,
        evaluation,
        settlement.failures,
        warnings,
    )


def _train_round(
    grid: Grid,
    run: Run,
    settlement: Settlement,
    strategy: GroupedStrategy,
    weights: Weights,
    server_round: int,
    observer: Observer | None,
) -> tuple[Weights, RoundRecord]:
    """One round; repeated once if too few answers are accepted."""
    config, start = run.experiment.federation, time.perf_counter()
    trainers = [site for site, fact in settlement.facts.items() if fact.size_band]
    asked = strategy.configure(server_round, weights, grid)
    request = TrainRequest(
        weights=weights,
        run_id=run.run_id,
        config_digest=run.experiment.digest(),
        agreement_digest=settlement.agreement.digest(),
        fold=run.fold,
        server_round=server_round,
        proximal_mu=asked.get("proximal-mu"),
    )
    for attempt in (1, 2):
        if attempt == 2:
            wait_for_return(grid, [settlement.nodes[site] for site in trainers], config.min_results)
        _tell(observer, Phase.TRAIN, len(trainers), server_round)
        answers = ask(
            grid,
            Phase.TRAIN,
            dict.fromkeys(trainers, request),
            settlement.nodes,
            TrainReply,
            timeout_s=config.round_timeout_s,
            group=str(server_round),
        )
        accepted, refused = _pass_gate(answers, weights, run, settlement)
        for site, failure in (answers.failures | refused).items():
            _log.warning("round %d: %s is left out: %s", server_round, site, failure.text)
        if len(accepted) >= config.min_results:
            break
        if not answers.replies and all(f.code == Refusal.BUDGET.code for f in answers.failures.values()):
            raise BudgetError(
                f"round {server_round}: the privacy budget of every site that was asked is spent; the model of round "
                f"{server_round - 1} is the last"
            )
        _log.warning(
            "round %d: %d accepted answers, federation.min_results is %d (attempt %d of 2)",
            server_round,
            len(accepted),
            config.min_results,
            attempt,
        )
    else:
        failures = sorted((answers.failures | refused).items())
        left_out = "; ".join(f"{site}: {failure.text}" for site, failure in failures)
        done = server_round - 1
        advice = f"The journal holds round {done}: resume" if done else "No round is done: begin again"
        raise FederationError(
            f"round {server_round}: {len(accepted)} of {len(trainers)} sites gave an accepted answer, twice; "
            f"federation.min_results is {config.min_results}. Left out: {left_out or 'nobody'}. "
            f"{advice} when the sites are back"
        )
    new = strategy.aggregate(server_round, accepted, weights)
    sites = {site: _site_line(reply) for site, reply in accepted.items()}
    sites |= {site: {"failure": f.text, "code": f.code} for site, f in (answers.failures | refused).items()}
    record = RoundRecord(
        server_round,
        {site: sites[site] for site in sorted(sites)},
        time.perf_counter() - start,
        answers.bytes_sent,
        answers.bytes_received,
    )
    return new, record


def _pass_gate(
    answers: Answers[TrainReply], weights: Weights, run: Run, settlement: Settlement
) -> tuple[dict[str, TrainReply], dict[str, SiteFailure]]:
    accepted: dict[str, TrainReply] = {}
    refused: dict[str, SiteFailure] = {}
    for site, reply in answers.replies.items():
        try:
            reply = _as_weights(reply, weights, run.experiment.federation)
            objection = objection_to(
                reply, weights, run.experiment.federation, settlement.facts[site]
            ) or _objection_to_metrics(reply, run)
        except ProtocolError as error:
            objection = str(error)
        if objection is None:
            accepted[site] = reply
        else:
            refused[site] = SiteFailure(0, objection)
    return accepted, refused


def _as_weights(reply: TrainReply, sent: Weights, config: FederationConfig) -> TrainReply:
    """The reply with float32 weights, whatever they travelled as.

    Raises:
        ProtocolError: they did not travel as was agreed.
    """
    if config.wire == "bfloat16_delta":
        return reply.model_copy(update={"weights": weights_from_delta(reply.weights, sent)})
    return reply


def _evaluate(grid: Grid, run: Run, settlement: Settlement, weights: Weights) -> Evaluation:
    """The closing evaluation. Every site gets the final weights, also those without a test patient."""
    request = EvaluateRequest(
        weights=weights,
        run_id=run.run_id,
        config_digest=run.experiment.digest(),
        agreement_digest=settlement.agreement.digest(),
        fold=run.fold,
    )
    answers = ask(
        grid,
        Phase.EVALUATE,
        dict.fromkeys(settlement.nodes, request),
        settlement.nodes,
        EvaluateReply,
        timeout_s=run.experiment.federation.round_timeout_s,
    )
    objections = {site: _objection_to_metrics(reply, run) for site, reply in answers.replies.items()}
    failures = answers.failures | {site: SiteFailure(0, text) for site, text in objections.items() if text}
    for site, failure in failures.items():
        _log.warning("closing evaluation: %s is left out: %s", site, failure.text)
    return summarise_metrics({s: r for s, r in answers.replies.items() if s not in failures}, failures)


def _objection_to_metrics(metrics: Metrics, run: Run) -> str | None:
    experiment = run.experiment
    return objection_to_metrics(
        metrics, experiment.agreement.grid_num_cells, experiment.federation.max_patients_per_site
    )


def _site_line(reply: TrainReply) -> dict[str, Any]:
    return {"trained": dict(reply.trained), "train_loss": reply.train_loss, "incoming": metrics_line(reply)}


def _tell(observer: Observer | None, phase: Phase, num_sites: int, server_round: int = 0) -> None:
    if observer is not None:
        observer.on_phase(phase, num_sites, server_round)
