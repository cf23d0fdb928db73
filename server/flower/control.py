"""Control interface of a SuperLink and task of a run, through Flower's private names.

Written for flwr 1.42.0. `tests/coordinator/test_flower_contract.py` checks every assumption.
"""

import hashlib
import logging
import threading
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from flwr.cli.build import build_fab_from_files
from flwr.common.constant import HEARTBEAT_DEFAULT_INTERVAL, Status, SubStatus
from flwr.common.serde import run_from_proto
from flwr.proto.control_pb2 import (
    ListNodesRequest,
    ListRunsRequest,
    RegisterNodeRequest,
    StartRunRequest,
    StopRunRequest,
    UnregisterNodeRequest,
)
from flwr.proto.fab_pb2 import Fab
from flwr.proto.runtime_pb2 import (
    AcquireTaskRequest,
    PullTaskInputRequest,
    PushTaskOutputRequest,
    SendTaskHeartbeatRequest,
)
from flwr.supercore.control.control_http_client import ControlHttpClient
from flwr.supercore.error import ApiErrorCode, FlowerError
from flwr.supercore.interceptors import (
    RuntimeTokenHttpInterceptor,
    RuntimeVersionHttpInterceptor,
    SuperExecAuthHttpInterceptor,
)
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supercore.task_identity import TaskIdentity

from memamba_core.errors import RetiredKeyError, SuperLinkLostError
from memamba_core.io.awake_clock import AwakeClock

from .grid import Listener, RuntimeGrid
from .retries import readable_errors, superlink_retry_policy

__all__ = ["Control", "server_app_task"]

_log = logging.getLogger(__name__)
_SERVER_APP_TASK = "flwr-serverapp"
_ACQUIRE = "/flwr.proto.Runtime/AcquireTask"
_POLL_S = 0.25
_ACQUIRE_S = 30.0
_BUNDLE = b"""\
[project]
name = "memamba-federated"
version = "1.0.0"
description = "Empty: coordinator and sites run installed code only"
license = {text = "Apache-2.0"}

[tool.flwr.app]
publisher = "memamba-federated"

[tool.flwr.app.components]
serverapp = "server.app:app"
clientapp = "client.app:app"
"""


# Control interface of the SuperLink
# --------------------------------------------------------------------------------------------------------------


class Control:
    """Client of the SuperLink's control interface.

    Args:
        address: `host:port` on loopback.
        ca: certificate of the federation's authority.
        ended: set when the SuperLink has ended for good.
    """

    def __init__(self, address: str, ca: Path, ended: threading.Event | None = None) -> None:
        self._client = ControlHttpClient.from_server_address(
            address,
            insecure=False,
            root_certificates=ca.read_bytes(),
            interceptors=[RuntimeVersionHttpInterceptor(component_name="flwr CLI")],
            retry_invoker=superlink_retry_policy(ended),
        )

    def register(self, keys: Mapping[str, bytes]) -> dict[str, int]:
        """Register these keys, and unregister all others.

        Args:
            keys: public key (PEM) of each site.

        Returns:
            Flower's node id of each site; a key that was registered before keeps its id.

        Raises:
            RetiredKeyError: the SuperLink's database holds one of the keys as removed.
            SuperLinkLostError: the SuperLink does not answer, or refuses.
        """
        with readable_errors():
            known = {
                bytes(node.public_key): node.node_id
                for node in self._client.ListNodes(ListNodesRequest()).nodes_info
                if node.status != "unregistered"
            }
            for key, node_id in known.items():
                if key not in keys.values():
                    self._client.UnregisterNode(UnregisterNodeRequest(node_id=node_id))
            return {site: known[key] if key in known else self._register_key(site, key) for site, key in keys.items()}

    def _register_key(self, site: str, key: bytes) -> int:
        try:
            return int(self._client.RegisterNode(RegisterNodeRequest(public_key=key, name=site)).node_id)
        except httpx.HTTPStatusError as error:
            flower_error = FlowerError.from_json(error.response.text)
            if flower_error is not None and flower_error.code == ApiErrorCode.PUBLIC_KEY_ALREADY_IN_USE:
                raise RetiredKeyError(f"{site}: the SuperLink's database holds this key as removed") from None
            raise

    def start_run(self) -> None:
        """Start a run with an empty bundle: coordinator and sites run installed code only."""
        with warnings.catch_warnings(action="ignore", category=DeprecationWarning):  # Flower's use of pathspec
            content, _ = build_fab_from_files({"pyproject.toml": _BUNDLE})
        fab = Fab(hash_str=hashlib.sha256(content).hexdigest(), content=content)
        with readable_errors():
            if not self._client.StartRun(StartRunRequest(fab=fab)).run_id:
                raise SuperLinkLostError("it did not start the run")

    def end_runs(self) -> None:
        """Stop unfinished runs, and let Flower delete the messages that sites sent in them."""
        with readable_errors():
            for run_id, run in self._client.ListRuns(ListRunsRequest()).run_dict.items():
                if run.status.status != Status.FINISHED:
                    self._client.StopRun(StopRunRequest(run_id=run_id))
            self._client.ListRuns(ListRunsRequest())  # deletes the messages of finished runs

    def close(self) -> None:
        """Close the connection."""
        self._client.close()


