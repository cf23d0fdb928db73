"""Training round under differential privacy: charge the ledger, train, store the answer, send it, in this order.

A round that was charged but not answered (a crash in between) is lost for this site. A round that was answered is
answered again with the same weights, because different weights would be another release.
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from memamba_core.data.dataset import PatientDataset
from memamba_core.errors import BudgetError, TamperedLogError
from memamba_core.io.atomic import write_atomically
from memamba_core.model import MEMamba
from memamba_core.privacy.ledger import Ledger
from memamba_core.privacy.plan import PrivacyPlan
from memamba_core.training.checkpoint import weights_of
from memamba_core.training.trainer import resolve_device
from memamba_core.wire.protocol import Refusal, TrainReply, TrainRequest, size_band

from .interrupts import finish_once_begun
from .session import RefusedError, Session
from .site import Site

__all__ = ["ledger_folder", "train_private_round"]

_log = logging.getLogger(__name__)


def ledger_folder(state: Path) -> Path:
    """Return the folder of a site's ledger on its state volume."""
    return state / "privacy"


@finish_once_begun()
def train_private_round(
    site: Site,
    session: Session,
    folder: Path,
    plan: PrivacyPlan,
    request: TrainRequest,
    dataset: PatientDataset,
    model: MEMamba,
) -> TrainReply:
    """Answer a training request with noisy weights and size bands only.

    Args:
        site: its name and policy.
        session: the run.
        folder: of the run on the state volume; the answer is stored there.
        plan: of the run.
        request: of the round.
        dataset: patients to train on.
        model: with the weights of the request; trained in place.

    Raises:
        RefusedError: the round exceeds the budget.
        TamperedLogError: the ledger was edited, truncated or replaced by an older one.
    """
    from memamba_core.training.dp_training import train_dp_round  # Opacus is an extra

    config, policy = site.config, site.config.privacy
    assert policy is not None, "the site's policy was checked when the run was opened"
    assert config.state is not None
    ledger = Ledger(ledger_folder(config.state), site.name, policy.delta)
    _check_against_answers(ledger, folder.parent)
    kept = folder / f"round-{request.server_round:05d}.npz"
    bands = {group: size_band(count) for group, count in _patients_of_groups(model, dataset).items()}
    if kept.is_file():
        _log.info("round %d was answered before; sending the same answer again", request.server_round)
        return _reply(_read(kept), bands)
    try:
        spent = ledger.charge(request.run_id, request.server_round, plan.step, plan.steps_per_round, policy.max_epsilon)
    except BudgetError as error:
        raise RefusedError(Refusal.BUDGET, str(error)) from None
    _log.info("round %d charged: epsilon %.3f of %g spent", request.server_round, spent, policy.max_epsilon)
    train_dp_round(
        model,
        dataset,
        experiment=session.experiment,
        plan=plan,
        size_band=size_band(len(dataset)),
        server_round=request.server_round,
        device=resolve_device(config.device),
        proximal_mu=request.proximal_mu or 0.0,
    )
    weights = weights_of(model)
    _keep(kept, weights)
    return _reply(weights, bands)


def _patients_of_groups(model: MEMamba, dataset: PatientDataset) -> Mapping[str, int]:
    """Count the patients with the modality of each parameter group; no bag is read."""
    counts: dict[str, int] = {}
    cohort = dataset.cohort
    for record in dataset.records:
        for group in model.groups_with(patches=cohort.has_slides(record), genes=cohort.has_genes(record)):
            counts[group] = counts.get(group, 0) + 1
    return counts


def _reply(weights: Mapping[str, npt.NDArray[Any]], bands: Mapping[str, int]) -> TrainReply:
    return TrainReply(weights=dict(weights), trained=dict(bands), counts={})


def _check_against_answers(ledger: Ledger, runs: Path) -> None:
    """Check that the ledger has a charge for each stored answer; otherwise an older or a new ledger replaced it."""
    charged = {(charge.run_id, charge.server_round) for charge in ledger.charges()}
    for kept in sorted(runs.glob("*/round-*.npz")):
        if (kept.parent.name, int(kept.stem.removeprefix("round-"))) not in charged:
            raise TamperedLogError(
                f"the ledger has no charge for the stored answer {kept}: the ledger is older than this answer. Restore "
                "the newest ledger"
            )


def _keep(path: Path, weights: Mapping[str, npt.NDArray[Any]]) -> None:
    """Store the answer on disk, and delete that of the previous round, which is no longer requested."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with write_atomically(path) as partial, partial.open("wb") as file:
        np.savez(file, allow_pickle=False, **weights)
    for old in path.parent.glob("round-*.npz"):
        if old != path:
            old.unlink(missing_ok=True)


def _read(path: Path) -> dict[str, npt.NDArray[Any]]:
    with np.load(path, allow_pickle=False) as kept:
        return {name: kept[name] for name in kept.files}
