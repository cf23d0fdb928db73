"""Describe a run to the operator who approves it, on a screen of 80 x 24 characters. Times are UTC.

Whatever came from the coordinator is shown in printable ASCII only: control characters could move the cursor, and
characters that are written from right to left could change the order of what is read.
"""

import textwrap
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

from memamba_core.config.compose import installed_experiment
from memamba_core.config.experiment import Experiment
from memamba_core.config.guarded_settings import is_guarded
from memamba_core.config.privacy import DPSGDConfig
from memamba_core.config.site import SiteConfig

from .store import Decided, Verdict
from .terms import Proposal, Terms

__all__ = ["describe_run", "list_runs", "printable"]

_WIDTH = 80
_SCREEN = 22  # of 24 lines: one has the command, one the question
_LABEL = 13
_SHOWN_RUNS = 18
_MAX_VALUE = 60
_STATUS = {None: "WAITS", "approved": "APPROVED", "refused": "REFUSED"}


def printable(text: object, most: int = 200) -> str:
    """Return a text in printable ASCII, `?` for every other character, cut at `most` characters."""
    shown = "".join(character if " " <= character <= "~" else "?" for character in str(text)[: most + 1])
    return shown if len(shown) <= most else f"{shown[: most - 3]}..."


def describe_run(
    proposal: Proposal,
    verdict: Verdict | None,
    config: SiteConfig,
    last: Proposal | None = None,
    *,
    whole: bool = False,
) -> list[str]:
    """Describe a run: who asks, what leaves, what it costs, and in what it differs from the installed defaults.

    Args:
        proposal: run and terms.
        verdict: that stands; None: the run waits.
        config: of the site.
        last: the last approved run at this site, to name what has changed since; None: none was approved.
        whole: list every site and setting; otherwise the lines fit a screen of 80 x 24.

    Raises:
        ConfigError: the settings cannot be read by this version.
        TamperedLogError: the privacy ledger was edited or cut.
    """
    terms, experiment = proposal.terms, Experiment.from_json(proposal.settings)
    rows = [
        ("run", f"{_STATUS[verdict]}, asked {_time(proposal.asked)}: {printable(terms.run_id)}", 2),
        ("coordinator", f"{config.coordinator.address if config.coordinator else 'none'}, of the authority", 1),
        ("", f"{terms.coordinator[:48]} {terms.coordinator[48:]}", 2),
        ("sites", _sites(terms, config.name), 3),
        ("training", _training(experiment, terms), 1),
        *_leaving(proposal, experiment, config),
        ("blocks", _blocks(terms, experiment, last), 1),
        ("own limits", _caps(proposal.caps), 1),
    ]
    if last is not None and (changes := _changes(terms, last.terms)):
        rows.append(("changed", f"since {printable(last.terms.run_id, 20)}: {', '.join(changes)}", 1))
    changed = experiment.differences(installed_experiment())
    ordered = sorted(changed.items(), key=lambda item: (not is_guarded(item[0]), item[0]))  # the telling ones first
    settings = [f"{name}={printable(_value(value), _MAX_VALUE)}" for name, value in ordered]
    settings_digest = terms.settings if whole else terms.settings[:12]
    rows += [
        ("digest", f"{terms.short_digest()} of these terms, {settings_digest} of the settings", 1),
        ("settings", f"{len(settings)} differ from the defaults (weights of round 1 follow from all):", 1),
    ]
    more = f"flower-client runs site.yaml {printable(terms.run_id)}"
    lines = [line for label, text, most in rows for line in _wrapped(label, text, None if whole else most, more)]
    left = None if whole else max(2, _SCREEN - len(lines))
    return [*lines, *_wrapped("", ", ".join(settings), left, more)]


def list_runs(waiting: Proposal | None, decisions: Sequence[Decided], most: int = _SHOWN_RUNS) -> Iterator[str]:
    """List the runs, the one that waits first, then the last decision on each set of terms, newest first.

    Args:
        waiting: the run that waits.
        decisions: oldest first.
        most: number of decided runs that are listed.
    """
    if waiting is not None:
        yield _row("waits", waiting, waiting.asked)
    latest: dict[str, Decided] = {}
    for decided in decisions:
        latest.pop(decided.proposal.terms.digest(), None)
        latest[decided.proposal.terms.digest()] = decided
    for decided in list(latest.values())[: -most - 1 : -1]:
        yield _row(decided.verdict, decided.proposal, decided.time)
    if len(latest) > most:
        yield f"and {len(latest) - most} older"


