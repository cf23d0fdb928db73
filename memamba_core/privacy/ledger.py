"""Ledger of the privacy budget of a cohort, on the disk of its site.

A cohort has one ledger for all runs: a second study on the same patients is charged to the same ledger. A round is
charged *before* any patient is read, so that a crash can only overcount. The cap is set by the site and kept by `cap`.

Under parallel composition over sites with disjoint patients, the epsilon of the federation is the largest epsilon of
its sites. A patient of two sites has spent the budgets of both: `epsilon_in_sites`.
"""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from memamba_core.errors import BudgetError, TamperedLogError
from memamba_core.privacy.accounting import add_up, epsilon_of
from memamba_core.privacy.cap import Cap
from memamba_core.privacy.chained_log import ChainedLog
from memamba_core.privacy.noisy_step import NoisyStep
from memamba_core.privacy.state_key import load_or_make_key

__all__ = ["Charge", "Ledger", "Spending", "epsilon_in_sites", "read_spending"]

_FORMAT: Final = "memamba-privacy-ledger-1"


@dataclass(frozen=True)
class Charge:
    """One round of one run.

    Attributes:
        run_id, server_round: names given by the coordinator.
        noise_multiplier, sampling_rate, steps: charged steps.
        time: seconds since 1970 by the clock of this machine; for people only, no computation uses it.
        planned_steps: steps of the whole run, as planned before its first round; 0 in a charge of version 0.2 or older.
        order: order of the Renyi filter of this ledger; 0 in such a charge.
    """

    run_id: str
    server_round: int
    noise_multiplier: float
    sampling_rate: float
    steps: int
    time: float
    planned_steps: int = 0
    order: int = 0

    @property
    def spent(self) -> tuple[NoisyStep, int]:
        """Kind and number of the steps, for the accountant."""
        return NoisyStep(self.noise_multiplier, self.sampling_rate), self.steps


@dataclass(frozen=True)
class Spending:
    """Spent budget of a cohort, for people to read.

    Attributes:
        delta: delta of every epsilon here.
        rounds: number of charged rounds of each run, in the order in which the runs began.
        epsilon_of_run: cost of each run alone. These do not add up to `epsilon`: composed, the runs cost less.
        epsilon: cost of all runs together for a patient of this site, as if all had been planned beforehand.
        epsilon_in_two_sites: the same for a patient of two sites that were charged alike.
    """

    delta: float
    rounds: dict[str, int]
    epsilon_of_run: dict[str, float]
    epsilon: float
    epsilon_in_two_sites: float