# Task of the run
# --------------------------------------------------------------------------------------------------------------


@contextmanager
def server_app_task(
    address: str,
    ca: Path,
    secret: bytes,
    listener: Listener,
    return_wait_s: float = 900.0,
    ended: threading.Event | None = None,
) -> Iterator[RuntimeGrid]:
    """Acquire the task of the started run, and keep it alive until the block ends.

    Args:
        address: `host:port` of the SuperLink on loopback.
        ca: certificate of the federation's authority.
        secret: runtime secret with which the SuperLink was started; without it no task is given.
        listener: called when sites are asked and when they answer.
        return_wait_s: longest wait of an exchange for a site that is away and whose answer is needed, seconds.
        ended: set when the SuperLink has ended for good.

    Raises:
        SuperLinkLostError: the SuperLink does not answer, or gives no task; the text says why.
    """
    token = _acquire(address, ca, secret)
    grid = RuntimeGrid(address, ca, token, listener, return_wait_s, ended)
    heartbeat_client = _runtime_client(address, ca, RuntimeTokenHttpInterceptor(token))
    stopped = threading.Event()
    outcome = SubStatus.STOPPED
    try:
        with readable_errors():
            task = grid._runtime_client.PullTaskInput(PullTaskInputRequest())
        TaskIdentity.task_id, TaskIdentity.run_id = task.task_id, task.run.run_id
        TaskIdentity.node_id = task.context.node_id
        grid.set_run(run_from_proto(task.run))
        threading.Thread(
            target=_send_heartbeats, args=(heartbeat_client, stopped, grid.lost), name="heartbeat", daemon=True
        ).start()
        yield grid
        outcome = SubStatus.COMPLETED
    finally:
        stopped.set()
        grid.close()
        try:
            heartbeat_client.PushTaskOutput(PushTaskOutputRequest(sub_status=outcome, details=""))
        except (httpx.HTTPError, OSError):
            _log.info("could not report the end of the run to the SuperLink, which notices it by itself")
        heartbeat_client.close()


def _acquire(address: str, ca: Path, secret: bytes) -> str:
    auth = SuperExecAuthHttpInterceptor(master_secret=secret, protected_methods=frozenset({_ACQUIRE}))
    client = _runtime_client(address, ca, auth)
    clock = AwakeClock()
    try:
        while clock.now() < _ACQUIRE_S:
            with readable_errors():
                request = AcquireTaskRequest(supported_task_types=[_SERVER_APP_TASK])
                if token := client.AcquireTask(request).token:
                    return str(token)
            time.sleep(_POLL_S)
    finally:
        client.close()
    raise SuperLinkLostError(f"it gave no task within {_ACQUIRE_S:.0f} s")


def _runtime_client(address: str, ca: Path, interceptor: Any) -> RuntimeHttpClient:
    return RuntimeHttpClient.from_server_address(
        server_address=address,
        insecure=False,
        root_certificates=ca.read_bytes(),
        interceptors=[RuntimeVersionHttpInterceptor(component_name=_SERVER_APP_TASK), interceptor],
    )


def _send_heartbeats(client: RuntimeHttpClient, stopped: threading.Event, lost: threading.Event) -> None:
    """Send heartbeats of the task, to notice a SuperLink that has given the run up."""
    while not stopped.wait(HEARTBEAT_DEFAULT_INTERVAL / 6):
        try:
            known = client.SendTaskHeartbeat(SendTaskHeartbeatRequest()).success
        except httpx.HTTPStatusError as error:
            known = error.response.status_code not in (401, 403)
        except (
            httpx.HTTPError,
            RuntimeError,
        ):  # the SuperLink is being restarted, or the client is closed because the run is over
            known = True
        if not known and not stopped.is_set():
            lost.set()
            return
