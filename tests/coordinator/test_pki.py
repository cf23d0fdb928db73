"""Certificates: those that a site's TLS accepts, and the warnings for the coordinator before sites refuse it."""

import datetime as dt
import socket
import ssl
import stat
import subprocess
import threading

import pytest

from memamba_core.errors import ConfigError
from server.admin.pki import AUTHORITY_DAYS, SERVER_DAYS, Pki, certificate_fingerprint

NOW = dt.datetime.now(dt.UTC)
ADDRESSES = ("coordinator.example.org", "192.0.2.7", "2001:db8::1")


@pytest.fixture
def pki(tmp_path):
    pki = Pki(tmp_path)
    pki.create(ADDRESSES, NOW)
    return pki


def handshake(pki, name, trust):
    """Connect as a site does; raise what TLS raises."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(pki.server_certificate, pki.server_key)
    ours, theirs = socket.socketpair()

    def serve():
        try:
            server.wrap_socket(ours, server_side=True).close()
        except OSError:
            ours.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        ssl.create_default_context(cafile=str(trust)).wrap_socket(theirs, server_hostname=name).close()
    finally:
        theirs.close()
        thread.join()


@pytest.mark.parametrize("name", [*ADDRESSES, "localhost", "127.0.0.1"])
def test_tls_accepts_every_address(pki, name):
    handshake(pki, name, pki.ca_certificate)


def test_tls_refuses_another_address_and_another_authority(pki, tmp_path):
    with pytest.raises(ssl.SSLCertVerificationError, match="mismatch"):
        handshake(pki, "elsewhere.example.org", pki.ca_certificate)
    (tmp_path / "other").mkdir()
    other = Pki(tmp_path / "other")
    other.create(ADDRESSES, NOW)
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(pki, ADDRESSES[0], other.ca_certificate)


def test_the_authority_can_sign_nothing_below_a_server(pki):
    text = subprocess.run(
        ["openssl", "x509", "-noout", "-text", "-in", pki.ca_certificate], capture_output=True, text=True, check=True
    ).stdout
    assert "CA:TRUE, pathlen:0" in text
    verified = subprocess.run(
        ["openssl", "verify", "-x509_strict", "-CAfile", pki.ca_certificate, pki.server_certificate],
        capture_output=True,
        text=True,
        check=False,
    )
    assert verified.returncode == 0, verified.stderr


def test_the_fingerprint_is_that_of_openssl(pki):
    command = ["openssl", "x509", "-noout", "-fingerprint", "-sha256", "-in", pki.ca_certificate]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert said.strip().partition("=")[2] == pki.authority_fingerprint()


def test_keys_are_for_their_owner(pki):
    for key in (pki.ca_key, pki.server_key):
        assert stat.S_IMODE(key.stat().st_mode) == 0o600


def test_renewing_keeps_the_authority(pki):
    before = certificate_fingerprint(pki.ca_certificate), certificate_fingerprint(pki.server_certificate)
    pki.renew(("new.example.org",), NOW)
    assert certificate_fingerprint(pki.ca_certificate) == before[0]
    assert certificate_fingerprint(pki.server_certificate) != before[1]
    handshake(pki, "new.example.org", pki.ca_certificate)


def test_a_server_certificate_never_outlives_its_authority(pki):
    late = NOW + dt.timedelta(days=AUTHORITY_DAYS - 10)
    assert pki.renew(ADDRESSES, late) == pytest.approx(NOW + dt.timedelta(days=AUTHORITY_DAYS), abs=dt.timedelta(1))


@pytest.mark.parametrize(
    ("days", "words"),
    [(0, ()), (SERVER_DAYS - 20, ("server.crt expires", "renew")), (AUTHORITY_DAYS - 100, None)],
)
def test_what_expires_is_told_in_time(pki, days, words):
    now = NOW + dt.timedelta(days=days)
    if words is None:
        pki.renew(ADDRESSES, now)
        words = ("ca.crt expires", "init")
    warnings = " ".join(pki.check(ADDRESSES, now))
    assert all(word in warnings for word in words)
    assert bool(warnings) == bool(words)


@pytest.mark.parametrize(
    ("change", "addresses", "days", "words"),
    [
        (lambda p: None, ("other.example.org",), 0, "does not hold the address other.example.org"),
        (lambda p: None, ADDRESSES, SERVER_DAYS + 1, "expired"),
        (lambda p: None, ADDRESSES, -30, "clock"),
        (lambda p: p.server_key.unlink(), ADDRESSES, 0, "not readable"),
        (lambda p: p.server_key.write_bytes(p.ca_key.read_bytes()), ADDRESSES, 0, "not the key of server.crt"),
        (lambda p: p.ca_certificate.write_text("junk"), ADDRESSES, 0, "not a certificate"),
        (lambda p: p.server_certificate.write_bytes(b""), ADDRESSES, 0, "not a certificate"),
    ],
    ids=["address", "expired", "clock", "no key", "foreign key", "junk", "empty"],
)
def test_what_sites_would_refuse_is_refused_first(pki, change, addresses, days, words):
    change(pki)
    with pytest.raises(ConfigError, match=words):
        pki.check(addresses, NOW + dt.timedelta(days=days))


def test_a_certificate_of_another_authority_is_noticed(pki, tmp_path):
    (tmp_path / "other").mkdir()
    other = Pki(tmp_path / "other")
    other.create(ADDRESSES, NOW)
    pki.ca_certificate.write_bytes(other.ca_certificate.read_bytes())
    with pytest.raises(ConfigError, match=r"not signed by ca\.crt"):
        pki.check(ADDRESSES, NOW)
    with pytest.raises(ConfigError, match="not the key of"):
        pki.renew(ADDRESSES, NOW)
