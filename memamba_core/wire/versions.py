"""Versions of everything that determines a number or whether two sites understand each other."""

import platform
from importlib.metadata import version

from memamba_core.wire.protocol import PROTOCOL_VERSION, package_version

__all__ = ["version_line", "versions"]


def versions() -> dict[str, str | int]:
    """Return the versions of package, protocol, Python, torch, Flower and numpy, without importing any of them."""
    return {
        "memamba-federated": package_version(),
        "protocol": PROTOCOL_VERSION,
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "flwr", "numpy")},
    }


def version_line() -> str:
    """Return the one line that `--version` of every command prints."""
    found = versions()
    return (
        f"memamba-federated {found['memamba-federated']}, protocol {found['protocol']}, flwr {found['flwr']}, "
        f"torch {found['torch']}"
    )
