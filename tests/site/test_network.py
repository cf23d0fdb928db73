"""Network checks of a site: each cause of a failed connection has its own finding, with a remedy."""

import datetime as dt
import re
import shutil
import socket
import threading

import pytest
from fixtures.coordinator_double import authority, coordinator
from flwr.supercore.error import ApiErrorCode

from client.doctor.finding import Level
from client.doctor.network import check_network, first_error
from client.keys import SiteKeys
from memamba_core.config.site import CoordinatorAddress


@pytest.fixture(scope="module")
def pki(tmp_path_factory):
    return authority(tmp_path_factory.mktemp("federation") / "pki")


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    made = SiteKeys(tmp_path_factory.mktemp("site") / "keys")
    made.generate()
    return made


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch):
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)


def look(address, ca, keys):
    return list(check_network(CoordinatorAddress(address=address, ca=ca), keys))


def only_error(findings):
    """Return the last finding, which must be the only error."""
    assert [f.level for f in findings if f.level is Level.ERROR] == [Level.ERROR]
    assert findings[-1].level is Level.ERROR
    assert findings[-1].remedy
    return findings[-1]


def test_all_is_well(pki, keys):
    with coordinator(pki) as double:
        findings = look(f"localhost:{double.port}", pki.ca_certificate, keys)
    assert [f.check for f in findings] == ["authority", "name", "port", "certificate", "clock", "key"]
    assert all(f.level is Level.OK for f in findings)
    assert keys.fingerprint() in findings[-1].text
    assert pki.authority_fingerprint() in findings[0].text
    assert double.asked == ["/health", "/v1/fleet/activate-node"]


def test_a_name_that_cannot_be_resolved(pki, keys):
    found = only_error(look("no-such-host.invalid:443", pki.ca_certificate, keys))
    assert found.check == "name"
    assert "no-such-host.invalid" in found.text


