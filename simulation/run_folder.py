"""Make the output folder of a run, find it again, and remove it if the run left nothing to resume."""

import shutil
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from memamba_core.config.run_manifest import MANIFEST_VERSION, RunManifest, manifest_path
from memamba_core.config.simulation import MACHINE_SETTINGS, SimulationConfig
from memamba_core.errors import ConfigError
from server.results import write_json

__all__ = ["claim_folder", "open_run_folder", "remove_unused_folder"]


def open_run_folder(config: SimulationConfig, overrides: Sequence[str]) -> Path:
    """Open the output folder: a new one, or that of the run to resume, which must have the settings of this run."""
    settings = config.model_dump(mode="json", exclude={"output_dir", "resume", *MACHINE_SETTINGS})
    if config.resume is None:
        stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
        folder = claim_folder(config, f"{config.data.name}-{config.partition.name}-{stamp}")
        manifest = {"manifest": MANIFEST_VERSION, "overrides": list(overrides), "settings": settings}
        write_json(folder / "settings.json", manifest)
        return folder
    path = manifest_path(config.resume)
    before = RunManifest.read(path).settings
    changed = sorted(key for key in settings.keys() | before.keys() if settings.get(key) != before.get(key))
    if changed:
        raise ConfigError(
            f"resume={config.resume}: the run there had other settings for {', '.join(changed)} (they are in {path}); "
            "the configs or MEMAMBA_DATA have changed since"
        )
    return config.resume


def claim_folder(config: SimulationConfig, name: str) -> Path:
    """Make the folder for the results: the one named, or a new one below `outputs/`.

    Raises:
        ConfigError: the folder named is a file, is not empty, or cannot be made.
    """
    if config.output_dir is not None:
        folder = config.output_dir
        if folder.exists() and not folder.is_dir():
            raise ConfigError(f"output_dir={folder} is a file; name a new folder")
        if folder.exists() and any(folder.iterdir()):
            raise ConfigError(
                f"output_dir={folder} is not empty; name a new folder, or continue an interrupted run by "
                f"resume={folder}"
            )
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"output_dir={folder} cannot be made ({error.strerror}); name another folder") from None
        return folder
    number = 1
    while True:
        folder = Path("outputs") / (name if number == 1 else f"{name}-{number}")
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            number += 1
        else:
            return folder


def remove_unused_folder(folder: Path) -> None:
    """Remove the folder of a run that failed before there was anything to resume."""
    if not any(folder.glob("fold-*/journal/*")) and not any(folder.glob("fold-*/outcome.json")):
        shutil.rmtree(folder, ignore_errors=True)
