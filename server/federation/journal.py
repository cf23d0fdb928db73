"""State of a run after each round, written atomically before the next round begins.

A run that is killed at any point resumes from its last finished round.
"""

import json
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save

from memamba_core.data.agreement import Agreement
from memamba_core.errors import CheckpointError, ForeignJournalError
from memamba_core.io.atomic import write_atomically
from memamba_core.io.json_model import JsonModel
from memamba_core.training.checkpoint import load_arrays

from .outcome import Failed, Trained

__all__ = ["Journal", "JournalEntry", "RoundRecord"]

_log = logging.getLogger(__name__)
_OLDER = 2  # states that are kept next to the newest
_NAME = re.compile(r"round-(\d+)\.safetensors")
Weights = dict[str, npt.NDArray[Any]]


class RoundRecord(JsonModel):
    """Outcome of one round."""

    server_round: int
    """From 1."""
    sites: dict[str, Trained | Failed]
    """Outcome of each site that was asked, by name."""
    seconds: float
    """Wall time."""
    bytes_sent: int
    """Weights and counts, summed over sites."""
    bytes_received: int
    """Weights and counts, summed over sites."""

    @property
    def trained(self) -> dict[str, Trained]:
        """Sites whose reply was accepted."""
        return {site: outcome for site, outcome in self.sites.items() if isinstance(outcome, Trained)}

    @property
    def failed(self) -> dict[str, Failed]:
        """Sites that were asked and gave no usable reply."""
        return {site: outcome for site, outcome in self.sites.items() if isinstance(outcome, Failed)}

    @property
    def train_loss(self) -> float | None:
        """Mean training loss, weighted by the patients who trained the head; None where no site discloses its own."""
        disclosed = [o for o in self.trained.values() if o.train_loss is not None]
        total = sum(o.trained.get("head", 0) for o in disclosed)
        return sum((o.train_loss or 0.0) * o.trained.get("head", 0) for o in disclosed) / total if total else None


@dataclass(frozen=True)
class JournalEntry:
    """State from which a run resumes.

    Attributes:
        weights: model after the last finished round.
        strategy_state: state of `GroupedStrategy`.
        agreement: agreement of the federation.
        rounds: records of the finished rounds.
        warnings: sentences about sites and rounds.
        sizes: site -> lower end of the size band that it declared, also of sites that were lost later.
    """

    weights: Weights
    strategy_state: Weights
    agreement: Agreement
    rounds: tuple[RoundRecord, ...]
    warnings: tuple[str, ...] = ()
    sizes: Mapping[str, int] = field(default_factory=dict)


class Journal:
    """Folder with the newest three states of one run: an older one serves where the newest is damaged.

    Sites of a deployment refuse a round before the last one that they were asked for. A run therefore resumes from an
    older state only if no site was asked for a later round.

    Args:
        folder: used by this run alone; created when needed.
        config_digest: digest of the experiment; the journal of another experiment is refused.
        fold: test fold; the journal of another fold is refused.
    """

    def __init__(self, folder: Path, config_digest: str, fold: int) -> None:
        self._folder = folder
        self._identity = {"config_digest": config_digest, "fold": fold}

    def write(self, entry: JournalEntry) -> None:
        """Write the state after the last round atomically to one file; then delete all files but the newest three."""
        self._folder.mkdir(parents=True, exist_ok=True)
        for half in self._folder.glob(".round-*.partial"):  # left by a coordinator that was killed while writing
            half.unlink()
        arrays = {f"weights/{name}": array for name, array in entry.weights.items()}
        arrays |= {f"strategy/{name}": array for name, array in entry.strategy_state.items()}
        arrays |= {f"scaling/{name}": array for name, array in entry.agreement.scaling().items()}
        about = {
            **self._identity,
            "agreement": entry.agreement.to_json(),
            "agreement_digest": entry.agreement.digest(),
            "rounds": [record.model_dump(mode="json") for record in entry.rounds],
            "warnings": entry.warnings,
            "sizes": dict(entry.sizes),
        }
        path = self._folder / f"round-{len(entry.rounds):05d}.safetensors"
        with write_atomically(path) as partial:
            partial.write_bytes(
                save({name: np.asarray(a, order="C") for name, a in arrays.items()}, {"journal": json.dumps(about)})
            )
        states = self._states()
        before = [state for state in states if state < path]
        for old in {*states} - {
            path,
            *before[-_OLDER:],
        }:  # later states are damaged: the run would have resumed from them
            old.unlink()

    def read(self) -> JournalEntry | None:
        """Return the newest undamaged state; None if there is none.

        Raises:
            ForeignJournalError: the journal belongs to another experiment or fold.
        """
        for path in reversed(self._states()):
            try:
                return self._load(path)
            except ForeignJournalError:
                raise
            except (CheckpointError, KeyError, ValueError, TypeError) as error:
                _log.warning("%s cannot be used (%s); trying the state before it", path.name, error)
        return None

    def _states(self) -> list[Path]:
        return sorted(p for p in self._folder.glob("round-*.safetensors") if _NAME.fullmatch(p.name))

    def _load(self, path: Path) -> JournalEntry:
        arrays = load_arrays(path)
        about = _metadata(path)
        got = {key: about[key] for key in self._identity}
        if got != self._identity:
            raise ForeignJournalError(
                f"{path} is the journal of other settings: it has {got}; expected {self._identity}. Resume with the "
                "settings of the interrupted run"
            )
        parts: dict[str, Weights] = {"weights": {}, "strategy": {}, "scaling": {}}
        for name, array in arrays.items():
            part, _, key = name.partition("/")
            parts[part][key] = array
        agreement = Agreement.from_json(about["agreement"], parts["scaling"])
        if agreement.digest() != about["agreement_digest"]:
            raise CheckpointError("the agreement in the journal does not have the digest that was written with it")
        rounds = tuple(RoundRecord.model_validate(record) for record in about["rounds"])
        warnings, sizes = tuple(about["warnings"]), dict(about.get("sizes", {}))
        return JournalEntry(parts["weights"], parts["strategy"], agreement, rounds, warnings, sizes)


def _metadata(path: Path) -> Mapping[str, Any]:
    """Read the JSON in the header of a safetensors file (8 bytes of length, then the header)."""
    with path.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    about = json.loads(header["__metadata__"]["journal"])
    assert isinstance(about, dict)
    return about
