"""The federation's own certificate authority, and the server certificate that sites verify.

Both certificates use P-384. The authority signs the server certificate only; the server certificate holds the names and
addresses by which sites reach the coordinator. Sites receive `ca.crt` in their kit and trust no other authority.
`ca.key` is needed for renewal only; between renewals it may be kept elsewhere.
"""

import datetime as dt
import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from memamba_core.errors import ConfigError
from memamba_core.io.atomic import write_atomically, write_secret

__all__ = ["AUTHORITY_DAYS", "SERVER_DAYS", "Pki", "certificate_fingerprint"]

AUTHORITY_DAYS = 3650
"""Validity of the authority. When it ends, every site needs a new `ca.crt`."""
SERVER_DAYS = 730
"""Validity of a server certificate. `flower-server renew` makes the next one; sites need not do anything."""

_WARN_AUTHORITY = dt.timedelta(days=180)
_WARN_SERVER = dt.timedelta(days=30)
_CLOCK_SKEW = dt.timedelta(days=1)  # valid from yesterday: a site's clock may be slow
_LOOPBACK = ("localhost", "127.0.0.1")  # the coordinator's own programs verify the certificate, too
_RENEW = "Run `flower-server renew`"


@dataclass(frozen=True)
class Pki:
    """Files of the authority and the server, in one folder.

    Args:
        folder: `pki/` in the federation's folder.
    """

    folder: Path

    @property
    def ca_certificate(self) -> Path:
        """Certificate of the authority. Not secret: every site has a copy."""
        return self.folder / "ca.crt"

    @property
    def ca_key(self) -> Path:
        """Private key of the authority. With it, anyone can pose as the coordinator to every site."""
        return self.folder / "ca.key"

    @property
    def server_certificate(self) -> Path:
        """Server certificate, sent to every program that connects."""
        return self.folder / "server.crt"

    @property
    def server_key(self) -> Path:
        """Private key of the server certificate."""
        return self.folder / "server.key"

    def create(self, addresses: Iterable[str], now: dt.datetime) -> None:
        """Create the authority and a server certificate.

        Args:
            addresses: host names and IP addresses of the coordinator (`check_address`).
            now: present time, with time zone.
        """
        key = ec.generate_private_key(ec.SECP384R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"ME-Mamba federation {now:%Y-%m-%d}")])
        builder = _builder(name, name, key.public_key(), now, now + dt.timedelta(days=AUTHORITY_DAYS))
        builder = (
            builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_key_usage(key_cert_sign=True, crl_sign=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        )
        write_secret(self.ca_key, _private_pem(key))
        _write(self.ca_certificate, builder.sign(key, hashes.SHA384()))
        self.renew(addresses, now)

    def renew(self, addresses: Iterable[str], now: dt.datetime) -> dt.datetime:
        """Create a new server key and certificate, signed by the same authority.

        Returns:
            End of the certificate's validity, which is never later than the authority's.

        Raises:
            ConfigError: the authority's key is missing or does not belong to `ca.crt`, or the authority has expired.
        """
        authority = _read_certificate(self.ca_certificate)
        if authority.not_valid_after_utc <= now:
            raise ConfigError(
                f"{self.ca_certificate}: the authority expired on {authority.not_valid_after_utc:%Y-%m-%d}. Make a new "
                "federation folder with `flower-server init` and send new kits (docs/how_to/coordinator.md)"
            )
        ca_key = _read_key(self.ca_key, "Copy the key back from where it is kept, and remove it again afterwards")
        if ca_key.public_key() != authority.public_key():
            raise ConfigError(f"{self.ca_key}: not the key of {self.ca_certificate.name}. Restore both from one backup")
        key = ec.generate_private_key(ec.SECP384R1())
        until = min(now + dt.timedelta(days=SERVER_DAYS), authority.not_valid_after_utc)
        names = dict.fromkeys((*addresses, *_LOOPBACK))  # keeps the order, drops duplicates
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "ME-Mamba coordinator")])
        builder = _builder(subject, authority.subject, key.public_key(), now, until)
        identifier = authority.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
        builder = (
            builder.add_extension(x509.SubjectAlternativeName([_general_name(name) for name in names]), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(digital_signature=True), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier), critical=False)
        )
        write_secret(self.server_key, _private_pem(key))
        _write(self.server_certificate, builder.sign(ca_key, hashes.SHA384()))
        return until

    def check(self, addresses: Iterable[str], now: dt.datetime) -> tuple[str, ...]:
        """Check that sites will accept this server, now and for some time.

        Args:
            addresses: host names and IP addresses in `coordinator.yaml`.
            now: present time, with time zone.

        Returns:
            Warnings about certificates that expire soon, one sentence each.

        Raises:
            ConfigError: a file is missing or damaged, key and certificate do not belong together, the certificate is
                not signed by the authority, lacks one of `addresses`, or has expired.
        """
        authority, server = _read_certificate(self.ca_certificate), _read_certificate(self.server_certificate)
        if _read_key(self.server_key, _RENEW).public_key() != server.public_key():
            raise ConfigError(f"{self.server_key}: not the key of {self.server_certificate.name}. {_RENEW}")
        try:
            server.verify_directly_issued_by(authority)
        except (ValueError, TypeError, InvalidSignature):
            raise ConfigError(
                f"{self.server_certificate}: not signed by {self.ca_certificate.name}, which sites trust. {_RENEW}"
            ) from None
        names = server.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        if missing := [address for address in addresses if _general_name(address) not in names]:
            raise ConfigError(f"{self.server_certificate}: does not hold the address {', '.join(missing)}. {_RENEW}")
        return (
            *_expiry(self.server_certificate, server, now, _WARN_SERVER, _RENEW),
            *_expiry(
                self.ca_certificate,
                authority,
                now,
                _WARN_AUTHORITY,
                "Plan a new folder (`flower-server init`) and new kits for all sites",
            ),
        )

    def authority_fingerprint(self) -> str:
        """Return the fingerprint of `ca.crt`, to be compared by telephone."""
        return certificate_fingerprint(self.ca_certificate)


