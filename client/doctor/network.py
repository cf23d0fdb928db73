"""Checks of the way from this machine to the coordinator: authority, name, port, certificate, clock, key.

Each step needs the one before, so the checks end with the first that fails. Texts contain host names and no data: they
may stand in the support log.
"""

import socket
import ssl
import time
import urllib.request
from collections.abc import Iterator
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

import httpx
from cryptography import x509
from cryptography.hazmat.primitives import hashes

from client.flower.tasks import KeyStatus, check_key_at_coordinator
from client.keys import SiteKeys
from memamba_core.config.site import CoordinatorAddress
from memamba_core.errors import ConfigError

from .finding import Finding, Level, error, ok, warning

__all__ = ["KEY", "check_network", "first_error"]

_CLOCK_AHEAD_S = 5.0  # the coordinator refuses a request signed further in its future
_CLOCK_BEHIND_S = 300.0  # and one signed longer ago
_TIMEOUT_S = 5.0
_EXPIRY_DAYS = 30

AUTHORITY, NAME, PORT, CERTIFICATE, CLOCK, KEY = "authority", "name", "port", "certificate", "clock", "key"


def first_error(findings: Iterator[Finding]) -> Finding | None:
    """Return the finding that keeps a SuperNode from connecting: the last one, unless it reports an enrolled key."""
    *_, last = findings
    return None if last.check == KEY and last.level is Level.OK else last


def check_network(coordinator: CoordinatorAddress, keys: SiteKeys) -> Iterator[Finding]:
    """Check each step by which a SuperNode of this site connects.

    Args:
        coordinator: address and certificate authority.
        keys: of this site.
    """
    for step in (_authority(coordinator), _own_keys(keys), _reach(coordinator), _handshake(coordinator, keys)):
        for finding in step:
            yield finding
            if finding.level is Level.ERROR or (finding.check, finding.level) == (PORT, Level.WARNING):
                return


def _authority(coordinator: CoordinatorAddress) -> Iterator[Finding]:
    """Check the certificate of the trusted authority: a person who replaces this file can pose as the coordinator."""
    try:
        (certificate,) = x509.load_pem_x509_certificates(coordinator.ca.read_bytes())
    except (OSError, ValueError):
        yield error(
            AUTHORITY,
            f"{coordinator.ca}: no such file, or the file does not hold exactly one certificate",
            "copy ca.crt from the coordinator's kit to this path, or correct coordinator.ca",
        )
    else:
        digest = certificate.fingerprint(hashes.SHA256()).hex(":").upper()
        yield ok(
            AUTHORITY, f"{coordinator.ca.name}: {digest}. Compare this fingerprint with the coordinator by telephone"
        )


def _own_keys(keys: SiteKeys) -> Iterator[Finding]:
    """Check the site's own keys first, so that a missing key is reported even while no coordinator listens."""
    try:
        keys.load_private()
        keys.load_secret()
    except ConfigError as failure:
        yield error(
            KEY, str(failure), "correct coordinator.keys, or run `flower-client keygen` and have node.pub enrolled"
        )


def _reach(coordinator: CoordinatorAddress) -> Iterator[Finding]:
    """Check name and port of the coordinator, or of the proxy in front of it."""
    host, port = coordinator.host_and_port
    proxy = _proxy(host)
    if proxy is not None:
        host, port = proxy
        yield ok(NAME, f"the coordinator is reached through the proxy {host}:{port} (environment variable HTTPS_PROXY)")
    try:
        addresses = sorted({str(entry[4][0]) for entry in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)})
    except OSError as failure:
        yield error(
            NAME,
            f"the name {host} cannot be resolved ({failure.strerror or type(failure).__name__})",
            "compare coordinator.address with the coordinator's kit; if both agree, ask the network department for DNS",
        )
        return
    yield ok(NAME, f"{host} is {', '.join(addresses)}")
    try:
        socket.create_connection((host, port), _TIMEOUT_S).close()
    except ConnectionRefusedError:
        yield warning(
            PORT,
            f"{host} is reachable, but nothing listens on port {port} at the moment",
            "if the coordinator has no run in progress, wait: it listens during runs only. Otherwise compare the port",
        )
    except OSError as failure:
        yield error(
            PORT,
            f"no connection to {host}, port {port} ({type(failure).__name__})",
            f"ask your network department to allow outgoing TCP to {host}, port {port}",
        )
    else:
        yield ok(PORT, f"port {port} of {host} is reachable")


def _handshake(coordinator: CoordinatorAddress, keys: SiteKeys) -> Iterator[Finding]:
    """Check the coordinator's certificate, the clocks and the site's key."""
    key = keys.load_private()
    trusted = ssl.create_default_context(cafile=str(coordinator.ca))
    try:
        with httpx.Client(verify=trusted, timeout=_TIMEOUT_S) as client:
            sent = time.time()
            with client.stream("GET", f"https://{coordinator.address}/health") as response:
                elapsed = time.time() - sent
                yield _certificate(response, coordinator)
                yield _clock(response, sent + elapsed / 2)
        yield _enrolment(check_key_at_coordinator(coordinator.address, trusted, key), keys)
    except httpx.TransportError as failure:
        yield _no_tls(failure, coordinator)


