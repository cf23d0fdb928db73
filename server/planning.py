"""Plan a run over the network: from settings, roster and, if it is resumed, its own folder."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import yaml

from memamba_core.config.compose import compose_experiment
from memamba_core.config.coordinator import RunSettings
from memamba_core.config.experiment import Experiment
from memamba_core.config.federation import FederationConfig
from memamba_core.config.run_manifest import DeploymentManifest
from memamba_core.errors import ConfigError
from server.admin.folder import FederationFolder
from server.federation.handshake import Run
from server.federation.journal import Journal
from server.federation.participation import Participation

__all__ = ["Plan", "plan_run"]

_CHANGEABLE = ("federation.min_results", "federation.required_sites", "federation.min_patients_share")
"""Settings that may differ when a run is resumed. They are no part of what a site computes."""


@dataclass(frozen=True)
class Plan:
    """Run that is ready to begin.

    Attributes:
        folder: folder of this run in `runs/`; does not exist yet if the run is new.
        run: name, experiment and fold, as sent to the sites.
        sites: names of the sites that are asked.
        min_sites: number of connected sites with which the run begins at the end of the wait.
        enough: number of sites that must accept the agreement; None: as `participation` says.
        participation: sites that each round needs.
        wait_s: longest wait for the sites, seconds.
        signatures: CSV of gene groups.
        return_wait_s: longest wait of an exchange for a site that is away and whose answer is needed, seconds.
    """

    folder: Path
    run: Run
    sites: tuple[str, ...]
    min_sites: int
    enough: int | None
    participation: Participation
    wait_s: float
    signatures: Path | None
    return_wait_s: float = 900.0

    @property
    def has_begun(self) -> bool:
        """True if the run's folder exists, so that the run can be resumed."""
        return (self.folder / "settings.json").exists()

    @property
    def journal(self) -> Journal:
        """Journal of the finished rounds."""
        return Journal(self.folder / "journal", self.run.experiment.digest(), self.run.fold)


def plan_run(federation: FederationFolder, settings: RunSettings, overrides: Sequence[str]) -> Plan:
    """Plan a run from settings, roster and, if it is resumed, its own folder. Write nothing.

    Args:
        federation: the coordinator's folder.
        settings: settings of this run.
        overrides: settings of the experiment, as typed.

    Raises:
        ConfigError: a setting cannot be used, a site is not enrolled, or the run cannot be resumed in this way.
    """
    enrolled = federation.roster()
    name = settings.resume or settings.name or f"run-{datetime.now(UTC):%Y%m%d-%H%M%S}"
    folder = federation.runs / name
    sites, signatures, fold = settings.sites or enrolled.names, settings.signatures, settings.fold
    roster = sites
    experiment: Experiment | None = None
    changes: tuple[str, ...] = ()
    if settings.resume is not None:
        changes = tuple(o for o in overrides if o.partition("=")[0] in _CHANGEABLE)
        before = _settings_before(folder, [o for o in overrides if o not in changes])
        overrides, fold, signatures = before.overrides, before.fold, before.signatures
        sites = settings.sites or before.sites
        roster = before.sites  # that of the run, which the sites approved; fewer of them may be asked
        if added := sorted(set(sites) - set(roster)):
            raise ConfigError(
                f"{', '.join(added)} did not belong to {name} when it began, and the operators of the other sites have "
                "not approved it with them. Leave them out, or begin a new run"
            )
        experiment = before.experiment(str(folder / "settings.json"))
    elif folder.exists():
        raise ConfigError(f"{folder} exists already. Choose another name, or continue this run with resume={name}")
    if not sites:
        raise ConfigError("no site is enrolled. Add one with `flower-server enroll NAME node.pub`")
    for site in sites:
        enrolled.get(site)
    if settings.min_sites is not None and settings.min_sites > len(sites):
        raise ConfigError(
            f"min_sites is {settings.min_sites}; expected at most {len(sites)}, the sites that are asked: "
            f"{', '.join(sites)}"
        )
    if signatures is not None and not signatures.is_file():
        raise ConfigError(f"signatures={signatures}: no such file; expected a CSV of gene groups")
    experiment = experiment or compose_experiment(overrides)
    if experiment.agreement.gene_groups == "signatures" and signatures is None:
        raise ConfigError(
            "agreement.gene_groups is signatures, but no table of signatures is given. Add signatures=FILE, or "
            "agreement.gene_groups=kind"
        )
    federation_config = _changed(experiment.federation, changes)
    experiment.model_copy(update={"federation": federation_config}).check_number_of_sites(len(sites))
    participation = Participation.of(federation_config)
    if unknown := sorted(set(participation.required_sites) - set(sites)):
        raise ConfigError(
            f"federation.required_sites names {', '.join(unknown)}; expected sites that are asked: {', '.join(sites)}"
        )
    # a site that is gone for good is not waited for by number when the run is resumed without it
    enough = settings.min_sites or (participation.fewest(len(sites)) if changes else None)
    min_sites = enough or len(sites)
    run = Run(name, experiment, fold, tuple(overrides), roster, settings.approval_wait_s)
    return Plan(
        folder,
        run,
        sites,
        min_sites,
        enough,
        participation,
        settings.wait_s,
        signatures and signatures.absolute(),
        settings.return_wait_s,
    )


def _changed(config: FederationConfig, changes: Sequence[str]) -> FederationConfig:
    """Return the settings with other participation: what a round needs concerns the coordinator alone.

    The sites still receive, and have approved, the settings with which the run began.

    Raises:
        ConfigError: a value cannot be used.
    """
    values = config.model_dump()
    for change in changes:
        key, _, text = change.partition("=")
        try:
            values[key.partition(".")[2]] = yaml.safe_load(text)
        except yaml.YAMLError:
            raise ConfigError(f"{key}={text}: not readable; expected a number, null or a list as in [a,b]") from None
    return FederationConfig.parse(values, "federation") if changes else config


def _settings_before(folder: Path, overrides: Sequence[str]) -> DeploymentManifest:
    """Read the settings with which a run began.

    Raises:
        ConfigError: there is no such run, it is damaged or finished, or overrides are given.
    """
    path = folder / "settings.json"
    if overrides:
        raise ConfigError(
            f"resume takes the settings of {folder.name}, but for {', '.join(_CHANGEABLE)}; leave out "
            f"{' '.join(overrides)}"
        )
    if not path.is_file():
        known = sorted(p.parent.name for p in folder.parent.glob("*/settings.json"))
        raise ConfigError(f"resume={folder.name}: no such run; there are {', '.join(known) or 'none'}")
    if (folder / "summary.json").is_file():
        raise ConfigError(f"resume={folder.name}: this run is finished; its results are in {folder}")
    return DeploymentManifest.read(path)
