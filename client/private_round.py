"""Training round under differential privacy: charge the ledger, train, store the answer, send it, in this order.

A round that was charged but not answered (a crash in between) is lost for this site. A round that was answered is
answered again with the same weights, because different weights would be another release.

Every refusal comes before the charge and depends on settings, ledger and machine only. After the charge there is an
answer, whatever the records of single patients are like. Its size, names and counts are the same for every cohort: each
parameter group has the declared band of the site.
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from memamba_core.data.dataset import PatientDataset
from memamba_core.errors import BudgetError, TamperedLogError
from memamba_core.io.atomic import write_atomically
from memamba_core.model import MEMamba
from memamba_core.patient import Bag, PatientInputs, SurvivalTarget
from memamba_core.privacy.ledger import Ledger
from memamba_core.privacy.plan import PrivacyPlan
from memamba_core.training.checkpoint import weights_of
from memamba_core.training.seeding import seeded
from memamba_core.training.trainer import resolve_device, training_loss
from memamba_core.wire.protocol import Refusal, TrainReply, TrainRequest

from .declared_bands import bands_of, group_bands
from .interrupts import finish_once_begun
from .session import RefusedError, Session
from .site import Site

__all__ = ["ledger_folder", "train_private_round"]

_log = logging.getLogger(__name__)
PATIENTS_IN_LIMIT = 20
"""Share of `limits.minutes_per_round` that one patient may take in a step: a twentieth, three minutes by default."""


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
    bands = group_bands(bands_of(site, dataset.cohort), model)
    if kept.is_file():
        _log.info("round %d was answered before; sending the same answer again", request.server_round)
        return _reply(_read(kept), bands)
    device = resolve_device(config.device)
    _try_out(model, session, device)
    try:
        share = ledger.charge(
            request.run_id, request.server_round, plan.step, plan.steps_per_round, policy.max_epsilon, plan.num_steps
        )
    except BudgetError as error:
        raise RefusedError(Refusal.BUDGET, str(error)) from None
    _log.info("round %d charged: %.1f%% of privacy.max_epsilon spent", request.server_round, 100 * share)
    train_dp_round(
        model,
        dataset,
        experiment=session.experiment,
        plan=plan,
        size_band=bands["head"],
        server_round=request.server_round,
        device=device,
        proximal_mu=request.proximal_mu or 0.0,
        seconds_per_patient=60 * config.limits.minutes_per_round / PATIENTS_IN_LIMIT,
    )
    weights = weights_of(model)
    _keep(kept, weights)
    return _reply(weights, bands)


def _try_out(model: MEMamba, session: Session, device: torch.device) -> None:
    """Compute a gradient of a made-up patient, so that a machine that can compute none says so before the charge."""
    agreement = session.agreement
    assert agreement is not None
    patient = PatientInputs(
        SurvivalTarget(1.0, True, 0),
        Bag(torch.zeros(2, agreement.feature_width)) if agreement.feature_width else None,
        torch.zeros(len(agreement.gene_columns)) if agreement.gene_columns else None,
    )
    model.to(device).train()
    with seeded(0):
        training_loss(model, [patient], session.experiment.training)[0].backward()  # type: ignore[no-untyped-call]
    model.zero_grad(set_to_none=True)


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
