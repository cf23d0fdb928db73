"""`flower-simulate audit=...`: attacks on this product's own answers, and what they found in plain words.

Writes `audit.json` and figures into a folder of its own. No attack proves that there is no better one; what is found
is what an attacker learns at least.
"""

import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from memamba_core.config.privacy import DPSGDConfig
from memamba_core.config.simulation import SimulationConfig
from memamba_core.data.agreement import Agreement
from memamba_core.training.checkpoint import initial_model
from server.federation.handshake import Run
from server.results import write_json
from simulation.cohort import SimulatedCohort, prepare_cohort
from simulation.grid.build import open_grid
from simulation.methods import build_agreement_only
from simulation.run_folder import claim_folder

from .figures import draw_inversion, draw_membership
from .inversion import check_round_sizes, invert_round
from .membership import EVERYBODY, attack_by_likelihood_ratio, attack_by_loss, leaks, observe
from .report import findings

__all__ = ["audit"]


def audit(
    config: SimulationConfig, overrides: Sequence[str] = (), on_step: Callable[[str], None] = lambda _: None
) -> tuple[dict[str, Any], Path]:
    """Run the attacks that `config.audit` names.

    Args:
        config: the settings attacked; with `privacy=dp_sgd` those of a private run.
        overrides: those that `config` was composed from.
        on_step: told the name of what is done next, for progress.

    Returns:
        The contents of `audit.json`, and the folder it lies in.

    Raises:
        ConfigError: settings that do not fit the cohort, or an output folder in use.
    """
    import torch

    if config.threads is not None:
        torch.set_num_threads(config.threads)
    cohort = prepare_cohort(config)
    if "inversion" in config.audit.attacks:  # before hours of another attack
        check_round_sizes(cohort.cohort, config.experiment, config.audit.round_sizes)
    folder = claim_folder(config, f"audit-{config.data.name}-{config.partition.name}")
    try:
        report = _attack(config, overrides, cohort, folder, on_step)
        write_json(folder / "audit.json", report)
    except BaseException:
        with suppress(OSError):
            folder.rmdir()  # if nothing is in it
        raise
    return report, folder


def _attack(
    config: SimulationConfig,
    overrides: Sequence[str],
    cohort: SimulatedCohort,
    folder: Path,
    on_step: Callable[[str], None],
) -> dict[str, Any]:
    """The attacks one after the other, with their figures."""
    experiment = config.experiment
    report: dict[str, Any] = {
        "cohort": config.data.name,
        "privacy": experiment.privacy.model_dump(mode="json", exclude_none=True),
        "overrides": list(overrides),
        "membership": None,
        "canary": None,
        "inversion": None,
    }
    if "membership" in config.audit.attacks:
        report["membership"] = _membership(config, cohort, folder, on_step)
    agreement: Agreement | None = None
    if {"canary", "inversion"} & set(config.audit.attacks):
        run = Run("audit", experiment, EVERYBODY)
        with tempfile.TemporaryDirectory() as ledgers:
            agreement = build_agreement_only(open_grid(config, cohort, state=Path(ledgers)), run, cohort)
    if "canary" in config.audit.attacks:
        from .canary import audit_canaries  # Opacus is an extra

        assert agreement is not None
        on_step("canaries")
        canary = audit_canaries(initial_model(experiment, agreement), config.audit.num_canaries)
        report["canary"] = {**asdict(canary), "passed": canary.passed}
    if "inversion" in config.audit.attacks:
        assert agreement is not None
        report["inversion"] = []
        for size in config.audit.round_sizes:
            on_step(f"inversion of a round of {size}")
            report["inversion"].append(asdict(invert_round(cohort.cohort, experiment, agreement, size)))
        draw_inversion(folder / "inversion.png", report["inversion"])
    report["findings"] = findings(report)
    return report


def _membership(
    config: SimulationConfig,
    cohort: SimulatedCohort,
    folder: Path,
    on_step: Callable[[str], None],
) -> dict[str, Any]:
    numbers = iter(range(1, config.audit.num_models + 1))

    def next_model() -> None:
        number = next(numbers, None)
        if number is not None:
            on_step(f"membership: model {number} of {config.audit.num_models}")

    next_model()
    with tempfile.TemporaryDirectory() as ledgers:
        seen = observe(config, cohort, Path(ledgers), next_model)
    attacks = {"loss": attack_by_loss(seen), "lira": attack_by_likelihood_ratio(seen)}
    found = {
        name: {group: asdict(leak) for group, leak in leaks(scores, seen).items()} for name, scores in attacks.items()
    }
    draw_membership(folder / "membership.png", found, _title(config))
    return {"num_models": config.audit.num_models, **found}


def _title(config: SimulationConfig) -> str:
    privacy = config.experiment.privacy
    mode = f"epsilon {privacy.epsilon:g}" if isinstance(privacy, DPSGDConfig) else "without differential privacy"
    return f"{config.data.name}, {mode}"
