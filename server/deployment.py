"""Carry out a run over the network, from settings to results: `flower-server run`."""

import logging
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console

from memamba_core.config.compose import compose_experiment
from memamba_core.config.coordinator import RunSettings
from memamba_core.config.experiment import Experiment
from memamba_core.config.run_manifest import MANIFEST_VERSION, DeploymentManifest
from memamba_core.data.genomics import read_signatures
from memamba_core.errors import ConfigError, FederationError, RetiredKeyError, SuperLinkLostError
from server.admin.folder import FederationFolder
from server.federation.exchange import SiteFailure
from server.federation.handshake import Run
from server.federation.journal import Journal, RoundRecord
from server.federation.rounds import run_federation
from server.flower.control import Control, server_app_task
from server.flower.grid import RuntimeGrid
from server.flower.superlink import SuperLink

from .logs import also_log_to
from .progress import RunProgress
from .results import write_json, write_results, write_rounds
from .summary import DeploymentSummary

__all__ = ["Plan", "plan_run", "run_deployment"]

_log = logging.getLogger(__name__)
_NOT_CONNECTED = SiteFailure(0, "not connected when the run began")
_POLL_S = 0.5
_STEADY_S = 3.0  # the key check of a site's connector or doctor connects for a moment only


@dataclass(frozen=True)
class Plan:
    """Run that is ready to begin.

    Attributes:
        folder: folder of this run in `runs/`; does not exist yet if the run is new.
        run: name, experiment and fold, as sent to the sites.
        sites: names of the sites that are asked.
        min_sites: number of connected sites with which the run begins at the end of the wait.
        wait_s: longest wait for the sites, seconds.
        signatures: CSV of gene groups.
    """

    folder: Path
    run: Run
    sites: tuple[str, ...]
    min_sites: int
    wait_s: float
    signatures: Path | None

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
    if settings.resume is not None:
        before = _settings_before(folder, overrides)
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
    min_sites = settings.min_sites or len(sites)
    if min_sites > len(sites):
        raise ConfigError(
            f"min_sites is {min_sites}; expected at most {len(sites)}, the sites that are asked: {', '.join(sites)}"
        )
    if signatures is not None and not signatures.is_file():
        raise ConfigError(f"signatures={signatures}: no such file; expected a CSV of gene groups")
    experiment = experiment or compose_experiment(overrides)
    if experiment.agreement.gene_groups == "signatures" and signatures is None:
        raise ConfigError(
            "agreement.gene_groups is signatures, but no table of signatures is given. Add signatures=FILE, or "
            "agreement.gene_groups=kind"
        )
    experiment.check_number_of_sites(len(sites))
    run = Run(name, experiment, fold, tuple(overrides), roster, settings.approval_wait_s)
    return Plan(folder, run, sites, min_sites, settings.wait_s, signatures and signatures.absolute())


def _settings_before(folder: Path, overrides: Sequence[str]) -> DeploymentManifest:
    """Read the settings with which a run began.

    Raises:
        ConfigError: there is no such run, it is damaged or finished, or overrides are given.
    """
    path = folder / "settings.json"
    if overrides:
        raise ConfigError(f"resume takes the settings of {folder.name}; leave out {' '.join(overrides)}")
    if not path.is_file():
        known = sorted(p.parent.name for p in folder.parent.glob("*/settings.json"))
        raise ConfigError(f"resume={folder.name}: no such run; there are {', '.join(known) or 'none'}")
    if (folder / "summary.json").is_file():
        raise ConfigError(f"resume={folder.name}: this run is finished; its results are in {folder}")
    return DeploymentManifest.read(path)


def run_deployment(federation: FederationFolder, plan: Plan, console: Console) -> DeploymentSummary:
    """Carry out a run and write its results.

    Args:
        federation: the coordinator's folder.
        plan: result of `plan_run`.
        console: console of the live line.

    Returns:
        The contents of `summary.json`.

    Raises:
        ConfigError: certificates or ports cannot be used; nothing was started.
        FolderBusyError: another run is in progress.
        FederationError: the run ended early and can be resumed.
    """
    signatures = read_signatures(plan.signatures) if plan.signatures else None
    with federation.hold():
        for warning in federation.check():
            _log.warning(warning)
        started = time.time()
        with SuperLink(federation) as link:
            _begin(plan)
            with (
                also_log_to(plan.folder / "run.log"),
                RunProgress(federation.state, plan.run, console, _metrics_writer(plan)) as progress,
            ):
                _log.info("digest of the settings, for sites with `approve: listed`: %s", plan.run.experiment.digest())
                try:
                    with _flower_run(federation, link, progress) as (grid, nodes):
                        present = _wait_for_sites(grid, plan, nodes, progress, started)
                        result = run_federation(
                            grid,
                            plan.run,
                            signatures=signatures,
                            journal=plan.journal,
                            observer=progress,
                            enrolled=present,
                            on_approval=progress.on_approval,
                        )
                    away = {site: _NOT_CONNECTED for site in plan.sites if site not in present}
                    return write_results(plan.folder, plan.run, replace(result, failures=away | result.failures))
                except SuperLinkLostError as error:
                    raise FederationError(f"lost the SuperLink: {error}; its log is {link.log_file}") from error
                except OSError as error:
                    raise FederationError(
                        f"{plan.folder} cannot be written ({error.strerror}); finished rounds are kept. Free disk space"
                    ) from error


