"""What a hospital's patients have spent of their privacy, on the hospital's own disk.

One ledger per cohort, not per run: a second study on the same patients is charged to the same one. A round is charged
*before* any patient is read, so that a crash can only count too much. The cap is the hospital's own.

Under parallel composition over hospitals whose patients are disjoint, the federation's epsilon is the largest of its
hospitals'. A patient who is in two of them has spent both: `epsilon_in_sites`.
"""

import os
import tempfile
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from memamba_core.errors import BudgetError, TamperedLogError
from memamba_core.privacy.accounting import NoisyStep, epsilon_of
from memamba_core.privacy.chained_log import ChainedLog

__all__ = ["Charge", "Ledger", "Spending", "epsilon_in_sites", "read_spending"]

_FORMAT: Final = "memamba-privacy-ledger-1"
_KEY_BYTES: Final = 32


@dataclass(frozen=True)
class Charge:
    """One round of one run.

    Attributes:
        run_id, server_round: as the coordinator names them.
        noise_multiplier, sampling_rate, steps: what was charged.
        time: seconds since 1970 by this machine's clock; for reading only, nothing depends on it.
    """

    run_id: str
    server_round: int
    noise_multiplier: float
    sampling_rate: float
    steps: int
    time: float

    @property
    def spent(self) -> tuple[NoisyStep, int]:
        """As the accountant takes it."""
        return NoisyStep(self.noise_multiplier, self.sampling_rate), self.steps


@dataclass(frozen=True)
class Spending:
    """What a cohort has spent, for people to read.

    Attributes:
        delta: of every epsilon here.
        rounds: how many were charged, by run, in the order in which the runs began.
        epsilon_of_run: what each run cost by itself. They do not add up to `epsilon`: composed they cost less.
        epsilon: what all runs cost a patient of this hospital together.
        epsilon_in_two_sites: the same for a patient who is also in a second hospital that took part alike.
    """

    delta: float
    rounds: dict[str, int]
    epsilon_of_run: dict[str, float]
    epsilon: float
    epsilon_in_two_sites: float


class Ledger:
    """The ledger of one cohort.

    Args:
        folder: on the site's state volume; made if it is not there.
        site: name of the site, written into the first line; a ledger of another site is refused.
        delta: of the claim; fixed with the first charge.

    Raises:
        TamperedLogError: the files were edited, cut, taken back, or are of another site or delta.
    """

    def __init__(self, folder: Path, site: str, delta: float) -> None:
        self._header = {"format": _FORMAT, "site": site, "delta": delta}
        self.delta = delta
        self._log = ChainedLog(folder / "ledger.jsonl", _key_of(folder))
        self.charges()

    @classmethod
    def exists(cls, folder: Path) -> bool:
        """Whether anything was ever charged there."""
        return (folder / "ledger.jsonl").exists()

    def charges(self) -> tuple[Charge, ...]:
        """All charges, oldest first."""
        return self._charges(self._log.read())

    def epsilon(self, run_id: str | None = None) -> float:
        """What was spent: in all, or by one run."""
        return epsilon_of([c.spent for c in self.charges() if run_id in (None, c.run_id)], self.delta)

    def charge(self, run_id: str, server_round: int, step: NoisyStep, steps: int, max_epsilon: float) -> float:
        """Charge a round, on disk, before anything is computed for it.

        Args:
            run_id: of the coordinator.
            server_round: a round that was charged before is refused: its stored reply is sent again instead.
            step: kind of the round's steps.
            steps: their number.
            max_epsilon: the site's cap on everything this cohort ever spends.

        Returns:
            Epsilon spent in all, this round included.

        Raises:
            BudgetError: the round was charged, or the cap would be passed; nothing was written.
            ConfigError: parameters that no accountant should be asked about.
            OSError: the charge could not be written; the round must not be computed.
        """
        with self._log.open() as log:
            charges = self._charges(log.records)
            if any((c.run_id, c.server_round) == (run_id, server_round) for c in charges):
                raise BudgetError(f"round {server_round} of {run_id} was charged before, and no reply of it is stored")
            total = epsilon_of([*(c.spent for c in charges), (step, steps)], self.delta)
            if not total <= max_epsilon:
                raise BudgetError(
                    f"round {server_round} of {run_id} would bring this cohort to epsilon {total:.3f} at delta "
                    f"{self.delta:g}; privacy.max_epsilon is {max_epsilon:g}"
                )
            if not log.records:
                log.append(dict(self._header))
            charge = Charge(run_id, server_round, step.noise_multiplier, step.sampling_rate, steps, time.time())
            log.append(asdict(charge))
        return total

    def _charges(self, records: list[dict[str, object]]) -> tuple[Charge, ...]:
        if records and records[0] != self._header:
            raise TamperedLogError(
                f"{self._log.path} is the ledger of {records[0]}, wanted {self._header}: a cohort has one site name "
                "and one delta for good"
            )
        return tuple(Charge(**record) for record in records[1:])  # type: ignore[arg-type]


def read_spending(folder: Path, site: str, delta: float) -> Spending:
    """What was spent by run and in all; reads only, and makes nothing where there is no ledger.

    Args:
        folder: of the ledger.
        site: whose it must be.
        delta: of the claim, which must be the ledger's.

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
    """Epsilon of a patient who is in that many hospitals, each of which took these steps (sequential composition)."""
    return epsilon_of(spent * sites, delta)


def _key_of(folder: Path) -> bytes:
    """The key of the tags: made once, readable by its owner only."""
    path = folder / "ledger.key"
    if not path.exists():
        if Ledger.exists(folder):
            raise TamperedLogError(f"{path} is missing beside its ledger; restore it from a backup of the state volume")
        folder.mkdir(parents=True, exist_ok=True)
        descriptor, fresh = tempfile.mkstemp(dir=folder, prefix=".ledger.key.")  # for its owner only
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(os.urandom(_KEY_BYTES))
                file.flush()
                os.fsync(file.fileno())
            with suppress(FileExistsError):  # another process was first: its key counts
                os.link(fresh, path)
        finally:
            Path(fresh).unlink()
    key = path.read_bytes()
    if len(key) != _KEY_BYTES:
        raise TamperedLogError(f"{path} has {len(key)} bytes, wanted {_KEY_BYTES}; restore it from a backup")
    return key
