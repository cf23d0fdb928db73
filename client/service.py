"""`flower-client run`: the connection and the executor, together or each in a container of its own."""

import logging
import socket
import threading
from concurrent.futures import ThreadPoolExecutor

import torch

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

__all__ = ["run_connection", "run_together", "run_train"]

_log = logging.getLogger(__name__)


def run_connection(config: SiteConfig, listen: tuple[str, int]) -> None:
    """The connection alone: needs the node key and a way out, and neither data nor state.

    Args:
        config: of the site.
        listen: host and port on which the train part may ask for tasks.

    Raises:
        ConfigError: no coordinator in `site.yaml`, or no keys.
    """
    coordinator, keys = _connection(config)
    interrupts = Interrupts()
    support_log.info("link of %s: to %s, tasks are handed out on %s:%d", config.name, coordinator.address, *listen)
    bypass_proxy("127.0.0.1", "::1")
    Connection(coordinator, keys, listen, interrupts.stopping, OfflineResponder(listen, keys.load_secret())).run()
    support_log.info("stopped")


def run_train(config: SiteConfig, link: tuple[str, int]) -> None:
    """The executor alone: needs data, state and the runtime secret, and no way out but to the link.

    Args:
        config: of the site.
        link: host and port of the link part.

    Raises:
        ConfigError: no state folder, or no secret.
        DataError: the tables are not as `site.yaml` says.
        TamperedLogError: the egress log is not as this site left it.
    """
    executor = _executor(config, link, Interrupts())
    support_log.info("train part of %s: tasks come from %s:%d", config.name, *link)
    executor.run()
    support_log.info("stopped")


def run_together(config: SiteConfig) -> None:
    """Both in one: the SuperNode hands its tasks out on a free port of loopback.

    Raises:
        ConfigError, DataError, TamperedLogError: as `run_connection` and `run_train`.
    """
    coordinator, keys = _connection(config)
    address = ("127.0.0.1", _free_port())
    interrupts, ended = Interrupts(), threading.Event()
    executor = _executor(config, address, interrupts)
    link = Connection(coordinator, keys, address, ended)
    support_log.info("%s: to the coordinator at %s", config.name, coordinator.address)
    with ThreadPoolExecutor(1, "link") as threads:
        linked = threads.submit(link.run)
        linked.add_done_callback(lambda _done: interrupts.stop())  # without it the executor is of no use
        try:
            executor.run()
        finally:
            ended.set()  # after the executor: the SuperNode has to deliver its last answer
    linked.result()
    support_log.info("stopped")


def _connection(config: SiteConfig) -> tuple[CoordinatorAddress, SiteKeys]:
    """What the link needs, checked before anything is started."""
    if config.coordinator is None:
        raise ConfigError("site.yaml has no section coordinator (address, ca, keys); the coordinator's kit has one")
    keys = SiteKeys(config.coordinator.keys)
    keys.load_private()
    keys.load_secret()
    return config.coordinator, keys


def _executor(config: SiteConfig, link: tuple[str, int], interrupts: Interrupts) -> Executor:
    """Reads the site's tables: a mistake in them is told now, and not in the first round."""
    if config.state is None or config.coordinator is None:
        raise ConfigError("site.yaml needs state (the one writable folder) and coordinator (address, ca, keys)")
    secret = SiteKeys(config.coordinator.keys).load_secret()
    egress = EgressLog(config.state)
    egress.read()
    torch.set_num_threads(config.threads)
    worker = SiteWorker(open_site(config))
    host, _ = link
    bypass_proxy(host)
    return Executor(
        NodeTasks(f"{host}:{link[1]}", secret),
        build_client_app(lambda _context: worker),
        egress,
        interrupts,
        60 * config.limits.minutes_per_round,
    )


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