def certificate_fingerprint(path: Path) -> str:
    """Return the SHA-256 of a certificate as `openssl x509 -noout -fingerprint -sha256` prints it: `AB:CD:...`.

    Raises:
        ConfigError: the file is missing or damaged.
    """
    return _read_certificate(path).fingerprint(hashes.SHA256()).hex(":").upper()


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, now: dt.datetime, until: dt.datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _CLOCK_SKEW)
        .not_valid_after(until)
    )


def _key_usage(**allowed: bool) -> x509.KeyUsage:
    """Build a KeyUsage extension that allows the named uses and forbids all others."""
    uses = (
        "digital_signature",
        "content_commitment",
        "key_encipherment",
        "data_encipherment",
        "key_agreement",
        "key_cert_sign",
        "crl_sign",
        "encipher_only",
        "decipher_only",
    )
    return x509.KeyUsage(**{use: allowed.get(use, False) for use in uses})


def _general_name(address: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(address))
    except ValueError:
        return x509.DNSName(address)


def _expiry(
    path: Path, certificate: x509.Certificate, now: dt.datetime, early: dt.timedelta, remedy: str
) -> tuple[str, ...]:
    """Warn if a certificate expires soon.

    Raises:
        ConfigError: the certificate has expired or is not valid yet.
    """
    if now < certificate.not_valid_before_utc:
        raise ConfigError(f"{path}: valid from {certificate.not_valid_before_utc:%Y-%m-%d}. Check this machine's clock")
    end = certificate.not_valid_after_utc
    if end <= now:
        raise ConfigError(f"{path}: expired on {end:%Y-%m-%d}. {remedy}")
    if end - now > early:
        return ()
    return (f"{path.name} expires on {end:%Y-%m-%d}, in {(end - now).days} days. {remedy}",)


def _private_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _write(path: Path, certificate: x509.Certificate) -> None:
    with write_atomically(path) as partial:
        partial.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))


def _read_certificate(path: Path) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"{path}: not readable ({error.strerror}). Restore pki/ from the backup") from None
    except ValueError:
        raise ConfigError(f"{path}: not a certificate. Restore pki/ from the backup") from None


def _read_key(path: Path, remedy: str) -> ec.EllipticCurvePrivateKey:
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    except OSError as error:
        raise ConfigError(f"{path}: not readable ({error.strerror}). {remedy}") from None
    except (ValueError, TypeError):
        raise ConfigError(f"{path}: not a private key. {remedy}") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ConfigError(f"{path}: not a key of an elliptic curve. {remedy}")
    return key
