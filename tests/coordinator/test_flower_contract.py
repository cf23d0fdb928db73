"""Assumptions about Flower: two listeners of one SuperLink, keys, and a task that only the secret acquires."""

import asyncio
import datetime as dt
import sqlite3
import ssl
import threading
import time
from asyncio.sslproto import SSLProtocol
from contextlib import closing
from types import SimpleNamespace

import httpx
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from fixtures.deployment import free_ports
from flwr.supercore.error import ApiErrorCode, FlowerError
from flwr.supercore.protobuf.translation import PROTOBUF_REQUEST_TYPES
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

from client.flower.tasks import KeyStatus
from client.flower.tasks import check_key_at_coordinator as show_key
from memamba_core.config.coordinator import CoordinatorConfig
from memamba_core.errors import ConfigError, RetiredKeyError, SuperLinkLostError
from memamba_core.io.node_key import normalise_public_key
from server.admin.folder import create_folder
from server.admin.pki import Pki
from server.admin.roster import Roster, save_roster
from server.flower.callers import Caller, Callers, not_enrolled_answer
from server.flower.control import Control, server_app_task
from server.flower.port_limits import Limits
from server.flower.superlink import SuperLink
from server.flower.superlink_process import FleetOnly


def answer(path, *, method="POST", headers=((b"content-length", b"3"),), kind="http"):
    """HTTP status of a request at the public listener; 200 comes from the SuperLink itself."""
    sent = []

    async def app(_scope, _receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def send(event):
        sent.append(event)

    scope = {"type": kind, "path": path, "method": method, "headers": list(headers), "client": ("192.0.2.1", 5)}
    callers = SimpleNamespace(identify=lambda headers: "county")
    port = SimpleNamespace(limits=Limits(), count=lambda *_: None, know=lambda *_: None, is_known=lambda _: True)
    asyncio.run(FleetOnly(app, callers, port)(scope, None, send))
    return sent[0]["status"]


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/v1/fleet/pull-messages", 200),
        ("/health", 200),
        ("/v1/control/list-runs", 403),
        ("/v1/runtime/acquire-task", 403),
        ("/docs", 403),
        ("/openapi.json", 403),
        ("/", 403),
        ("/v1/fleet", 403),
        ("/V1/FLEET/x", 403),
        ("//v1/fleet/x", 403),
        ("/health/x", 403),
        ("/v1/responses", 403),
    ],
)
def test_the_public_door_shows_what_sites_need(path, status):
    assert answer(path, headers=[(b"content-length", b"0")]) == status


def test_the_public_door_takes_no_request_of_a_strange_size():
    assert answer("/v1/fleet/push-object", headers=[(b"content-length", b"5000000")]) == 200
    assert answer("/v1/fleet/push-object", headers=[(b"content-length", b"10000000000")]) == 413
    assert answer("/v1/fleet/push-object", headers=[(b"transfer-encoding", b"chunked")]) == 411
    assert answer("/v1/fleet/push-object", headers=[(b"content-length", b"-1")]) == 411
    assert answer("/health", method="GET", headers=[]) == 200
    assert answer("/health", method="GET", headers=[(b"content-length", b"5")]) == 413
    assert answer("/health", method="GET", headers=[(b"transfer-encoding", b"chunked")]) == 411
    assert answer("/v1/fleet/x", kind="websocket") == 403


def new_key():
    return ec.generate_private_key(ec.SECP384R1())


def public(key):
    pem = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    return normalise_public_key(pem, "node.pub")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    port, loopback = free_ports()
    config = CoordinatorConfig(addresses=("127.0.0.1",), port=port, listen_host="127.0.0.1", loopback_port=loopback)
    return create_folder(tmp_path_factory.mktemp("federation") / "folder", config)


@pytest.fixture(scope="module")
def link(folder):
    with SuperLink(folder) as link:
        yield link


@pytest.fixture(scope="module")
def key(folder):
    """Key of the one enrolled site."""
    key = new_key()
    folder.change_roster(lambda roster: roster.enroll("county", public(key), dt.datetime.now(dt.UTC)))
    return key


@pytest.fixture(scope="module")
def control(folder, link, key):
    control = Control(link.address, folder.pki.ca_certificate)
    site = folder.roster().get("county")
    control.register({site.name: site.public_key_pem})
    yield control
    control.close()


def test_flowers_own_headers_identify_a_site_before_the_body(tmp_path):
    key, roster = new_key(), tmp_path / "roster.yaml"
    save_roster(Roster().enroll("county", public(key), dt.datetime.now(dt.UTC)), roster)
    request = httpx.Request("POST", "https://localhost/v1/fleet/push-object", content=b"")
    context = SimpleNamespace(request=request)
    NodeAuthHttpInterceptor(key, key.public_key()).intercept(context, lambda _: None)
    headers = [(name.lower(), value) for name, value in request.headers.raw]
    assert Callers(roster).identify(headers) == "county"
    forged = [(n, headers[0][1] if n == b"flwr-signature" else v) for n, v in headers]
    assert Callers(roster).identify(forged) is Caller.UNSIGNED