class Ledger:
    """Ledger of one cohort.

    Args:
        folder: folder on the state volume of the site; created if absent.
        site: name of the site, written into the first line; a ledger of another site is refused.
        delta: delta of the guarantee; fixed with the first charge.

    Raises:
        TamperedLogError: the files were edited, cut or restored to an earlier state, or belong to another site or
            delta.
    """

    def __init__(self, folder: Path, site: str, delta: float) -> None:
        self._header = {"format": _FORMAT, "site": site, "delta": delta}
        self.delta = delta
        path = folder / "ledger.jsonl"
        self._log = ChainedLog(path, load_or_make_key(folder / "ledger.key", path))
        self.charges()

    @classmethod
    def exists(cls, folder: Path) -> bool:
        """Return True if the folder holds a ledger, that is, at least one charge was made."""
        return (folder / "ledger.jsonl").exists()

    def charges(self) -> tuple[Charge, ...]:
        """Return all charges, oldest first."""
        return self._charges(self._log.read())

    def epsilon(self, run_id: str | None = None) -> float:
        """Compute the spent epsilon: of all runs, or of one run."""
        return epsilon_of([c.spent for c in self.charges() if run_id in (None, c.run_id)], self.delta)

    def cap(self, max_epsilon: float) -> Cap | None:
        """Return the cap as this ledger applies it; None before the first charge."""
        return _cap_of(self.charges(), max_epsilon, self.delta)

    def charge(
        self,
        run_id: str,
        server_round: int,
        step: NoisyStep,
        steps: int,
        max_epsilon: float,
        planned_steps: int | None = None,
    ) -> float:
        """Charge a round, on disk, before anything is computed for it.

        Args:
            run_id: name given by the coordinator.
            server_round: number of the round. A round is charged once; for a second request the site sends its stored
                reply again.
            step: kind of the steps of the round.
            steps: number of steps.
            max_epsilon: cap of the site on everything this cohort ever spends.
            planned_steps: steps of the whole run, from its settings; None: those of this round are all.

        Returns:
            Share of the cap that is used, this round included, in [0, 1].

        Raises:
            BudgetError: the round was charged before, or would exceed the cap; nothing was written.
            ConfigError: parameters outside the range of the accountants.
            OSError: the charge could not be written; the round must not be computed.
        """
        planned = steps if planned_steps is None else planned_steps
        with self._log.open() as log:
            charges = self._charges(log.records)
            if any((c.run_id, c.server_round) == (run_id, server_round) for c in charges):
                raise BudgetError(f"round {server_round} of {run_id} was charged before, and no reply of it is stored")
            spent = add_up([*(c.spent for c in charges), (step, steps)])
            cap = _cap_of(charges, max_epsilon, self.delta) or Cap.choose(step, planned, max_epsilon, self.delta)
            share = cap.share(spent)
            if share is None or share > 1:
                raise BudgetError(
                    f"round {server_round} of {run_id} does not fit under privacy.max_epsilon={max_epsilon:g} at delta "
                    f"{self.delta:g}: {cap.explain(c.spent for c in charges)}"
                )
            if not log.records:
                log.append(dict(self._header))
            charge = Charge(
                run_id,
                server_round,
                step.noise_multiplier,
                step.sampling_rate,
                steps,
                time.time(),
                planned,
                cap.order,
            )
            log.append(asdict(charge))
        return share

    def _charges(self, records: list[dict[str, object]]) -> tuple[Charge, ...]:
        if records and records[0] != self._header:
            raise TamperedLogError(
                f"{self._log.path} is the ledger of {records[0]}; expected {self._header}. A cohort keeps its site "
                "name and its delta"
            )
        return tuple(Charge(**record) for record in records[1:])  # type: ignore[arg-type]


def _cap_of(charges: Sequence[Charge], max_epsilon: float, delta: float) -> Cap | None:
    """Return the cap of a ledger with these charges. It depends on the first charge, never on a later one."""
    if not charges:
        return None
    first = charges[0]
    order = next((charge.order for charge in charges if charge.order), 0)
    return Cap.choose(first.spent[0], first.planned_steps, max_epsilon, delta, order or None)


def read_spending(folder: Path, site: str, delta: float) -> Spending:
    """Read the spent budget by run and in total, without creating a ledger.

    Args:
        folder: folder of the ledger.
        site: name of the site in the ledger.
        delta: delta of the guarantee, which must be that of the ledger.

    Raises:
        TamperedLogError: as `Ledger`.
        MissingBackendError: Opacus is not installed.
    """
    charges = Ledger(folder, site, delta).charges() if Ledger.exists(folder) else ()
    by_run: dict[str, list[tuple[NoisyStep, int]]] = {}
    for charge in charges:
        by_run.setdefault(charge.run_id, []).append(charge.spent)
    spent = [charge.spent for charge in charges]
    return Spending(
        delta=delta,
        rounds={run: len(rounds) for run, rounds in by_run.items()},
        epsilon_of_run={run: epsilon_of(rounds, delta) for run, rounds in by_run.items()},
        epsilon=epsilon_of(spent, delta),
        epsilon_in_two_sites=epsilon_in_sites(spent, 2, delta),
    )


def epsilon_in_sites(spent: list[tuple[NoisyStep, int]], sites: int, delta: float) -> float:
    """Compute the epsilon of a patient of several sites, each of which took these steps (sequential composition)."""
    return epsilon_of(spent * sites, delta)