def _certificate(response: httpx.Response, coordinator: CoordinatorAddress) -> Finding:
    """Check how long the certificate is valid; TLS has verified its authority and name already."""
    certificate = response.extensions["network_stream"].get_extra_info("ssl_object").getpeercert()
    days = (ssl.cert_time_to_seconds(certificate["notAfter"]) - time.time()) / 86_400
    host, _ = coordinator.host_and_port
    if days < _EXPIRY_DAYS:
        return warning(
            CERTIFICATE,
            f"the certificate of {host} expires in {days:.0f} days",
            "ask the coordinator to run `flower-server renew`; no change is needed at this site",
        )
    return ok(
        CERTIFICATE, f"signed by the authority in {coordinator.ca.name} for {host}, valid for {days:.0f} more days"
    )


def _clock(response: httpx.Response, now: float) -> Finding:
    """Compare this machine's clock with the coordinator's, which has a resolution of one second."""
    try:
        theirs = parsedate_to_datetime(response.headers["date"]).timestamp() + 0.5
    except (KeyError, ValueError):
        return warning(CLOCK, "the coordinator's answer has no time", "make sure that this machine's clock is right")
    ahead = now - theirs
    if -_CLOCK_BEHIND_S < ahead < _CLOCK_AHEAD_S:
        if ahead > -_CLOCK_AHEAD_S:
            return ok(CLOCK, "agrees with the coordinator's within 5 seconds")
        return warning(CLOCK, f"this machine's clock is {-ahead:.0f} s behind the coordinator's", _SET_CLOCK)
    which = f"{ahead:.0f} s ahead of" if ahead > 0 else f"{-ahead:.0f} s behind"
    return error(
        CLOCK,
        f"this machine's clock is {which} the coordinator's, too far for the coordinator to accept a request",
        _SET_CLOCK,
    )


_SET_CLOCK = "set the clock by NTP (timedatectl set-ntp true); if it is right, inform the coordinator"


def _enrolment(status: KeyStatus, keys: SiteKeys) -> Finding:
    if status is KeyStatus.ENROLLED:
        return ok(KEY, f"this site's key is enrolled, {keys.fingerprint()}")
    if status is KeyStatus.NOT_ENROLLED:
        return error(
            KEY,
            f"this site's key is not enrolled at the coordinator, {keys.fingerprint()}",
            "send node.pub to the coordinator; if you did, ask them to compare it with `flower-server roster`",
        )
    if status is KeyStatus.FLOWER_VERSION_MISMATCH:
        return error(
            KEY,
            "the coordinator runs another version of Flower",
            "install the version of memamba-federated that the coordinator has",
        )
    if status is KeyStatus.SIGNATURE_REJECTED:
        return error(
            KEY,
            "the coordinator rejects this site's signature",
            "check this machine's clock, and whether a proxy on the way alters requests",
        )
    return error(
        KEY,
        "the program that answers is not a coordinator, or a proxy in between refuses the request",
        "compare coordinator.address with the coordinator's kit; ask your network department about proxies",
    )


_HOSTNAME_MISMATCH, _ADDRESS_MISMATCH, _NOT_YET, _EXPIRED = 62, 64, 9, 10  # OpenSSL's verification codes


def _no_tls(failure: BaseException, coordinator: CoordinatorAddress) -> Finding:
    """Explain why TLS could not be established on an open connection."""
    host, _ = coordinator.host_and_port
    cause: BaseException | None = failure
    while cause is not None and not isinstance(cause, ssl.SSLError):
        cause = cause.__cause__ or cause.__context__
    if not isinstance(cause, ssl.SSLCertVerificationError):
        return error(
            CERTIFICATE,
            f"{host} is reachable, but the connection was closed before TLS was established",
            "check that this port is the coordinator's; exclude this address from any firewall that inspects TLS",
        )
    if cause.verify_code in (_HOSTNAME_MISMATCH, _ADDRESS_MISMATCH):
        return error(
            CERTIFICATE,
            f"the coordinator's certificate is not for the name {host}",
            "copy coordinator.address from the coordinator's kit, or ask for a certificate with this name",
        )
    if cause.verify_code in (_NOT_YET, _EXPIRED):
        return error(
            CERTIFICATE,
            "the coordinator's certificate is not valid today",
            "if this machine's clock is right, ask the coordinator to run `flower-server renew`",
        )
    return error(
        CERTIFICATE,
        f"the certificate of {host} is not signed by the authority in {coordinator.ca.name}",
        "compare the fingerprint of ca.crt with the coordinator by telephone. If it is right, the connection is "
        "intercepted, often by a firewall that inspects TLS; exclude this address from the inspection",
    )


def _proxy(host: str) -> tuple[str, int] | None:
    """Return host and port of the proxy for requests to `host` by the environment, or None."""
    address = urllib.request.getproxies().get("https")
    if not address or urllib.request.proxy_bypass(host):
        return None
    parts = urlsplit(address if "://" in address else f"http://{address}")
    return (parts.hostname, parts.port or 80) if parts.hostname else None
