"""Run a federation: handshake, training round by round, one closing evaluation.

Simulation and network run the same code; only the Grid differs. After each round the journal holds everything that the
next round needs.
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
from memamba_core.errors import BudgetError, FederationError, ProtocolError, RejectedReplyError
from memamba_core.training.checkpoint import initial_model, weights_of
from memamba_core.wire.protocol import (
    EvaluateReply,
    EvaluateRequest,
    FactsReply,
    Metrics,
    Phase,
    Refusal,
    TrainReply,
    TrainRequest,
)
from memamba_core.wire.weight_deltas import decode_delta

from .approval import OnApproval
from .evaluation import Evaluation, summarise_metrics
from .exchange import Answers, SiteFailure, ask, wait_for_return
from .handshake import Handshake, Run, perform_handshake
from .journal import Journal, JournalEntry, RoundRecord
from .outcome import Failed, Trained
from .participation import require_sites
from .strategy import GroupedStrategy
from .validation import check_metrics, check_training_reply

__all__ = ["FederationResult", "Observer", "run_federation"]

_log = logging.getLogger(__name__)
Weights = dict[str, npt.NDArray[Any]]


class Observer(Protocol):
    """Progress callbacks, invoked synchronously by the round loop."""

    def on_phase(self, phase: Phase, num_sites: int, server_round: int) -> None:
        """Handle the start of a phase; `server_round` is 0 outside of training."""
        ...

    def on_round(self, record: RoundRecord) -> None:
        """Handle a finished round that is in the journal."""
        ...


@dataclass(frozen=True)
class FederationResult:
    """Result of a federation.

    Attributes:
        weights: the final model, float32 arrays by parameter name.
        agreement: time bins, genes and scaling.
        facts: declarations of the sites that accepted the agreement.
        rounds: finished rounds, those of an interrupted run included.
        evaluation: closing evaluation of the final weights.
        failures: sites that were asked and did not get as far as the agreement.
        warnings: sentences for the person who reads the run.
    """

    weights: Weights
    agreement: Agreement
    facts: dict[str, FactsReply]
    rounds: tuple[RoundRecord, ...]
    evaluation: Evaluation
    failures: dict[str, SiteFailure]
    warnings: tuple[str, ...]

    @property
    def absent(self) -> dict[str, str]:
        """Sites that were asked and did not take part, with the reason.

        A site with training patients takes part if one of its training replies was accepted, in any round. A site
        without takes part if it evaluated the final weights.
        """
        absent = {site: failure.text for site, failure in self.failures.items()}
        for site, facts in self.facts.items():
            evaluation = self.evaluation.sites[site]
            if facts.size_band and not any(site in record.trained for record in self.rounds):
                failures = [record.failed[site].failure for record in self.rounds if site in record.failed]
                absent[site] = failures[-1] if failures else "trained in no round"
            elif not facts.size_band and isinstance(evaluation, Failed):
                absent[site] = evaluation.failure
        return absent


def run_federation(
    grid: Grid,
    run: Run,
    *,
    signatures: Mapping[str, tuple[str, ...]] | None = None,
    journal: Journal | None = None,
    observer: Observer | None = None,
    enrolled: Mapping[str, int] | None = None,
    min_sites: int | None = 1,
    on_approval: OnApproval | None = None,
) -> FederationResult:
    """Run a federation to its end, or resume an interrupted one.

    Args:
        grid: Flower's Grid.
        run: experiment, fold and names.
        signatures: gene groups, symbol lists by name.
        journal: read first and written after each round; rounds that it holds are not repeated.
        observer: called at the start of each phase and after each round.
        enrolled: Flower's node id of each site that takes part, known by its key; None takes all connected nodes.
        min_sites: number of sites that must accept the agreement before round 1; None requires all that were asked.
        on_approval: called with the sites that wait for the approval of their operators, whenever they change.

    A federation in which every site has spent its privacy budget ends with the model of the last finished round.

    Raises:
        FederationError: too few accepted answers, twice in a row; with a journal the run can be resumed.
        AgreementError: sites differ in what they declare.
    """
    past = journal.read() if journal is not None else None
    _notify(observer, Phase.FACTS, 0)
    handshake = perform_handshake(grid, run, signatures, past.agreement if past else None, enrolled, on_approval)
    require_sites(handshake.nodes, {site: failure.text for site, failure in handshake.failures.items()}, min_sites)
    weights = past.weights if past else weights_of(initial_model(run.experiment, handshake.agreement))
    strategy = GroupedStrategy(run.experiment.strategy, list(weights))
    rounds: tuple[RoundRecord, ...] = ()
    warnings = past.warnings if past else handshake.warnings
    if past is not None:
        strategy.restore(past.strategy_state, weights)
        rounds = past.rounds
        _log.info("resuming after round %d", len(rounds))
    for server_round in range(len(rounds) + 1, run.experiment.federation.num_rounds + 1):
        try:
            weights, record = _train_round(grid, run, handshake, strategy, weights, server_round, observer)
        except BudgetError as error:
            warnings = (*warnings, str(error))
            _log.warning(warnings[-1])
            break
        rounds = (*rounds, record)
        if journal is not None:
            journal.write(JournalEntry(weights, strategy.state(), handshake.agreement, rounds, warnings))
        if observer is not None:
            observer.on_round(record)
    _notify(observer, Phase.EVALUATE, len(handshake.nodes))
    evaluation = _evaluate(grid, run, handshake, weights)
    return FederationResult(
        weights,
        handshake.agreement,
        handshake.facts,
        rounds,
        evaluation,
        handshake.failures,
        warnings,
    )


def _train_round(
    grid: Grid,
    run: Run,
    handshake: Handshake,
    strategy: GroupedStrategy,
    weights: Weights,
    server_round: int,
    observer: Observer | None,
) -> tuple[Weights, RoundRecord]:
    """Train one round; repeat it once if too few answers are accepted."""
    config, start = run.experiment.federation, time.perf_counter()
    trainers = [site for site, fact in handshake.facts.items() if fact.size_band]
    asked = strategy.configure(server_round, weights, grid)
    request = TrainRequest(
        weights=weights,
        run_id=run.run_id,
        config_digest=run.experiment.digest(),
        agreement_digest=handshake.agreement.digest(),
        fold=run.fold,
        server_round=server_round,
        proximal_mu=asked.get("proximal-mu"),
    )
    for attempt in (1, 2):
        if attempt == 2:
            wait_for_return(grid, [handshake.nodes[site] for site in trainers], config.min_results)
        _notify(observer, Phase.TRAIN, len(trainers), server_round)
        answers = ask(
            grid,
            Phase.TRAIN,
            dict.fromkeys(trainers, request),
            handshake.nodes,
            TrainReply,
            timeout_s=config.round_timeout_s,
            group=str(server_round),
        )
        accepted, refused = _validate(answers, weights, run, handshake)
        for site, failure in (answers.failures | refused).items():
            _log.warning("round %d: %s is left out: %s", server_round, site, failure.text)
        if len(accepted) >= config.min_results:
            break
        if not answers.replies and all(f.code == Refusal.BUDGET.code for f in answers.failures.values()):
            raise BudgetError(
                f"round {server_round}: the privacy budget of every site that was asked is spent; the model of round "
                f"{server_round - 1} is final"
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
        advice = f"The journal holds round {done}: resume" if done else "No round is finished: start the run again"
        raise FederationError(
            f"round {server_round}: {len(accepted)} of {len(trainers)} sites gave an accepted answer, twice; "
            f"federation.min_results is {config.min_results}. Left out: {left_out or 'no site'}. "
            f"{advice} when the sites answer again"
        )
    new = strategy.aggregate(server_round, accepted, weights)
    sites: dict[str, Trained | Failed] = {site: Trained.from_reply(reply) for site, reply in accepted.items()}
    sites |= {site: Failed.from_failure(failure) for site, failure in (answers.failures | refused).items()}
    record = RoundRecord(
        server_round=server_round,
        sites={site: sites[site] for site in sorted(sites)},
        seconds=time.perf_counter() - start,
        bytes_sent=answers.bytes_sent,
        bytes_received=answers.bytes_received,
    )
    return new, record


def _validate(
    answers: Answers[TrainReply], weights: Weights, run: Run, handshake: Handshake
) -> tuple[dict[str, TrainReply], dict[str, SiteFailure]]:
    accepted: dict[str, TrainReply] = {}
    refused: dict[str, SiteFailure] = {}
    for site, reply in answers.replies.items():
        try:
            reply = _as_weights(reply, weights, run.experiment.federation)
            check_training_reply(reply, weights, run.experiment.federation, handshake.facts[site])
            _check_metrics(reply, run)
        except (ProtocolError, RejectedReplyError) as error:
            refused[site] = SiteFailure(0, str(error))
        else:
            accepted[site] = reply
    return accepted, refused


def _as_weights(reply: TrainReply, sent: Weights, config: FederationConfig) -> TrainReply:
    """Return the reply with float32 weights, decoded from the format in which they travelled.

    Raises:
        ProtocolError: the weights are not in the agreed format.
    """
    if config.wire == "bfloat16_delta":
        return reply.model_copy(update={"weights": decode_delta(reply.weights, sent)})
    return reply


def _evaluate(grid: Grid, run: Run, handshake: Handshake, weights: Weights) -> Evaluation:
    """Evaluate the final weights at every site; sites without a test patient receive the weights, too."""
    request = EvaluateRequest(
        weights=weights,
        run_id=run.run_id,
        config_digest=run.experiment.digest(),
        agreement_digest=handshake.agreement.digest(),
        fold=run.fold,
    )
    answers = ask(
        grid,
        Phase.EVALUATE,
        dict.fromkeys(handshake.nodes, request),
        handshake.nodes,
        EvaluateReply,
        timeout_s=run.experiment.federation.round_timeout_s,
    )
    failures = dict(answers.failures)
    for site, reply in answers.replies.items():
        try:
            _check_metrics(reply, run)
        except RejectedReplyError as error:
            failures[site] = SiteFailure(0, str(error))
    for site, failure in failures.items():
        _log.warning("closing evaluation: %s is left out: %s", site, failure.text)
    return summarise_metrics({s: r for s, r in answers.replies.items() if s not in failures}, failures)


def _check_metrics(metrics: Metrics, run: Run) -> None:
    experiment = run.experiment
    check_metrics(metrics, experiment.agreement.grid_num_cells, experiment.federation.max_patients_per_site)


def _notify(observer: Observer | None, phase: Phase, num_sites: int, server_round: int = 0) -> None:
    if observer is not None:
        observer.on_phase(phase, num_sites, server_round)
