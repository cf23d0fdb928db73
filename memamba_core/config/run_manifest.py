"""`settings.json`: the settings that a run began with. Written once, and read when the run is resumed."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from pydantic import Field

from memamba_core.config.base import Settings
from memamba_core.config.experiment import Experiment
from memamba_core.config.site import SiteName
from memamba_core.errors import ConfigError

__all__ = ["MANIFEST_VERSION", "DeploymentManifest", "RunManifest", "explain_damaged_manifest", "manifest_path"]

MANIFEST_VERSION = 2
"""Version of the file, raised when the meaning of a setting changes. Version 0.1.0 of the software wrote none."""


class RunManifest(Settings):
    """Settings of a simulation."""

    manifest: int
    """`MANIFEST_VERSION` of the version that wrote the file."""
    overrides: tuple[str, ...]
    """As typed, for the record only."""
    settings: dict[str, Any]
    """Every setting, as composed from the overrides."""

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read the file of a run, which a person may have changed since.

        Raises:
            ConfigError: the file was written by another version, or is damaged.
        """
        with explain_damaged_manifest():
            try:
                values = json.loads(path.read_text(encoding="utf-8"))
            except (OSError, ValueError) as error:
                raise ConfigError(f"{path}: not readable as JSON ({error})") from None
            if not isinstance(values, dict):
                raise ConfigError(f"{path}: got a {type(values).__name__}, wanted overrides, settings, ...")
        if "settings" in values and values.get("manifest") != MANIFEST_VERSION:
            raise ConfigError(
                f"{path}: this run was begun by another version of this software (0.1.0 or a later release with other "
                "settings) and cannot be resumed by this one; finish it with that version, or begin a new run"
            )
        if "config_digest" in values and "config_digest" not in cls.model_fields:
            raise ConfigError(f"{path}: this run belongs to flower-server; resume it by `flower-server run resume=...`")
        with explain_damaged_manifest():
            return cls.parse(values, str(path))


class DeploymentManifest(RunManifest):
    """Settings of a federation over a network; `settings` are those of the experiment."""

    sites: tuple[SiteName, ...]
    """Sites that receive requests."""
    fold: int = Field(ge=-1)
    signatures: Path | None
    """Table of gene groups, as an absolute path."""
    config_digest: str
    """SHA-256 over the settings."""

    def experiment(self, source: str) -> Experiment:
        """Return the experiment that the run began with.

        Args:
            source: path of the file, for the error text.

        Raises:
            ConfigError: the settings were changed by hand.
        """
        with explain_damaged_manifest():
            experiment = Experiment.parse(self.settings, source)
            if experiment.digest() != self.config_digest:
                raise ConfigError(f"{source}: the settings do not have the digest in the file")
        return experiment


def manifest_path(folder: Path) -> Path:
    """Return the path of `settings.json` in the folder of an interrupted run.

    Raises:
        ConfigError: there is none.
    """
    if folder.is_file():
        raise ConfigError(f"resume={folder} is a file; name its folder, {folder.parent}")
    path = folder / "settings.json"
    if not path.is_file():
        raise ConfigError(f"resume={folder}: no settings.json there; name the output folder of an interrupted run")
    return path


@contextmanager
def explain_damaged_manifest() -> Iterator[None]:
    """Add the remedy to an error about the file of a run."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(f"{error}. The file was changed or damaged: restore it, or begin a new run") from None
