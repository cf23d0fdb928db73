"""`settings.json`: what a run was begun with. Written once, and read to go on with it."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from pydantic import Field

from memamba_core.config.base import Settings
from memamba_core.config.site import SiteName
from memamba_core.errors import ConfigError

__all__ = ["DeploymentManifest", "RunManifest", "explain_damaged_manifest"]


class RunManifest(Settings):
    """Of a simulation."""

    overrides: tuple[str, ...]
    """As they were given."""
    settings: dict[str, Any]
    """Everything that was composed of them."""

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read the file of a run, which a person may have changed since.

        Raises:
            ConfigError: it is not as a run writes it.
        """
        with explain_damaged_manifest():
            try:
                values = json.loads(path.read_text(encoding="utf-8"))
            except (OSError, ValueError) as error:
                raise ConfigError(f"{path}: not readable as JSON ({error})") from None
            if not isinstance(values, dict):
                raise ConfigError(f"{path}: got a {type(values).__name__}, wanted overrides, settings, ...")
            return cls.parse(values, str(path))


class DeploymentManifest(RunManifest):
    """Of a federation over a network."""

    sites: tuple[SiteName, ...]
    """Hospitals that are asked."""
    fold: int = Field(ge=-1)
    signatures: Path | None
    """Where the table of gene groups lay."""
    config_digest: str
    """Of the experiment as it was composed then."""


@contextmanager
def explain_damaged_manifest() -> Iterator[None]:
    """What is wrong with the file of a run was not typed just now: say what to do about it."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(f"{error}. A run of this version writes it otherwise: restore it, or begin anew") from None
