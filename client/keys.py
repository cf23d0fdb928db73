"""What a site proves itself with: its node key, and the secret between its own two programs.

::

    keys/node.key         private, never leaves: EC P-384 in OpenSSH's format, as flower-supernode reads it
    keys/node.pub         for the coordinator, who enrolls it
    keys/runtime.secret   shared by link and train part of this site: nobody else may take or answer a task
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
        folder: for its owner alone.
    """

    folder: Path

    @property
    def private(self) -> Path:
        """The node key."""
        return self.folder / "node.key"

    @property
    def public(self) -> Path:
        """Its public half."""
        return self.folder / "node.pub"

    @property
    def secret(self) -> Path:
        """The runtime secret."""
        return self.folder / "runtime.secret"

    def generate(self) -> str:
        """Make all three files.

        Returns:
            The fingerprint of the public key.

        Raises:
            ConfigError: there are keys already; nothing was written.
        """
        for path in (self.private, self.public, self.secret):
            if path.exists():
                raise ConfigError(
                    f"{path} is there already, and a new key would have to be enrolled anew; to change keys, move the "
                    "folder away first and tell the coordinator"
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
            raise ConfigError(f"{self.folder}: keys cannot be written there ({error.strerror})") from None
        return self.fingerprint()

    def fingerprint(self) -> str:
        """`SHA256:...` of the public key, to be read out over the phone.

        Raises:
            ConfigError: the file is not there, or not a key.
        """
        return fingerprint(normalise_public_key(_content(self.public), str(self.public)))

    def load_private(self) -> ec.EllipticCurvePrivateKey:
        """The node key.

        Raises:
            ConfigError: the file is not there, others can read it, or it is not a P-384 key.
        """
        content = _secret_content(self.private)
        try:
            key = serialization.load_ssh_private_key(content, None)
        except (ValueError, TypeError):
            key = None
        if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP384R1):
            raise ConfigError(f"{self.private}: not the private key that `flower-client keygen` wrote; make a new pair")
        return key

    def load_secret(self) -> bytes:
        """The runtime secret.

        Raises:
            ConfigError: the file is not there, others can read it, or it is too short to be one.
        """
        secret = _secret_content(self.secret)
        if len(secret) < _SECRET_BYTES:
            raise ConfigError(
                f"{self.secret}: got {len(secret)} bytes, wanted {_SECRET_BYTES} from flower-client keygen"
            )
        return secret


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; `flower-client keygen` makes the keys") from None


def _secret_content(path: Path) -> bytes:
    """Of a file that is for its owner alone."""
    content = _content(path)
    if (mode := stat.S_IMODE(path.stat().st_mode)) & 0o077:
        raise ConfigError(f"{path}: others can read it (mode {mode:o}); chmod 600 {path}, and who may have read it?")
    return content
