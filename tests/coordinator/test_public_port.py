"""The open port in this process, with short times: each way to hold it, and a site that gets through meanwhile."""

import asyncio
import datetime as dt
import socket
import ssl
import threading
import time
from contextlib import suppress
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from fixtures.port_attacks import Stranger, openssh, signed_headers

from server.admin.pki import Pki
from server.admin.roster import Roster, save_roster
from server.flower import public_port
from server.flower.callers import Callers
from server.flower.port_limits import Limits
from server.flower.port_notices import Notices, Refused
from server.flower.public_port import PublicPort, settings_of_port
from server.flower.superlink_process import FleetOnly

SHORT = replace(
    Limits(),
    unknown=12,
    unknown_per_address=6,
    known_per_key=4,
    large_bodies_per_key=2,
    hello_s=0.5,
    handshake_s=0.5,
    header_s=0.5,
    stall_s=0.7,
    idle_s=30,
    answer_s=0.5,
)
CALM = replace(SHORT, hello_s=20, handshake_s=20, header_s=20, stall_s=20)  # for what is no matter of time
SITE, STRANGER = "127.0.0.1", "127.0.0.9"


class App:
    """SuperLink's place: reads bodies, and counts what it was given."""

    def __init__(self):
        self.bodies, self.reading, self.most = [], 0, 0

    async def __call__(self, scope, receive, send):
        self.reading += 1
        self.most = max(self.most, self.reading)
        size, more = 0, True
        while more:
            event = await receive()
            if event["type"] == "http.disconnect":
                self.reading -= 1
                return
            size, more = size + len(event["body"]), event.get("more_body", False)
        self.reading -= 1
        self.bodies.append(size)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})


class Port:
    """A running port, with its refusals counted by kind."""

    def __init__(self, files, limits):
        self.key, self.app, self.refused = files["key"], App(), {}
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.number = free.getsockname()[1]
        self._files, self._limits = files, limits
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)

    async def _serve(self):
        async def app(scope, receive, send):
            await fleet(scope, receive, send)

        tls = (str(self._files["server_key"]), str(self._files["certificate"]))
        config = settings_of_port(app, "127.0.0.1", self.number, tls, self._limits)
        notices = Notices(print, lambda: 0.0)
        notices.count = lambda kind, address: self.refused.__setitem__(kind, self.refused.get(kind, 0) + 1)
        self.port = PublicPort(config, self._limits, notices)
        fleet = FleetOnly(self.app, Callers(self._files["roster"]), self.port)
        await self.port.serve()

    def __enter__(self):
        self._thread.start()
        until(lambda: self._ready())
        return self

    def _ready(self):
        with suppress(AttributeError):
            return self.port.started and self.port._door is not None
        return False

    def __exit__(self, *error):
        self.port.should_exit = True
        self._thread.join(10)
        assert not self._thread.is_alive()

    def site(self):
        """A connection of the enrolled site."""
        return Stranger(self.number, SITE).connect_tls()

    def request(self, connection, body=b"", key=None, declared=None):
        """Send a signed request and return the status of the answer."""
        connection.sendall(head(self.key if key is None else key, len(body) if declared is None else declared) + body)
        return status(connection)

    def healthy(self):
        """True if a new connection of the site is answered."""
        with self.site() as connection:
            return self.request(connection) == 200


def head(key, length, path="/v1/fleet/push-object"):
    lines = b"".join(b"%s: %s\r\n" % pair for pair in signed_headers(key))
    return b"POST %s HTTP/1.1\r\nhost: x\r\n%scontent-length: %d\r\n\r\n" % (path.encode(), lines, length)


def status(connection):
    connection.settimeout(5)
    answer = b""
    while b"\r\n\r\n" not in answer:
        part = connection.recv(65_536)
        if not part:
            return None
        answer += part
    length = int(answer.lower().partition(b"content-length: ")[2].split(b"\r")[0])
    while len(answer.partition(b"\r\n\r\n")[2]) < length:
        answer += connection.recv(65_536)
    return int(answer.split()[1])


