"""From this machine to the coordinator, one step after the other: authority, name, port, certificate, clock, key.

Each step needs the one before, so the checks end with the first that does not lead on. Texts hold host names and
nothing of data: they may stand in the support log.
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

_CLOCK_AHEAD_S = 5.0  # a request that was signed in the coordinator's future is refused
_CLOCK_BEHIND_S = 300.0  # so is one that was signed so long ago
_TIMEOUT_S = 5.0
_EXPIRY_DAYS = 30

AUTHORITY, NAME, PORT, CERTIFICATE, CLOCK, KEY = "authority", "name", "port", "certificate", "clock", "key"


def first_error(findings: Iterator[Finding]) -> Finding | None:
    """What keeps a SuperNode from connecting: the last finding, unless it is that the key is known."""
    *_, last = findings
    return None if last.check == KEY and last.level is Level.OK else last


def check_network(coordinator: CoordinatorAddress, keys: SiteKeys) -> Iterator[Finding]:
    """Try what a SuperNode of this site does, step by step.

    Args:
        coordinator: where it should be.
        keys: of this site.
    """
    for step in (_authority(coordinator), _own_keys(keys), _reach(coordinator), _greet(coordinator, keys)):
        for finding in step:
            yield finding
            if finding.level is Level.ERROR or (finding.check, finding.level) == (PORT, Level.WARNING):
                return


def _authority(coordinator: CoordinatorAddress) -> Iterator[Finding]:
    """The file that says which coordinator is believed. Who could change it on its way could be the coordinator."""
    try:
        (certificate,) = x509.load_pem_x509_certificates(coordinator.ca.read_bytes())
    except (OSError, ValueError):
        yield error(
            AUTHORITY,
            f"{coordinator.ca}: not there, or not one certificate",
            "put the ca.crt of the coordinator's kit there, or correct coordinator.ca",
        )
    else:
        digest = certificate.fingerprint(hashes.SHA256()).hex(":").upper()
        yield ok(AUTHORITY, f"{coordinator.ca.name}: {digest}. The coordinator reads the same to you by telephone")


def _own_keys(keys: SiteKeys) -> Iterator[Finding]:
    """What is missing here is said at once, and not when the coordinator listens."""
    try:
        keys.load_private()
        keys.load_secret()
    except ConfigError as failure:
        yield error(KEY, str(failure), "correct coordinator.keys, or make keys and have node.pub enrolled")


def _reach(coordinator: CoordinatorAddress) -> Iterator[Finding]:
    """Name and port, of the coordinator itself or of the proxy before it."""
    host, port = coordinator.host_and_port
    proxy = _proxy(host)
    if proxy is not None:
        host, port = proxy
        yield ok(NAME, f"the coordinator is reached through the proxy {host}:{port} (environment variable HTTPS_PROXY)")
    try:
        numbers = sorted({str(entry[4][0]) for entry in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)})
    except OSError as failure:
        yield error(
            NAME,
            f"the name {host} is not known here ({failure.strerror or type(failure).__name__})",
            "compare coordinator.address with what the coordinator sent; else ask your network department for DNS",
        )
        return
    yield ok(NAME, f"{host} is {', '.join(numbers)}")
    try:
        socket.create_connection((host, port), _TIMEOUT_S).close()
    except ConnectionRefusedError:
        yield warning(
            PORT,
            f"{host} answers, but nothing listens on port {port} at the moment",
            "nothing, if the coordinator has no run in progress: it listens during runs only. Else compare the port",
        )
    except OSError as failure:
        yield error(
            PORT,
            f"no connection to {host}, port {port} ({type(failure).__name__})",
            f"ask your network department to allow outgoing TCP to {host}, port {port}",
        )
    else:
        yield ok(PORT, f"port {port} of {host} can be reached")


def _greet(coordinator: CoordinatorAddress, keys: SiteKeys) -> Iterator[Finding]:
    """Certificate, clock and key."""
    key = keys.load_private()
    trusted = ssl.create_default_context(cafile=str(coordinator.ca))
    try:
        with httpx.Client(verify=trusted, timeout=_TIMEOUT_S) as client:
            sent = time.time()
            with client.stream("GET", f"https://{coordinator.address}/health") as response:
                taken = time.time() - sent
                yield _certificate(response, coordinator)
                yield _clock(response, sent + taken / 2)
        yield _enrolled(check_key_at_coordinator(coordinator.address, trusted, key), keys)
    except httpx.TransportError as failure:
        yield _no_tls(failure, coordinator)


def _certificate(response: httpx.Response, coordinator: CoordinatorAddress) -> Finding:
    """How long it is valid. That it is the right one was checked on connecting."""
    certificate = response.extensions["network_stream"].get_extra_info("ssl_object").getpeercert()
    days = (ssl.cert_time_to_seconds(certificate["notAfter"]) - time.time()) / 86_400
    host, _ = coordinator.host_and_port
    if days < _EXPIRY_DAYS:
        return warning(
            CERTIFICATE,
            f"the certificate of {host} ends in {days:.0f} days",
            "tell the coordinator: `flower-server renew` makes a new one, and nothing changes here",
        )
    return ok(CERTIFICATE, f"signed by the authority in {coordinator.ca.name}, for {host}, for {days:.0f} more days")


def _clock(response: httpx.Response, now: float) -> Finding:
    """This machine's clock against the coordinator's, which tells whole seconds."""
    try:
        theirs = parsedate_to_datetime(response.headers["date"]).timestamp() + 0.5
    except (KeyError, ValueError):
        return warning(CLOCK, "the coordinator does not tell its time", "see to it that this machine's clock is right")
    ahead = now - theirs
    if -_CLOCK_BEHIND_S < ahead < _CLOCK_AHEAD_S:
        if ahead > -_CLOCK_AHEAD_S:
            return ok(CLOCK, "the same as the coordinator's, within 5 seconds")
        return warning(CLOCK, f"this machine's clock is {-ahead:.0f} s behind the coordinator's", _SET_CLOCK)
    which = f"{ahead:.0f} s ahead of" if ahead > 0 else f"{-ahead:.0f} s behind"
    return error(CLOCK, f"this machine's clock is {which} the coordinator's, who refuses that", _SET_CLOCK)


_SET_CLOCK = "set the clock by NTP (timedatectl set-ntp true); if it is right, tell the coordinator"


def _enrolled(greeting: KeyStatus, keys: SiteKeys) -> Finding:
    if greeting is KeyStatus.KNOWN:
        return ok(KEY, f"the coordinator knows this site's key, {keys.fingerprint()}")
    if greeting is KeyStatus.UNKNOWN:
        return error(
            KEY,
            f"the coordinator does not know this site's key, {keys.fingerprint()}",
            "send node.pub to be enrolled; if it was, let the coordinator compare with `flower-server roster`",
        )
    if greeting is KeyStatus.OTHER_FLOWER:
        return error(
            KEY,
            "the coordinator runs another version of Flower",
            "install the version of memamba-federated that the coordinator has",
        )
    if greeting is KeyStatus.NOT_BELIEVED:
        return error(
            KEY,
            "the coordinator does not believe this site's signature",
            "check this machine's clock; does a proxy on the way change requests?",
        )
    return error(
        KEY,
        "something else than a coordinator answers there, or a proxy in between refuses",
        "compare coordinator.address with what the coordinator sent; ask your network department about proxies",
    )


_HOSTNAME_MISMATCH, _ADDRESS_MISMATCH, _NOT_YET, _EXPIRED = 62, 64, 9, 10  # OpenSSL's verification codes


def _no_tls(failure: BaseException, coordinator: CoordinatorAddress) -> Finding:
    """Why a connection that was opened did not become a trusted one."""
    host, _ = coordinator.host_and_port
    cause: BaseException | None = failure
    while cause is not None and not isinstance(cause, ssl.SSLError):
        cause = cause.__cause__ or cause.__context__
    if not isinstance(cause, ssl.SSLCertVerificationError):
        return error(
            CERTIFICATE,
            f"{host} was reached, but the connection broke before it could be trusted",
            "is this port the coordinator's? Firewalls that look into TLS have to leave this address out",
        )
    if cause.verify_code in (_HOSTNAME_MISMATCH, _ADDRESS_MISMATCH):
        return error(
            CERTIFICATE,
            f"the coordinator's certificate is not for the name {host}",
            "write coordinator.address as the coordinator's kit has it, or ask for a certificate with this name",
        )
    if cause.verify_code in (_NOT_YET, _EXPIRED):
        return error(
            CERTIFICATE,
            "the coordinator's certificate is not valid today",
            "if this machine's clock is right, tell the coordinator: `flower-server renew`",
        )
    return error(
        CERTIFICATE,
        f"the certificate that {host} shows is not signed by the authority in {coordinator.ca.name}",
        "compare the fingerprint of ca.crt with the coordinator by telephone. If it is right, somebody stands between: "
        "often a firewall that looks into TLS, which has to leave this address out",
    )


def _proxy(host: str) -> tuple[str, int] | None:
    """Host and port of the proxy that requests to `host` go through, as the environment says."""
    address = urllib.request.getproxies().get("https")
    if not address or urllib.request.proxy_bypass(host):
        return None
    parts = urlsplit(address if "://" in address else f"http://{address}")
    return (parts.hostname, parts.port or 80) if parts.hostname else None
