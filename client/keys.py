"""Credentials of a site: its node key, and the secret shared by its connector and executor.

::

    keys/node.key         private, never leaves: EC P-384 in OpenSSH's format, as flower-supernode reads it
    keys/node.pub         for the coordinator, who enrolls it
    keys/runtime.secret   shared by connector and executor: only a program that has it may take or answer a task
"""

import secrets
import stat
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from memamba_core.errors import ConfigError
from memamba_core.io.atomic import write_atomically, write_secret
from memamba_core.io.node_key import fingerprint, normalise_public_key

__all__ = ["SiteKeys"]

_SECRET_BYTES = 32


@dataclass(frozen=True)
class SiteKeys:
    """The folder of a site's keys.

    Attributes:
        folder: readable by its owner only.
    """

    folder: Path

    @property
    def private(self) -> Path:
        """Path of the node key."""
        return self.folder / "node.key"

    @property
    def public(self) -> Path:
        """Path of the public half of the node key."""
        return self.folder / "node.pub"

    @property
    def secret(self) -> Path:
        """Path of the runtime secret."""
        return self.folder / "runtime.secret"

    def generate(self) -> str:
        """Generate all three files.

        Returns:
            The fingerprint of the public key.

        Raises:
            ConfigError: a file exists already, and nothing was written; or the folder cannot be written.
        """
        for path in (self.private, self.public, self.secret):
            if path.exists():
                raise ConfigError(
                    f"{path} exists already, and a new key would have to be enrolled again. To replace the keys, move "
                    "the folder away first and inform the coordinator"
                )
        key = ec.generate_private_key(ec.SECP384R1())
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
        )
        public = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            write_secret(self.secret, secrets.token_bytes(_SECRET_BYTES))
            with write_atomically(self.public) as partial:
                partial.write_bytes(public + b"\n")
            write_secret(self.private, private)
        except OSError as error:
            raise ConfigError(f"{self.folder}: keys cannot be written to this folder ({error.strerror})") from None
        return self.fingerprint()

    def fingerprint(self) -> str:
        """Compute the fingerprint of the public key, `SHA256:...`, to be compared by telephone.

        Raises:
            ConfigError: the file does not exist, or is not a key.
        """
        return fingerprint(normalise_public_key(_content(self.public), str(self.public)))

    def load_private(self) -> ec.EllipticCurvePrivateKey:
        """Load the node key.

        Raises:
            ConfigError: the file does not exist, other users can read it, or it is not a P-384 key.
        """
        content = _secret_content(self.private)
        try:
            key = serialization.load_ssh_private_key(content, None)
        except (ValueError, TypeError):
            key = None
        if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP384R1):
            raise ConfigError(f"{self.private} is not a private key of `flower-client keygen`; generate a new pair")
        return key

    def load_secret(self) -> bytes:
        """Load the runtime secret.

        Raises:
            ConfigError: the file does not exist, other users can read it, or it is too short.
        """
        secret = _secret_content(self.secret)
        if len(secret) < _SECRET_BYTES:
            raise ConfigError(
                f"{self.secret} has {len(secret)} bytes; expected {_SECRET_BYTES}, as flower-client keygen writes it"
            )
        return secret


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}. Generate the keys with `flower-client keygen`") from None


def _secret_content(path: Path) -> bytes:
    """Read a file that only its owner may read."""
    content = _content(path)
    if (mode := stat.S_IMODE(path.stat().st_mode)) & 0o077:
        raise ConfigError(
            f"{path}: other users can read it (mode {mode:o}). Run chmod 600 {path}, and consider who may have read it"
        )
    return content