def until(holds, seconds=5.0):
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "not within 5 s"
        time.sleep(0.01)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("port")
    pki, key = Pki(folder), ec.generate_private_key(ec.SECP384R1())
    pki.create(("127.0.0.1",), dt.datetime.now(dt.UTC))
    save_roster(Roster().enroll("county", openssh(key), dt.datetime.now(dt.UTC)), folder / "roster.yaml")
    return {
        "server_key": pki.server_key,
        "certificate": pki.server_certificate,
        "roster": folder / "roster.yaml",
        "key": key,
    }


@pytest.fixture
def port(files, monkeypatch):
    monkeypatch.setattr(public_port, "_SWEEP_S", 0.1)
    monkeypatch.setattr(public_port, "_LONGEST_STEP_S", 0.15)
    with Port(files, SHORT) as port:
        yield port


@pytest.fixture
def calm(files, monkeypatch):
    monkeypatch.setattr(public_port, "_SWEEP_S", 0.1)
    with Port(files, CALM) as port:
        yield port


@pytest.fixture
def stranger(port):
    stranger = Stranger(port.number, STRANGER)
    yield stranger
    stranger.close()


class TestStranger:
    def test_silent_connections_are_closed_and_hold_up_no_site(self, port, stranger):
        assert stranger.idle(50) == 50
        assert port.healthy()
        until(lambda: stranger.alive() == 0)
        assert port.refused[Refused.TOO_MANY] > 0
        assert port.refused[Refused.SILENT] >= SHORT.unknown_per_address
        assert sum(port.refused.values()) == 50

    def test_a_connection_without_a_byte_takes_no_memory_for_tls(self, port, stranger):
        stranger.idle(3)
        until(lambda: len(port.port._visitors) == 3)
        assert not port.port.server_state.connections
        assert all(visitor.connection is not None for visitor in port.port._visitors.values())

    def test_tls_that_says_nothing_is_closed(self, port, stranger):
        stranger.idle(3, tls=True)
        until(lambda: stranger.alive() == 0)
        assert port.refused == {Refused.SLOW_HEADER: 3}

    def test_a_handshake_that_stops_is_closed(self, port, stranger):
        stranger.idle(3)
        for held in stranger.held:
            held.sendall(b"\x16\x03\x01\x02\x00")
        until(lambda: stranger.alive() == 0)
        assert port.refused == {Refused.SLOW_HANDSHAKE: 3}

    @pytest.mark.parametrize(
        "content", [b"GET / HTTP/1.1\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\n", b"\x00" * 100, b"SSH-2.0"]
    )
    def test_what_is_not_tls_is_closed_at_its_first_byte(self, port, stranger, content):
        assert stranger.say(content, tls=False) == b""
        until(lambda: port.refused == {Refused.NOT_TLS: 1})

    def test_an_old_version_of_tls_is_refused(self, port, stranger):
        with pytest.raises((ssl.SSLError, ConnectionError)):
            stranger.connect_tls(maximum_version=ssl.TLSVersion.TLSv1_2)
        until(lambda: port.refused == {Refused.NOT_TLS: 1})

    def test_a_port_scan_is_not_worth_a_line(self, port, stranger):
        stranger.connect().close()
        assert port.healthy()
        assert port.refused == {}

    @pytest.mark.parametrize("attack", ["endless_header", "endless_target"])
    def test_a_header_without_end_is_cut_off(self, port, stranger, attack):
        assert getattr(stranger, attack)(50) < 20_000_000
        until(lambda: port.refused == {Refused.NOT_HTTP: 1})
        assert port.healthy()

    def test_a_header_of_very_many_lines_is_cut_off(self, port, stranger):
        assert stranger.many_small_headers(3_000_000) < 10_000_000
        until(lambda: port.refused == {Refused.NOT_HTTP: 1})

    def test_a_slow_header_is_closed_although_bytes_arrive(self, port, stranger):
        assert stranger.slow_header(5) < 3
        assert port.refused == {Refused.SLOW_HEADER: 1}

    @pytest.mark.parametrize(
        ("content", "kind", "code"),
        [
            (
                b"POST /v1/control/start-run HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\n",
                Refused.CLOSED_PATH,
                b"403",
            ),
            (b"GET /docs HTTP/1.1\r\nhost: x\r\n\r\n", Refused.CLOSED_PATH, b"403"),
            (b"GET /health HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\n", Refused.BODY_SIZE, b"413"),
            (
                b"POST /v1/fleet/x HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n",
                Refused.BODY_SIZE,
                b"411",
            ),
            (b"POST /v1/fleet/x HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\n", Refused.UNKNOWN_CALLER, b"401"),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Refused.CLOSED_PATH, b"403"),
            (b"\xff\xfe\x00\r\n\r\n", Refused.NOT_HTTP, b"400"),
        ],
    )
    def test_a_request_is_refused_once_and_the_connection_closed(self, port, stranger, content, kind, code):
        answer = stranger.say(content + b"x" * 100)
        assert answer.split()[1] == code
        assert answer.count(b"HTTP/1.1 ") == 1
        assert port.refused == {kind: 1}
        assert port.app.bodies == []

    def test_requests_in_one_go_get_one_answer(self, port, stranger):
        answer = stranger.say(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n" * 300)
        assert answer.count(b"HTTP/1.1 200") == 1

    def test_an_upgrade_is_ignored(self, port, stranger):
        answer = stranger.say(b"GET /health HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n")
        assert answer.split()[1] == b"200"

    def test_bodies_without_a_key_are_not_read(self, port, stranger):
        sent = stranger.bodies(6, seconds=3)
        assert port.app.bodies == []
        assert port.refused[Refused.UNKNOWN_CALLER] == 6
        assert max(sent) < 8_000_000  # in buffers of two kernels
        until(lambda: not port.port._visitors)

    def test_an_unknown_key_reads_that_it_is_not_enrolled(self, port, stranger):
        key = ec.generate_private_key(ec.SECP384R1())
        answer = stranger.say(head(key, 3, "/v1/fleet/activate-node") + b"abc")
        assert answer.split()[1] == b"412"
        assert b'"code": 2004' in answer
        assert stranger.say(head(key, 3) + b"abc").split()[1] == b"401"

    def test_strangers_at_the_address_of_a_site_push_out_each_other_only(self, port, stranger):
        stranger.address = SITE
        with port.site() as old:
            assert port.request(old) == 200
            stranger.idle(30)
            assert port.request(old) == 200
        assert port.refused[Refused.TOO_MANY] > 0

    def test_a_forwarded_address_is_not_believed(self, port, stranger):
        stranger.address = SITE  # uvicorn believes loopback, where a proxy would be
        before = port.port.count
        said = []
        port.port.count = lambda kind, peer: (said.append(peer[0]), before(kind, peer))
        stranger.say(b"GET /docs HTTP/1.1\r\nhost: x\r\nx-forwarded-for: 192.0.2.1\r\n\r\n")
        assert said == [SITE]

    def test_strangers_from_many_addresses_push_out_each_other_and_no_site(self, port, stranger):
        with port.site() as old:
            assert port.request(old) == 200
            stranger.idle(60, tuple(f"127.0.1.{i}" for i in range(1, 31)))
            assert port.request(old) == 200
            assert port.healthy()
        assert port.refused[Refused.TOO_MANY] >= 60 - SHORT.unknown

    @pytest.mark.ci_slow
    def test_more_new_connections_than_the_pace_are_closed_and_the_site_connects(self, files, monkeypatch):
        slow = replace(SHORT, new_at_once=5, new_per_second=1, all_new_at_once=20, all_new_per_second=0.1)
        slow = replace(slow, rare_new_at_once=1, rare_new_per_second=0.01)
        with Port(files, slow) as port:
            assert port.healthy()
            stranger, many = Stranger(port.number, STRANGER), tuple(f"127.0.1.{i}" for i in range(1, 16))
            assert stranger.handshakes(30) <= 7
            assert stranger.handshakes(150, addresses=many) <= 40
            assert port.refused[Refused.TOO_FAST] > 100
            assert all(port.healthy() for _ in range(5))
            # The pool of busy strangers is empty, and an address that was never seen before is admitted.
            assert Stranger(port.number, "127.0.2.1").handshakes(10) == 1


class TestSite:
    def test_a_connection_carries_many_requests(self, calm):
        with calm.site() as connection:
            assert [calm.request(connection, b"x" * 70_000) for _ in range(5)] == [200] * 5
        assert calm.app.bodies == [70_000] * 5
        assert calm.refused == {}

    def test_a_known_connection_outlives_the_times_for_strangers(self, port):
        with port.site() as connection:
            assert port.request(connection) == 200
            time.sleep(1.2)
            assert port.request(connection) == 200

    def test_a_site_that_stops_in_its_body_is_closed(self, port):
        with port.site() as connection:
            connection.sendall(head(port.key, 100_000) + b"x" * 70_000)
            assert status(connection) is None
        assert port.refused == {Refused.STALLED: 1}

    def test_a_known_connection_has_to_end_its_next_header(self, port):
        with port.site() as connection:
            assert port.request(connection) == 200
            connection.sendall(b"POST /v1/fl")
            assert status(connection) is None
        assert port.refused == {Refused.SLOW_HEADER: 1}

    def test_a_forged_signature_on_a_known_connection_closes_it(self, calm):
        with calm.site() as connection:
            assert calm.request(connection) == 200
            assert calm.request(connection, key=ec.generate_private_key(ec.SECP384R1())) == 401
            connection.settimeout(3)
            assert connection.recv(100) == b""

    def test_a_site_with_too_many_connections_loses_its_oldest(self, calm):
        connections = [calm.site() for _ in range(CALM.known_per_key + 2)]
        assert [calm.request(c) for c in connections] == [200] * len(connections)
        assert [alive(c) for c in connections] == [False] * 2 + [True] * CALM.known_per_key
        assert calm.refused == {Refused.TOO_MANY_OF_A_SITE: 2}
        for connection in connections:
            connection.close()

    def test_large_bodies_of_a_site_take_turns_and_small_ones_pass(self, calm):
        slow = [calm.site() for _ in range(3)]
        for connection in slow:
            connection.sendall(head(calm.key, 100_000) + b"x" * 80_000)
        until(lambda: calm.app.reading == 2)
        with calm.site() as connection:
            assert calm.request(connection, b"heartbeat") == 200
        for connection in slow:
            connection.sendall(b"x" * 20_000)
        assert [status(connection) for connection in slow] == [200] * 3
        assert calm.app.most == 3  # two large ones and the heartbeat
        for connection in slow:
            connection.close()

    @pytest.mark.ci_slow
    def test_many_sites_behind_one_address_connect_at_once(self, files):
        with Port(files, Limits()) as port:
            connections = [port.site() for _ in range(40)]
            assert [port.request(c) for c in connections] == [200] * 40
            for connection in connections:
                connection.close()
            assert port.refused == {}

    def test_suspended_time_does_not_count(self, port, monkeypatch):
        with port.site() as connection:
            connection.sendall(head(port.key, 10) + b"abc")
            until(lambda: port.app.reading == 1)
            real, jumps = time.monotonic, iter([90.0])
            passed = [0.0]

            def monotonic():
                passed[0] += next(jumps, 0.0)
                return real() + passed[0]

            monkeypatch.setattr(public_port.time, "monotonic", monotonic)
            until(lambda: passed[0] == 90.0)
            connection.sendall(b"x" * 7)
            assert status(connection) == 200
            assert port.refused == {}


def alive(connection):
    connection.settimeout(0.2)
    try:
        return connection.recv(1) != b""
    except TimeoutError:
        return True
    except OSError:
        return False
