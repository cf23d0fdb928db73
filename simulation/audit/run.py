"""`flower-simulate audit`: attack this product's own answers, and report the results in sentences.

Writes `audit.json`, figures and `run.log` into a folder of its own. No attack proves that there is no better one; the
results are what an attacker learns at least.
"""

import logging
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from memamba_core.config.privacy import DPSGDConfig
from memamba_core.config.simulation import AttacksConfig, SimulationConfig
from memamba_core.data.agreement import Agreement
from memamba_core.errors import ConfigError
from server.federation.handshake import Run
from server.logs import also_log_to
from server.results import write_json
from simulation.cohort import SimulatedCohort, prepare_cohort
from simulation.flower_log import quiet_flower_log
from simulation.grid.build import open_grid
from simulation.methods import build_agreement_only
from simulation.run_folder import claim_folder

from .figures import draw_inversion, draw_membership
from .inversion import check_round_sizes, invert_round
from .membership import NO_TEST_FOLD, attack_by_likelihood_ratio, attack_by_loss, leaks, observe
from .records import AuditReport, MembershipReport
from .report import NO_CLAIM, findings

__all__ = ["audit"]

_log = logging.getLogger(__name__)
_PACKAGES = ("memamba_core", "server", "client", "simulation")


def audit(
    config: SimulationConfig, overrides: Sequence[str] = (), on_step: Callable[[str], None] = lambda _: None
) -> tuple[AuditReport, Path]:
    """Run the attacks of `config.attacks`.

    Args:
        config: settings of the attacked run; with `privacy=dp_sgd` those of a private run.
        overrides: overrides that `config` was composed from.
        on_step: called with the name of the next step, for progress.

    Returns:
        The contents of `audit.json`, and the folder that holds it.

    Raises:
        ConfigError: settings that do not fit the cohort, or an output folder in use.
    """
    import torch

    attacks = config.attacks
    if attacks is None:
        raise ConfigError("attacks is null; expected the settings of an audit, as compose_audit makes them")
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    cohort = prepare_cohort(config)
    if "inversion" in attacks.names:  # before hours of another attack
        check_round_sizes(cohort.cohort, config.experiment, attacks.round_sizes)
    folder = claim_folder(config, f"audit-{config.data.name}-{config.partition.name}")

    def step(name: str) -> None:
        _log.info(name)
        on_step(name)

    try:
        with quiet_flower_log(), also_log_to(folder / "run.log", _PACKAGES):
            report = _attack(config, attacks, overrides, cohort, folder, step)
        write_json(folder / "audit.json", report.model_dump(mode="json"))
    except BaseException:
        if not any(path.name != "run.log" for path in folder.iterdir()):
            shutil.rmtree(folder, ignore_errors=True)
        raise
    return report, folder


def _attack(
    config: SimulationConfig,
    attacks: AttacksConfig,
    overrides: Sequence[str],
    cohort: SimulatedCohort,
    folder: Path,
    on_step: Callable[[str], None],
) -> AuditReport:
    """Run the attacks one after the other and draw their figures."""
    experiment = config.experiment
    report = AuditReport(
        cohort=config.data.name,
        privacy=experiment.privacy.model_dump(mode="json", exclude_none=True),
        overrides=list(overrides),
    )
    if "membership" in attacks.names:
        membership = _membership(config, attacks, cohort, folder, on_step)
        report = report.model_copy(update={"membership": membership})
    agreement: Agreement | None = None
    unclaimed = "canary" in attacks.names and experiment.privacy.name == "none"
    if "inversion" in attacks.names or ("canary" in attacks.names and not unclaimed):
        run = Run("audit", experiment, NO_TEST_FOLD)
        with tempfile.TemporaryDirectory() as ledgers:
            agreement = build_agreement_only(open_grid(config, cohort, state=Path(ledgers)), run, cohort)
    if "canary" in attacks.names and not unclaimed:
        from .canary import audit_canaries  # Opacus is an extra

        assert agreement is not None
        on_step("canaries")
        canary = audit_canaries(experiment, agreement.input_spec(), attacks.num_canaries)
        report = report.model_copy(update={"canary": canary})
    if "inversion" in attacks.names:
        assert agreement is not None
        inversion = []
        for size in attacks.round_sizes:
            on_step(f"inversion of a round of {size}")
            inversion.append(invert_round(cohort.cohort, experiment, agreement, size))
        draw_inversion(folder / "inversion.png", inversion)
        report = report.model_copy(update={"inversion": inversion})
    return report.model_copy(update={"findings": (*findings(report), *([NO_CLAIM] if unclaimed else ()))})


def _membership(
    config: SimulationConfig,
    attacks: AttacksConfig,
    cohort: SimulatedCohort,
    folder: Path,
    on_step: Callable[[str], None],
) -> MembershipReport:
    numbers = iter(range(1, attacks.num_models + 1))

    def next_model() -> None:
        number = next(numbers, None)
        if number is not None:
            on_step(f"membership: model {number} of {attacks.num_models}")

    next_model()
    with tempfile.TemporaryDirectory() as ledgers:
        seen = observe(config, cohort, Path(ledgers), next_model)
    report = MembershipReport(
        num_models=attacks.num_models,
        loss=leaks(attack_by_loss(seen), seen),
        lira=leaks(attack_by_likelihood_ratio(seen), seen),
    )
    draw_membership(folder / "membership.png", report, _title(config))
    return report


def _title(config: SimulationConfig) -> str:
    privacy = config.experiment.privacy
    mode = f"epsilon {privacy.epsilon:g}" if isinstance(privacy, DPSGDConfig) else "without differential privacy"
    return f"{config.data.name}, {mode}"
