"""Carry out a run over the network, from a plan to results: `flower-server run`."""

import logging
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from rich.console import Console

from memamba_core.config.run_manifest import MANIFEST_VERSION
from memamba_core.data.genomics.signatures import read_signatures
from memamba_core.errors import ConfigError, FederationError, RetiredKeyError, SuperLinkLostError
from memamba_core.io.awake_clock import AwakeClock
from server.admin.folder import FederationFolder
from server.federation.exchange import SiteFailure
from server.federation.journal import RoundRecord
from server.federation.rounds import run_federation
from server.flower.control import Control, server_app_task
from server.flower.grid import RuntimeGrid
from server.flower.superlink import SuperLink

from .logs import also_log_to
from .planning import Plan, plan_run
from .progress import RunProgress
from .results import write_json, write_results, write_rounds
from .summary import DeploymentSummary

__all__ = ["Plan", "plan_run", "run_deployment"]

_log = logging.getLogger(__name__)
_NOT_CONNECTED = SiteFailure(0, "not connected when the run began")
_POLL_S = 0.5
_STEADY_S = 3.0  # the key check of a site's connector or doctor connects for a moment only


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
                    with _flower_run(federation, link, progress, plan.return_wait_s) as (grid, nodes):
                        present = _wait_for_sites(grid, plan, nodes, progress, started)
                        result = run_federation(
                            grid,
                            plan.run,
                            signatures=signatures,
                            journal=plan.journal,
                            observer=progress,
                            enrolled=present,
                            away={site: _NOT_CONNECTED for site in plan.sites if site not in present},
                            min_sites=plan.enough,
                            participation=plan.participation,
                            on_approval=progress.on_approval,
                        )
                    return write_results(plan.folder, plan.run, result)
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
    federation: FederationFolder, link: SuperLink, progress: RunProgress, return_wait_s: float
) -> Iterator[tuple[RuntimeGrid, dict[str, int]]]:
    """Run one of Flower's runs, with the keys of the roster and no others.

    Yields:
        The grid of the run, and the node id of each enrolled site.
    """
    roster, ca = federation.roster(), federation.pki.ca_certificate
    control = Control(link.address, ca, link.failed)
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
        secret = federation.runtime_secret.read_bytes()
        with server_app_task(link.address, ca, secret, progress, return_wait_s, link.failed) as grid:
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
    clock = AwakeClock(read=time.monotonic)
    since: dict[str, float] = {}
    while True:
        online, now = grid.online(started), clock.now()
        since = {site: since.get(site, now) for site in plan.sites if nodes[site] in online}
        present = {site: nodes[site] for site, seen in since.items() if now - seen >= _STEADY_S}
        progress.on_connected(plan.sites, present)
        absent = [site for site in plan.sites if site not in present]
        if not absent:
            return present
        if now > plan.wait_s:
            break
        time.sleep(_POLL_S)
    if len(present) < plan.min_sites:
        raise FederationError(
            f"{len(present)} of {len(plan.sites)} sites are connected after {plan.wait_s:.0f} s; expected "
            f"min_sites={plan.min_sites}. Not connected: {', '.join(absent)}. Run `flower-client doctor` at these sites"
        )
    _log.warning("beginning without %s: not connected after %.0f s", ", ".join(absent), plan.wait_s)
    return present
