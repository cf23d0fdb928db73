"""Run a federation: handshake, training round by round, one closing evaluation.

Simulation and network run the same code; only the Grid differs. After each round the journal holds everything that the
next round needs.
"""

import logging
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy.typing as npt
from flwr.serverapp import Grid

from memamba_core.data.agreement import Agreement
from memamba_core.errors import BudgetError, FederationError, RejectedReplyError
from memamba_core.training.checkpoint import initial_model, weights_of
from memamba_core.wire.protocol import (
    EvaluateReply,
    EvaluateRequest,
    FactsReply,
    Phase,
    Refusal,
    TrainReply,
    TrainRequest,
)

from .approval import OnApproval
from .evaluation import Evaluation, summarise_metrics
from .exchange import SiteFailure, ask, wait_for_return
from .handshake import Handshake, Run, perform_handshake
from .journal import Journal, JournalEntry, RoundRecord
from .outcome import Failed, Trained
from .participation import Participation, list_absent
from .replies import SortedReplies, sort_replies
from .strategy import GroupedStrategy
from .validation import check_metrics
from .watch import watch_round

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
        failures: sites that were named and did not get as far as the agreement.
        warnings: sentences for the person who reads the run.
        sizes: every named site -> lower end of its size band; None where the site never declared it.
        ended_early: reason why fewer rounds than planned took place, also in `warnings`; None if all did.
    """

    weights: Weights
    agreement: Agreement
    facts: dict[str, FactsReply]
    rounds: tuple[RoundRecord, ...]
    evaluation: Evaluation
    failures: dict[str, SiteFailure]
    warnings: tuple[str, ...]
    sizes: dict[str, int | None]
    ended_early: str | None

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
    away: Mapping[str, SiteFailure] | None = None,
    min_sites: int | None = None,
    participation: Participation | None = None,
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
        away: sites that are named and cannot be asked, with the reason.
        min_sites: number of sites that must accept the agreement before round 1; None: as many as `participation` says.
        participation: sites that the handshake and each round need; None: as the experiment says.
        on_approval: called with the sites whose operators have not approved the run yet, whenever they change.

    A federation in which every site has spent its privacy budget ends with the model of the last finished round, and
    the result says so.

    Raises:
        FederationError: too few accepted answers, twice in a row; with a journal the run can be resumed.
        AgreementError: sites differ in what they declare.
    """
    past = journal.read() if journal is not None else None
    _notify(observer, Phase.FACTS, 0)
    handshake = perform_handshake(grid, run, signatures, past.agreement if past else None, enrolled, on_approval)
    failures = {**(away or {}), **handshake.failures}
    sizes = _sizes(run, handshake, failures, past)
    participation = participation or Participation.of(run.experiment.federation)
    participation.check_start(handshake.nodes, {site: f.text for site, f in failures.items()}, sizes, min_sites)
    weights = past.weights if past else weights_of(initial_model(run.experiment, handshake.agreement))
    strategy = GroupedStrategy(run.experiment.strategy, list(weights))
    rounds: tuple[RoundRecord, ...] = ()
    warnings = past.warnings if past else handshake.warnings
    if past is not None:
        strategy.restore(past.strategy_state, weights)
        rounds = past.rounds
        _log.info("resuming after round %d", len(rounds))
        if (begun := Participation.of(run.experiment.federation)) != participation:
            warnings = (*warnings, f"from round {len(rounds) + 1} on: {participation}; the run began with: {begun}")
            _log.warning(warnings[-1])
    ended_early: str | None = None
    for server_round in range(len(rounds) + 1, run.experiment.federation.num_rounds + 1):
        try:
            needed = _Needed(participation, sizes)
            weights, record = _train_round(grid, run, handshake, needed, strategy, weights, server_round, observer)
        except BudgetError as error:
            ended_early = str(error)
            warnings = (*warnings, ended_early)
            _log.warning(ended_early)
            break
        warnings = (*warnings, *watch_round(record, rounds, run.experiment.strategy))
        rounds = (*rounds, record)
        if journal is not None:
            known = {site: size for site, size in sizes.items() if size is not None}
            journal.write(JournalEntry(weights, strategy.state(), handshake.agreement, rounds, warnings, known))
        if observer is not None:
            observer.on_round(record)
    _notify(observer, Phase.EVALUATE, len(handshake.nodes))
    evaluation = _evaluate(grid, run, handshake, _Needed(participation, sizes), weights)
    return FederationResult(
        weights,
        handshake.agreement,
        handshake.facts,
        rounds,
        evaluation,
        failures,
        warnings,
        sizes,
        ended_early,
    )