def _begin(plan: Plan) -> None:
    """Create the run's folder, unless it exists from before.

    Raises:
        ConfigError: the folder cannot be written; nothing is left behind.
    """
    if plan.folder.exists():
        return
    run = plan.run
    settings = {
        "manifest": MANIFEST_VERSION,
        "overrides": list(run.overrides),
        "sites": list(plan.sites),
        "fold": run.fold,
        "signatures": str(plan.signatures) if plan.signatures else None,
        "config_digest": run.experiment.digest(),
        "settings": run.experiment.model_dump(mode="json"),
    }
    try:
        plan.folder.mkdir(mode=0o700)
        write_json(plan.folder / "settings.json", settings)
    except OSError as error:
        shutil.rmtree(plan.folder, ignore_errors=True)
        raise ConfigError(f"{plan.folder}: cannot be written ({error.strerror}); nothing was left behind") from None


@contextmanager
def _flower_run(
    federation: FederationFolder, link: SuperLink, progress: RunProgress
) -> Iterator[tuple[RuntimeGrid, dict[str, int]]]:
    """Run one of Flower's runs, with the keys of the roster and no others.

    Yields:
        The grid of the run, and the node id of each enrolled site.
    """
    roster, ca = federation.roster(), federation.pki.ca_certificate
    control = Control(link.address, ca)
    try:
        control.end_runs()  # left by a coordinator that was killed
        keys = {site: roster.get(site).public_key_pem for site in roster.names}
        try:
            nodes = control.register(keys)
        except RetiredKeyError:
            link.restart_with_empty_database()
            nodes = control.register(keys)
        progress.know(nodes)
        control.start_run()
        with server_app_task(link.address, ca, federation.runtime_secret.read_bytes(), progress) as grid:
            yield grid, nodes
    finally:
        if not isinstance(sys.exception(), SuperLinkLostError):
            control.end_runs()
        control.close()


def _metrics_writer(plan: Plan) -> Callable[[RoundRecord], None]:
    """Return a callback that rewrites `metrics.jsonl` after each round."""
    resumed = plan.journal.read()
    rounds = list(resumed.rounds) if resumed else []

    def write(record: RoundRecord) -> None:
        rounds.append(record)
        write_rounds(plan.folder / "metrics.jsonl", plan.run.fold, rounds)

    return write


def _wait_for_sites(
    grid: RuntimeGrid, plan: Plan, nodes: Mapping[str, int], progress: RunProgress, started: float
) -> dict[str, int]:
    """Wait until all sites are connected, or for `wait_s` seconds if `min_sites` of them are.

    Args:
        grid: grid of the run.
        plan: names of the sites, least number of them, longest wait.
        nodes: node id of each site.
        progress: shows the connected sites.
        started: Unix time; a site counts as connected after a sign of life later than this.

    Returns:
        The node id of each connected site.

    Raises:
        FederationError: too few sites are connected.
    """
    deadline = time.monotonic() + plan.wait_s
    since: dict[str, float] = {}
    while True:
        online, now = grid.online(started), time.monotonic()
        since = {site: since.get(site, now) for site in plan.sites if nodes[site] in online}
        present = {site: nodes[site] for site, seen in since.items() if now - seen >= _STEADY_S}
        progress.on_connected(plan.sites, present)
        absent = [site for site in plan.sites if site not in present]
        if not absent:
            return present
        if time.monotonic() > deadline:
            break
        time.sleep(_POLL_S)
    if len(present) < plan.min_sites:
        raise FederationError(
            f"{len(present)} of {len(plan.sites)} sites are connected after {plan.wait_s:.0f} s; expected "
            f"min_sites={plan.min_sites}. Not connected: {', '.join(absent)}. Run `flower-client doctor` at these sites"
        )
    _log.warning("beginning without %s: not connected after %.0f s", ", ".join(absent), plan.wait_s)
    return present
