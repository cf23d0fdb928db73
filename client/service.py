"""Programs of a site: connector and executor in one process (`run`), or each in its own (`connect`, `train`)."""

import logging
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from client.approval.admission import open_gate
from client.approval.policy import describe_policy
from client.flower.tasks import NodeTasks
from memamba_core.config.site import CoordinatorAddress, SiteConfig
from memamba_core.errors import ConfigError
from memamba_core.io.proxy import bypass_proxy
from memamba_core.privacy.egress import EgressLog

from .app import build_client_app
from .connection import Connection
from .executor import Executor
from .interrupts import Interrupts
from .keys import SiteKeys
from .logs import support_log
from .offline_responder import OfflineResponder
from .site import open_site
from .worker import SiteWorker

__all__ = ["run_connector", "run_executor", "run_together"]

_log = logging.getLogger(__name__)


def run_connector(config: SiteConfig, listen: tuple[str, int]) -> None:
    """Run the connector only: it needs the node key and network access, and neither data nor state.

    Args:
        config: of the site.
        listen: host and port on which the executor may ask for tasks.

    Raises:
        ConfigError: no coordinator in `site.yaml`, or no keys.
    """
    coordinator, keys = _load_credentials(config)
    interrupts = Interrupts()
    support_log.info(
        "connector of %s: coordinator %s, hands out tasks on %s:%d", config.name, coordinator.address, *listen
    )
    bypass_proxy("127.0.0.1", "::1")
    Connection(coordinator, keys, listen, interrupts.stopping, OfflineResponder(listen, keys.load_secret())).run()
    support_log.info("stopped")


def run_executor(config: SiteConfig, task_address: tuple[str, int], site_file: Path = Path("site.yaml")) -> None:
    """Run the executor only: it needs data, state and the runtime secret, and network access to the connector only.

    Args:
        config: of the site.
        task_address: host and port on which the connector hands out tasks.
        site_file: `site.yaml` as it was typed, for the log.

    Raises:
        ConfigError: no state folder, no secret, or no policy on approvals.
        DataError: the tables do not match `site.yaml`.
        TamperedLogError: the egress log was edited or truncated.
    """
    executor = _build_executor(config, task_address, Interrupts(), site_file)
    support_log.info("executor of %s: takes tasks from %s:%d", config.name, *task_address)
    executor.run()
    support_log.info("stopped")


def run_together(config: SiteConfig, site_file: Path = Path("site.yaml")) -> None:
    """Run connector and executor in one process: the SuperNode hands out tasks on a free port of loopback.

    Args:
        config: of the site.
        site_file: `site.yaml` as it was typed, for the log.

    Raises:
        ConfigError, DataError, TamperedLogError: as `run_connector` and `run_executor`.
    """
    coordinator, keys = _load_credentials(config)
    address = ("127.0.0.1", _free_port())
    interrupts, ended = Interrupts(), threading.Event()
    executor = _build_executor(config, address, interrupts, site_file)
    connection = Connection(coordinator, keys, address, ended)
    support_log.info("%s: coordinator %s", config.name, coordinator.address)
    with ThreadPoolExecutor(1, "connector") as threads:
        connected = threads.submit(connection.run)
        connected.add_done_callback(lambda _done: interrupts.stop())  # without a connection the executor has no work
        try:
            executor.run()
        finally:
            ended.set()  # after the executor, because the SuperNode has to deliver its last answer
    connected.result()
    support_log.info("stopped")


def _load_credentials(config: SiteConfig) -> tuple[CoordinatorAddress, SiteKeys]:
    """Return the coordinator's address and the site's keys; both are checked before any process is started."""
    if config.coordinator is None:
        raise ConfigError(
            "site.yaml has no section coordinator (address, ca, keys); copy it from the coordinator's kit"
        )
    keys = SiteKeys(config.coordinator.keys)
    keys.load_private()
    keys.load_secret()
    return config.coordinator, keys


def _build_executor(
    config: SiteConfig, task_address: tuple[str, int], interrupts: Interrupts, site_file: Path
) -> Executor:
    """Read the site's tables and build the executor; a mistake in a table is reported now, not in the first round."""
    if config.state is None or config.coordinator is None:
        raise ConfigError("site.yaml needs state (the one writable folder) and coordinator (address, ca, keys)")
    support_log.info("%s", describe_policy(config))
    secret = SiteKeys(config.coordinator.keys).load_secret()
    egress = EgressLog(config.state)
    egress.read()
    if (warning := config.limits.warning()) is not None:
        support_log.warning("%s", warning)
    torch.set_num_threads(config.threads)
    site = open_site(config)
    worker = SiteWorker(site, admission=open_gate(site, site_file))
    host, port = task_address
    bypass_proxy(host)
    return Executor(
        NodeTasks(f"{host}:{port}", secret),
        build_client_app(lambda _context: worker),
        egress,
        interrupts,
        60 * config.limits.minutes_per_round,
    )


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