def _sizes(
    run: Run, handshake: Handshake, failures: Mapping[str, SiteFailure], past: JournalEntry | None
) -> dict[str, int | None]:
    """Return the size band of every named site; that of a site that is lost comes from the journal."""
    sizes: dict[str, int | None] = dict.fromkeys([*run.roster, *failures])
    if past is not None:
        sizes |= past.sizes
    return sizes | {site: fact.size_band for site, fact in handshake.facts.items()}


@dataclass(frozen=True)
class _Needed:
    """Sites that a round needs, and the size band of every named site."""

    participation: Participation
    sizes: Mapping[str, int | None]

    def suffice(self, answered: Collection[str], asked: Collection[str]) -> bool:
        """Return True if answers of these sites are enough."""
        return self.participation.shortfall(answered, asked, self.sizes) is None


def _train_round(
    grid: Grid,
    run: Run,
    handshake: Handshake,
    needed: _Needed,
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
            least = needed.participation.fewest(len(trainers))
            wait_for_return(grid, [handshake.nodes[site] for site in trainers], least)
        _notify(observer, Phase.TRAIN, len(trainers), server_round)
        answers = ask(
            grid,
            Phase.TRAIN,
            dict.fromkeys(trainers, request),
            handshake.nodes,
            TrainReply,
            timeout_s=config.round_timeout_s,
            group=str(server_round),
            enough=lambda sites: needed.suffice(sites, trainers),
        )
        replies = sort_replies(answers, server_round, weights, run, handshake)
        failures = answers.failures | replies.rejected | replies.left_out
        for site, failure in sorted(failures.items()):
            _log.warning("round %d: %s is left out: %s", server_round, site, failure.text)
        shortfall = _shortfall(replies, trainers, needed)
        if shortfall is None:
            break
        if not answers.replies and all(f.code == Refusal.BUDGET.code for f in answers.failures.values()):
            raise BudgetError(
                f"round {server_round}: the privacy budget of every site that was asked is spent; the model of round "
                f"{server_round - 1} is final"
            )
        counted = f"{len(replies.answered)} of {len(trainers)} sites gave an accepted answer"
        _log.warning("round %d: %s (attempt %d of 2): %s", server_round, counted, attempt, shortfall)
    else:
        raise FederationError(
            f"round {server_round}: {counted}, twice; {shortfall}. Left out: "
            f"{list_absent({site: failure.text for site, failure in failures.items()})}. "
            f"{_advice(server_round, needed.participation, len(replies.answered))}"
        )
    new = strategy.aggregate(server_round, replies.accepted, weights, len(replies.outliers))
    sites: dict[str, Trained | Failed] = {
        site: Trained.from_reply(reply, replies.norms[site]) for site, reply in replies.accepted.items()
    }
    sites |= {site: Failed.from_failure(failure) for site, failure in failures.items()}
    record = RoundRecord(
        server_round=server_round,
        sites={site: sites[site] for site in sorted(sites)},
        seconds=time.perf_counter() - start,
        bytes_sent=answers.bytes_sent,
        bytes_received=answers.bytes_received,
    )
    return new, record


def _shortfall(replies: SortedReplies, trainers: Sequence[str], needed: _Needed) -> str | None:
    """Return the reason why a round cannot be averaged; None if it can."""
    if not replies.accepted:
        return "no update can be averaged"
    return needed.participation.shortfall(replies.answered, trainers, needed.sizes)


def _advice(server_round: int, participation: Participation, num_answered: int) -> str:
    """Say how a run continues that ended in this round."""
    if server_round == 1:
        return "No round is finished: start the run again when the sites answer again"
    changed = f"federation.min_results={num_answered}" if participation.needs_all else "other participation settings"
    without = f"; a resumed `flower-server run` can go on without them, with {changed}" if num_answered else ""
    return f"The journal holds round {server_round - 1}: resume when the sites answer again{without}"


def _evaluate(grid: Grid, run: Run, handshake: Handshake, needed: _Needed, weights: Weights) -> Evaluation:
    """Evaluate the final weights at every site; sites without a test patient receive the weights, too."""
    config = run.experiment.federation
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
        timeout_s=config.round_timeout_s,
        enough=lambda sites: needed.suffice(sites, list(handshake.nodes)),
    )
    failures = dict(answers.failures)
    for site, reply in answers.replies.items():
        try:
            check_metrics(reply, run.experiment.agreement.grid_num_cells, config.max_patients_per_site)
        except RejectedReplyError as error:
            failures[site] = SiteFailure(0, str(error))
    for site, failure in failures.items():
        _log.warning("closing evaluation: %s is left out: %s", site, failure.text)
    return summarise_metrics({s: r for s, r in answers.replies.items() if s not in failures}, failures)


def _notify(observer: Observer | None, phase: Phase, num_sites: int, server_round: int = 0) -> None:
    if observer is not None:
        observer.on_phase(phase, num_sites, server_round)
