"""Records of the weights that a site received in a run: the last ones accepted for training, and those evaluated.

On a site with a state folder the record survives a restart. It belongs to a run id, and nothing that a coordinator
sends removes it: opening the run again keeps the record.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pydantic
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from memamba_core.io.atomic import write_atomically
from memamba_core.io.json_model import JsonModel
from memamba_core.wire.protocol import EvaluateReply, Metrics, Refusal

from .session import RefusedError, Session

__all__ = ["ReceivedWeights", "WeightRecord", "digest_weights"]

Weights = Mapping[str, npt.NDArray[Any]]
_TRAINED, _EVALUATED = "received.safetensors", "evaluated.json"


def digest_weights(weights: Weights) -> str:
    """Compute SHA-256 (hex) over names, shapes and bits of float32 arrays, in the order of the names."""
    sha = hashlib.sha256()
    for name, array in sorted(weights.items()):
        sha.update(f"{name}\0{array.dtype}\0{array.shape}\0".encode())
        sha.update(np.ascontiguousarray(array).tobytes())
    return sha.hexdigest()


class _Identity(JsonModel):
    """The settings, agreement and fold that a record belongs to."""

    config: str
    agreement: str
    fold: int


class _Evaluated(JsonModel):
    """Contents of `evaluated.json`."""

    identity: _Identity
    digest: str
    """`digest_weights` of the weights that were evaluated, or are being evaluated."""
    reply: dict[str, Any] | None = None
    """Numbers of the answer; None until it is computed."""


@dataclass(frozen=True)
class WeightRecord:
    """State of one run.

    Attributes:
        server_round: last round whose weights were accepted; 0 before the first.
        digest: of those weights; "" before the first.
        weights: those weights; None before the first, and once the run is evaluated.
        evaluated: digest of the weights that were evaluated; "" before.
        reply: the answer to that evaluation; None until it is computed.
    """

    server_round: int = 0
    digest: str = ""
    weights: Weights | None = field(default=None, repr=False)
    evaluated: str = ""
    reply: EvaluateReply | None = None


class ReceivedWeights:
    """Records of a site's runs, in the run's state folder, or in memory at a site without one (a simulation)."""

    def __init__(self) -> None:
        self._memory: dict[str, tuple[_Identity, WeightRecord]] = {}

    def read(self, session: Session, folder: Path | None) -> WeightRecord:
        """Return the record of a session's run; an empty one before the first weights.

        Args:
            session: with its agreement.
            folder: of the run on the state volume; None keeps records in memory.

        Raises:
            RefusedError: the record belongs to other settings, another agreement or another fold, or is damaged.
        """
        mine, run_id = _identity(session), session.request.run_id
        if folder is None:
            theirs, record = self._memory.get(run_id, (mine, WeightRecord()))
        else:
            theirs, record = _read(folder, mine)
        if theirs != mine:
            raise RefusedError(
                Refusal.CONFIG,
                "this run began at this site with other settings, another agreement or another fold; start a new run",
            )
        return record

    def accept(self, session: Session, folder: Path | None, server_round: int, weights: Weights) -> None:
        """Store the weights of a round as the last accepted ones."""
        record = WeightRecord(server_round, digest_weights(weights), dict(weights))
        if folder is None:
            self._memory[session.request.run_id] = (_identity(session), record)
            return
        folder.mkdir(parents=True, exist_ok=True)
        about = {"identity": _identity(session).model_dump_json(), "round": str(server_round), "digest": record.digest}
        with write_atomically(folder / _TRAINED) as partial:
            save_file({name: np.ascontiguousarray(array) for name, array in weights.items()}, partial, metadata=about)

    def begin_evaluation(self, session: Session, folder: Path | None, digest: str) -> None:
        """Store which weights the run's one evaluation is of, before anything is computed."""
        self._write_evaluated(session, folder, digest, None)

    def finish_evaluation(self, session: Session, folder: Path | None, digest: str, reply: EvaluateReply) -> None:
        """Store the answer of the run's evaluation, and drop the weights of the last round."""
        self._write_evaluated(session, folder, digest, reply)
        if folder is not None:
            (folder / _TRAINED).unlink(missing_ok=True)

    def _write_evaluated(self, session: Session, folder: Path | None, digest: str, reply: EvaluateReply | None) -> None:
        identity = _identity(session)
        if folder is None:
            _, record = self._memory.get(session.request.run_id, (identity, WeightRecord()))
            kept = record.weights if reply is None else None
            record = replace(record, weights=kept, evaluated=digest, reply=reply)
            self._memory[session.request.run_id] = (identity, record)
            return
        folder.mkdir(parents=True, exist_ok=True)
        values = None if reply is None else _to_json(reply)
        with write_atomically(folder / _EVALUATED) as partial:
            partial.write_text(_Evaluated(identity=identity, digest=digest, reply=values).model_dump_json(), "utf-8")


def _identity(session: Session) -> _Identity:
    assert session.agreement is not None, "weights come after the agreement"
    request = session.request
    return _Identity(config=request.config_digest, agreement=session.agreement.digest(), fold=request.fold)


def _read(folder: Path, mine: _Identity) -> tuple[_Identity, WeightRecord]:
    identity, record = mine, WeightRecord()
    try:
        if (folder / _TRAINED).is_file():
            with safe_open(folder / _TRAINED, framework="np") as file:
                about = file.metadata()
                weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            identity = _Identity.model_validate_json(about["identity"])
            record = WeightRecord(int(about["round"]), about["digest"], weights)
        if (folder / _EVALUATED).is_file():
            kept = _Evaluated.model_validate_json((folder / _EVALUATED).read_text(encoding="utf-8"))
            identity = kept.identity
            reply = None if kept.reply is None else _from_json(kept.reply)
            record = replace(record, evaluated=kept.digest, reply=reply)
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, pydantic.ValidationError) as error:
        raise RefusedError(
            Refusal.CONFIG, f"the record of received weights in {folder} is damaged ({error}); start a new run"
        ) from None
    return identity, record


def _to_json(reply: EvaluateReply) -> dict[str, Any]:
    counts = {name: array.tolist() for name, array in reply.counts.items()}
    return {**reply.model_dump(exclude={"counts"}), "counts": counts}


def _from_json(values: dict[str, Any]) -> EvaluateReply:
    counts = {name: np.asarray(rows, dtype=np.int64) for name, rows in values["counts"].items()}
    return EvaluateReply(**{name: values[name] for name in Metrics.model_fields if name != "counts"}, counts=counts)