def _row(status: str, proposal: Proposal, time: float) -> str:
    terms = proposal.terms
    sites = f"{len(terms.roster)} site{'s' * (len(terms.roster) != 1)}"
    return f"{status:9} {printable(terms.run_id, 24):24} {_time(time)}  {sites:10} {terms.short_digest()}"


def _wrapped(label: str, text: str, most: int | None, more: str) -> Iterator[str]:
    """Wrap a text to the right of its label; where lines are left out, the last one says so."""
    lines = textwrap.wrap(text, _WIDTH - _LABEL, break_on_hyphens=False) or ([""] if label else [])
    if most is not None and len(lines) > most:
        rest = textwrap.shorten(f"... all of it: {more}", _WIDTH - _LABEL, placeholder=" ...")
        lines = [*lines[: most - 1], rest] if most > 1 else [lines[0][: _WIDTH - _LABEL - 4] + " ..."]
    for number, line in enumerate(lines):
        yield f"{label if not number else '':{_LABEL}}{line}"


def _sites(terms: Terms, own: str) -> str:
    names = [printable(name, 64) for name in terms.roster]
    if not names:
        return "the coordinator names none"
    missing = "" if own in terms.roster else f"; {own} is NOT among them"
    return f"{len(names)}, as the coordinator says{missing}: {', '.join(names)}"


def _training(experiment: Experiment, terms: Terms) -> str:
    federation = experiment.federation
    fold = "all patients train" if terms.fold < 0 else f"fold {terms.fold} is kept for testing"
    epochs = f"{federation.local_epochs} epoch{'s' * (federation.local_epochs != 1)}"
    return f"{federation.num_rounds} rounds of {epochs}, {experiment.strategy.name}; {fold}"


def _leaving(proposal: Proposal, experiment: Experiment, config: SiteConfig) -> Iterator[tuple[str, str, int]]:
    """Yield what leaves: once, in each round, at the end."""
    columns, agreement = proposal.columns, experiment.agreement
    summed = columns.get("rnaseq", 0) if agreement.gene_scaling == "statistics" else 0
    summed += columns.get("features", 0) if agreement.feature_scaling in ("auto", "zscore") else 0
    sums = f"; means and squares of up to {summed:,d} columns" if summed else "; no sum over patients"
    kinds = ", ".join(f"{count:,d} {kind}" for kind, count in columns.items()) or "none"
    yield "leaves once", f"names of columns ({kinds}), sizes as bands{sums}", 2
    if isinstance(experiment.privacy, DPSGDConfig):
        from .budget import describe_budget  # torch takes seconds to import

        yield "each round", "weights with noise (differential privacy), no loss, no count", 1
        yield "epsilon", describe_budget(experiment, config, proposal.terms.run_id), 2
    else:
        yield "each round", "weights WITHOUT noise, numbers of patients as bands, a rounded loss", 1
    tests = proposal.terms.fold >= 0 and not isinstance(experiment.privacy, DPSGDConfig)
    end = "a rounded loss of the test blocks" if tests else "nothing"
    yield "at the end", f"{end}; the final model is kept here", 1


def _blocks(terms: Terms, experiment: Experiment, last: Proposal | None) -> str:
    if isinstance(experiment.privacy, DPSGDConfig):
        return "none: every patient trains, with noise"
    if not terms.cohort:
        return "not drawn yet: this approval draws them, once for all runs"
    if last is not None and last.terms.cohort not in ("", terms.cohort):
        return f"{terms.cohort[:12]}, CHANGED since the last approved run"
    return f"{terms.cohort[:12]}, drawn earlier"


def _caps(caps: dict[str, Any]) -> str:
    """Return the limits and thresholds of `site.yaml` that bound this run."""
    limits, thresholds = caps["limits"], caps["disclosure"]
    return (
        f"{thresholds['min_patients']} patients and {thresholds['min_events']} events in a sum, "
        f"{thresholds['min_round_patients']} in a round of {limits['minutes_per_round']:g} min"
    )


def _changes(terms: Terms, last: Terms) -> list[str]:
    return [word for word in terms.changes_since(last) if word != "run"]


def _value(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _time(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M}"