def test_an_unknown_key_is_answered_as_flower_does():
    status, body = not_enrolled_answer()
    assert status == 412
    assert FlowerError.from_json(body.decode()).code == ApiErrorCode.FLEET_NODE_ACTIVATION_FAILED
    assert ("POST", "/v1/fleet/activate-node") in PROTOBUF_REQUEST_TYPES


def test_asyncio_sizes_its_tls_buffers_by_a_class_attribute():
    assert SSLProtocol.max_size == 262_144


def outside(folder):
    return folder.config.address_for_sites()


def check_key_at_coordinator(folder, key, pki=None):
    """Present a site's key, as its connector does before it connects."""
    trusted = ssl.create_default_context(cafile=str((pki or folder.pki).ca_certificate))
    return show_key(outside(folder), trusted, key)


@pytest.mark.slow
class TestDoors:
    def test_control_and_runtime_are_refused_from_outside(self, folder, link):
        trust = ssl.create_default_context(cafile=str(folder.pki.ca_certificate))
        for path in ("/v1/control/list-runs", "/v1/control/start-run", "/v1/runtime/acquire-task", "/docs"):
            assert httpx.post(f"https://{outside(folder)}{path}", content=b"", verify=trust).status_code == 403
        assert httpx.get(f"https://{outside(folder)}/health", verify=trust).status_code == 200
        stranger = Control(outside(folder), folder.pki.ca_certificate)
        with pytest.raises(SuperLinkLostError, match="403"):
            stranger.start_run()
        stranger.close()

    def test_a_task_is_for_who_has_the_secret(self, folder, link, control):
        control.start_run()
        taken = server_app_task(link.address, folder.pki.ca_certificate, b"x" * 64, None)
        with pytest.raises(SuperLinkLostError, match="401"):
            taken.__enter__()
        with server_app_task(link.address, folder.pki.ca_certificate, folder.runtime_secret.read_bytes(), None) as grid:
            assert grid.online(since=0) == set()
        control.end_runs()

    def test_only_an_enrolled_key_gets_in(self, folder, link, control, key):
        assert check_key_at_coordinator(folder, key) is KeyStatus.ENROLLED
        assert check_key_at_coordinator(folder, new_key()) is KeyStatus.NOT_ENROLLED

    def test_a_site_with_another_authority_connects_to_nobody(self, folder, link, key, tmp_path):
        other = Pki(tmp_path)
        other.create(("127.0.0.1",), dt.datetime.now(dt.UTC))
        with pytest.raises(httpx.ConnectError, match="certificate verify failed"):
            check_key_at_coordinator(folder, key, other)

    def test_a_replaced_key_is_worth_nothing_and_a_kept_one_keeps_its_node(self, folder, link, control, key):
        site, new = folder.roster().get("county"), new_key()
        mercy = folder.change_roster(lambda r: r.enroll("mercy", public(new), dt.datetime.now(dt.UTC))).get("mercy")
        both = {s.name: s.public_key_pem for s in (site, mercy)}
        nodes = control.register(both)
        assert control.register(both) == nodes
        assert control.register({"mercy": mercy.public_key_pem}) == {"mercy": nodes["mercy"]}
        assert check_key_at_coordinator(folder, key) is KeyStatus.NOT_ENROLLED
        assert check_key_at_coordinator(folder, new) is KeyStatus.ENROLLED
        with pytest.raises(RetiredKeyError):
            control.register(both)
        link.restart_with_empty_database()
        assert control.register(both).keys() == both.keys()
        assert check_key_at_coordinator(folder, key) is KeyStatus.ENROLLED

    def test_a_request_waits_while_another_program_writes_to_the_database(self, folder, link, key):
        """Hold the database as long as Flower's own writes may on a busy disk; Flower would give up after 5 s."""
        control = Control(link.address, folder.pki.ca_certificate)
        control._client._retry_invoker = None
        with closing(sqlite3.connect(link.database, isolation_level=None, check_same_thread=False)) as other:
            other.execute("BEGIN IMMEDIATE")
            threading.Timer(7, other.rollback).start()
            begin = time.monotonic()
            control.start_run()
            assert time.monotonic() - begin > 6
        control.end_runs()
        control.close()

    def test_a_port_in_use_is_named(self, folder, link):
        with pytest.raises(ConfigError, match=r"loopback_port in coordinator\.yaml"):
            SuperLink(folder).__enter__()
