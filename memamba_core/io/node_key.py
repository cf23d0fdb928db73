"""Key pair by which the coordinator authenticates a site: forms of the public key, and its fingerprint.

The site makes the pair (`flower-client keygen`), and the private half stays there. The public half reaches the
coordinator as a file, and the fingerprint by phone, because an attacker who can change the file in the mail could
otherwise take the site's place.
"""

import base64
import hashlib

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from memamba_core.errors import ConfigError

__all__ = ["fingerprint", "normalise_public_key", "public_key_pem"]

_WANTED = "expected the node.pub that `flower-client keygen` wrote at the site (one P-384 public key)"
_MAX_BYTES = 16_384  # a P-384 key has 200


def normalise_public_key(content: bytes, source: str) -> str:
    """Read a public key as OpenSSH (`node.pub`) or PEM (`BEGIN PUBLIC KEY`) and return it in one form.

    Args:
        content: content of the file. A byte order mark and Windows line ends are allowed: keys travel by mail.
        source: name of the file, for the error text.

    Returns:
        `ecdsa-sha2-nistp384 AAAA...`, without comment: equal keys give equal text.

    Raises:
        ConfigError: the content is a private key, no key, or a key of another kind. The text quotes none of it.
    """
    if b"PRIVATE KEY" in content:
        raise ConfigError(
            f"{source}: this is a PRIVATE key, which must never leave the site. Delete this copy, have the "
            "site make a new pair (`flower-client keygen`), and enroll its node.pub."
        )
    try:
        if len(content) > _MAX_BYTES:
            raise ValueError("too large for a key")
        lines = [line for line in content.decode("utf-8-sig").splitlines() if line.strip()]
        text = "\n".join(lines).encode()
        if text.startswith(b"-----BEGIN"):
            key = serialization.load_pem_public_key(text)
        elif len(lines) == 1:
            key = serialization.load_ssh_public_key(text)
        else:
            raise ValueError("not one key")
    except (ValueError, UnsupportedAlgorithm):  # UnicodeDecodeError is a ValueError
        raise ConfigError(f"{source}: not readable as a public key; {_WANTED}") from None
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise ConfigError(f"{source}: the key is not of an elliptic curve; {_WANTED}")
    if not isinstance(key.curve, ec.SECP384R1):
        raise ConfigError(f"{source}: the key is of curve {key.curve.name}; {_WANTED}")
    return key.public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH).decode()


def fingerprint(public_key: str) -> str:
    """Return the `SHA256:...` fingerprint of a normalised key, as `ssh-keygen -lf node.pub` shows it."""
    digest = hashlib.sha256(base64.b64decode(public_key.split()[1])).digest()
    return "SHA256:" + base64.b64encode(digest).decode().rstrip("=")


def public_key_pem(public_key: str) -> bytes:
    """Return a normalised key as PEM, with the bytes that a Flower SuperNode sends and a SuperLink compares."""
    key = serialization.load_ssh_public_key(public_key.encode())
    return key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
