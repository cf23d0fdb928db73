"""Write what a run leaves: `summary.json`, `metrics.jsonl`, `model.safetensors` with `model.json`, and a figure."""

import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from memamba_core.figures.learning_curves import draw_rounds
from memamba_core.io.atomic import write_atomically
from memamba_core.survival.concordance import FEWEST_PAIRS
from memamba_core.training.checkpoint import Checkpoint, code_digest, save_checkpoint
from memamba_core.wire.versions import versions
from server.federation.handshake import Run
from server.federation.journal import RoundRecord
from server.federation.outcome import Trained
from server.federation.rounds import FederationResult

from .attendance import Attendance, describe_absences
from .summary import (
    ClosingEvaluation,
    DeclaredSite,
    DeploymentSummary,
    FailedLine,
    MetricsLine,
    RoundFailure,
    RunDigests,
    TrainedLine,
)

__all__ = [
    "build_summary",
    "round_lines",
    "write_json",
    "write_results",
    "write_rounds",
]


def write_json(path: Path, value: Any) -> None:
    """Write a value as JSON, whole or not at all."""
    with write_atomically(path) as partial:
        partial.write_text(json.dumps(value, indent=1, allow_nan=False, default=_plain) + "\n", encoding="utf-8")


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} does not go into JSON")


def round_lines(fold: int, rounds: Sequence[RoundRecord]) -> list[MetricsLine]:
    """Build the lines of `metrics.jsonl`: one per round and site, in the order of rounds and names."""
    lines: list[MetricsLine] = []
    for record in rounds:
        for site, outcome in record.sites.items():
            place = {"fold": fold, "round": record.server_round, "site": site}
            kind = TrainedLine if isinstance(outcome, Trained) else FailedLine
            lines.append(kind(**place, **dict(outcome)))
    return lines


def write_rounds(path: Path, fold: int, rounds: Sequence[RoundRecord]) -> None:
    """Write `metrics.jsonl`, whole or not at all."""
    lines = [json.dumps(line.model_dump(mode="json")) + "\n" for line in round_lines(fold, rounds)]
    with write_atomically(path) as partial:
        partial.write_text("".join(lines), encoding="utf-8")


def build_summary(run: Run, result: FederationResult) -> DeploymentSummary:
    """Build the contents of `summary.json`: what a federation can know without seeing a patient."""
    evaluation, rounds = result.evaluation, result.rounds
    fold = [f"fold={run.fold}"] if run.fold >= 0 else []
    return DeploymentSummary(
        attendance=Attendance.of(result),
        run=run.run_id,
        num_sites=len(result.facts),
        sites={
            name: DeclaredSite(size_band=fact.size_band, num_patients=fact.num_patients, num_events=fact.num_events)
            for name, fact in result.facts.items()
        },
        left_out={site: failure.text for site, failure in result.failures.items()},
        fold=run.fold,
        c_index_histogram=evaluation.c_index_histogram if evaluation.num_pairs >= FEWEST_PAIRS else None,
        c_index_within_site=evaluation.c_index_within_site if evaluation.num_pairs >= FEWEST_PAIRS else None,
        without_c_index=_without_c_index(run, result),
        closing_evaluation=ClosingEvaluation(
            num_patients=evaluation.num_patients,
            num_events=evaluation.num_events,
            loss=evaluation.loss,
            sites=evaluation.sites,
        ),
        num_rounds=len(rounds),
        ended_early=result.ended_early,
        failures=tuple(
            RoundFailure(round=record.server_round, site=site, failure=failed.failure)
            for record in rounds
            for site, failed in record.failed.items()
        ),
        time_bin_edges=result.agreement.time_bin_edges,
        num_gene_columns=len(result.agreement.gene_columns),
        num_parameters=int(sum(array.size for array in result.weights.values())),
        seconds=sum(record.seconds for record in rounds),
        bytes_per_round=int(np.mean([r.bytes_sent + r.bytes_received for r in rounds])) if rounds else None,
        settings=run.experiment.model_dump(mode="json"),
        digests=RunDigests(experiment=run.experiment.digest(), code=code_digest(), agreement=result.agreement.digest()),
        warnings=(*result.warnings, *describe_absences(result)),
        versions=versions(),
        command=shlex.join(["flower-server", "run", *fold, *run.overrides]),
    )


def _without_c_index(run: Run, result: FederationResult) -> str | None:
    """Say why a run has no concordance, None where it has one."""
    num_pairs = result.evaluation.num_pairs
    if num_pairs >= FEWEST_PAIRS:
        return None
    if num_pairs:
        return f"the disclosed test patients form {num_pairs} comparable pairs; wanted at least {FEWEST_PAIRS}"
    if run.experiment.privacy.name != "none":
        return "under differential privacy no count of patients leaves a site"
    if any(fact.boundary == "deployment" for fact in result.facts.values()):
        return "counts of pairs and histograms of patients do not leave a site that answers alone"
    return "the disclosed test patients have no comparable pair"


def write_results(folder: Path, run: Run, result: FederationResult) -> DeploymentSummary:
    """Write all files of a run and draw its rounds; `summary.json` comes last, because it marks the run as finished.

    Returns:
        The summary.
    """
    write_rounds(folder / "metrics.jsonl", run.fold, result.rounds)
    final = Checkpoint(result.weights, run.experiment, result.agreement, len(result.rounds), code_digest())
    save_checkpoint(folder, "model", final)
    summary = build_summary(run, result)
    if lines := [line.model_dump(mode="json") for line in round_lines(run.fold, result.rounds)]:
        (folder / "figures").mkdir(exist_ok=True)
        attended = summary.attendance
        heading = f"{attended.num_complete_sites} of {attended.num_sites} sites in every round"
        draw_rounds(folder / "figures" / "learning_curves.png", lines, f"{run.run_id}: {heading}")
    write_json(folder / "summary.json", summary.model_dump(mode="json"))
    return summary