def test_a_port_on_which_nothing_listens(pki, keys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        findings = look(f"127.0.0.1:{taken.getsockname()[1]}", pki.ca_certificate, keys)
    assert [f.level for f in findings] == [Level.OK, Level.OK, Level.WARNING], "a coordinator listens during runs only"
    assert "nothing listens" in findings[-1].text
    assert first_error(iter(findings)) is findings[-1]


@pytest.mark.parametrize("name", ["node.key", "runtime.secret"])
def test_missing_keys_are_reported_while_nothing_listens(pki, keys, tmp_path, name):
    shutil.copytree(keys.folder, tmp_path / "keys")
    (tmp_path / "keys" / name).unlink()
    found = only_error(look("localhost:1", pki.ca_certificate, SiteKeys(tmp_path / "keys")))
    assert found.check == "key"
    assert name in found.text


def test_a_firewall_that_drops(pki, keys, monkeypatch):
    def silence(*_arguments):
        raise TimeoutError

    monkeypatch.setattr(socket, "create_connection", silence)
    found = only_error(look("localhost:443", pki.ca_certificate, keys))
    assert found.check == "port"
    assert "allow outgoing TCP" in found.remedy


def test_an_authority_of_somebody_else(pki, keys, tmp_path):
    other = authority(tmp_path / "other")
    with coordinator(pki) as double:
        found = only_error(look(f"localhost:{double.port}", other.ca_certificate, keys))
    assert found.check == "certificate"
    assert "not signed by the authority in ca.crt" in found.text
    assert not double.asked, "no request was sent to an unknown authority"


def test_a_certificate_for_another_name(keys, tmp_path):
    pki = authority(tmp_path / "pki", addresses=("coordinator.example.org",))
    with coordinator(pki) as double:
        address = f"{socket.gethostname()}:{double.port}"
        monkey = CoordinatorAddress(address=address, ca=pki.ca_certificate)
        with pytest.MonkeyPatch.context() as patch:
            real = socket.getaddrinfo
            patch.setattr(socket, "getaddrinfo", lambda _host, *rest, **more: real("127.0.0.1", *rest, **more))
            found = only_error(list(check_network(monkey, keys)))
    assert found.check == "certificate"
    assert "not for the name" in found.text


def test_a_certificate_of_yesteryear(keys, tmp_path):
    pki = authority(tmp_path / "pki", born=dt.timedelta(days=800))
    with coordinator(pki) as double:
        found = only_error(look(f"localhost:{double.port}", pki.ca_certificate, keys))
    assert "not valid today" in found.text


def test_a_certificate_that_ends_soon(keys, tmp_path):
    pki = authority(tmp_path / "pki", born=dt.timedelta(days=715))
    with coordinator(pki) as double:
        findings = look(f"localhost:{double.port}", pki.ca_certificate, keys)
    assert first_error(iter(findings)) is None
    (warned,) = [f for f in findings if f.level is Level.WARNING]
    assert "expires in 15 days" in warned.text or "expires in 14 days" in warned.text


def test_a_service_without_tls(pki, keys):
    with socket.create_server(("127.0.0.1", 0)) as plain:
        plain.settimeout(5)

        def answer():
            connection, _ = plain.accept()  # of the check of the port
            connection.close()
            connection, _ = plain.accept()
            connection.recv(100)
            connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            connection.close()

        thread = threading.Thread(target=answer)
        thread.start()
        found = only_error(look(f"127.0.0.1:{plain.getsockname()[1]}", pki.ca_certificate, keys))
        thread.join()
    assert found.check == "certificate"
    assert "closed before TLS was established" in found.text


@pytest.mark.parametrize(
    ("theirs", "level", "word"),
    [
        (-60, Level.ERROR, "ahead of"),
        (-8, Level.ERROR, "ahead of"),
        (-2, Level.OK, "within"),
        (2, Level.OK, "within"),
        (60, Level.WARNING, "behind"),
        (3600, Level.ERROR, "behind"),
    ],
)
def test_the_clock(pki, keys, theirs, level, word):
    """The coordinator's clock is `theirs` seconds ahead of this machine's."""
    with coordinator(pki) as double:
        double.ahead = dt.timedelta(seconds=theirs)
        findings = look(f"localhost:{double.port}", pki.ca_certificate, keys)
    (clock,) = [f for f in findings if f.check == "clock"]
    assert clock.level is level
    assert word in clock.text
    if level is not Level.OK:
        (seconds,) = re.findall(r"(\d+) s", clock.text)
        assert int(seconds) == pytest.approx(abs(theirs), abs=2)
    assert (findings[-1].check == "key") == (level is not Level.ERROR), "a wrong clock ends the checks"


@pytest.mark.parametrize(
    ("refusal", "word"),
    [
        ((400, ApiErrorCode.FLEET_NODE_ACTIVATION_FAILED), "key is not enrolled at the coordinator, SHA256:"),
        ((400, ApiErrorCode.RUNTIME_VERSION_INCOMPATIBLE), "another version of Flower"),
        ((401, 0), "rejects this site's signature"),
        ((403, 0), "is not a coordinator"),
        ((502, 0), "is not a coordinator"),
    ],
)
def test_a_key_that_is_not_let_in(pki, keys, refusal, word):
    with coordinator(pki) as double:
        double.refusal = refusal
        found = only_error(look(f"localhost:{double.port}", pki.ca_certificate, keys))
    assert found.check == "key"
    assert word in found.text


def test_files_that_are_not_there(pki, keys, tmp_path):
    with coordinator(pki) as double:
        address = f"localhost:{double.port}"
        absent = only_error(look(address, tmp_path / "ca.crt", keys))
        (tmp_path / "ca.crt").write_text("no certificate")
        spoiled = only_error(look(address, tmp_path / "ca.crt", keys))
        keyless = only_error(look(address, pki.ca_certificate, SiteKeys(tmp_path / "keys")))
    assert str(tmp_path / "ca.crt") in absent.text
    assert str(tmp_path / "ca.crt") in spoiled.text
    assert (absent.check, spoiled.check, keyless.check) == ("authority", "authority", "key")
    assert "flower-client keygen" in keyless.text


def test_a_proxy_is_reached_instead(pki, keys, monkeypatch):
    monkeypatch.setenv("HTTPS_PROXY", "http://no-such-proxy.invalid:3128")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    findings = look("coordinator.example.org:8443", pki.ca_certificate, keys)
    assert "through the proxy no-such-proxy.invalid:3128" in findings[1].text
    assert "the name no-such-proxy.invalid cannot be resolved" in only_error(findings).text
