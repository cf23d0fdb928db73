"""`flower-simulate`: run a simulation, or write its hospitals as site folders (`flower-simulate export-sites`).

Torch is imported after the settings are known, so that `--help` and a mistyped setting answer at once.
"""

import json
import logging
import sys
from pathlib import Path
from typing import Any

from memamba_core.config.compose import (
    HYDRA_VERSION_BASE,
    compose_simulation,
    config_folder,
    hydra_overrides,
    simulation_from,
)
from memamba_core.errors import ConfigError, MemambaError

__all__ = ["main"]

EXIT_ERROR = 2
EXIT_INTERRUPTED = 130
_FREE_ON_RESUME = ("workers", "threads", "device")  # of the machine, not of the result


def main() -> None:
    """Entry point."""
    arguments = sys.argv[1:]
    export = arguments[:1] == ["export-sites"]
    if export:
        arguments = arguments[1:]
    sys.exit(_run_hydra(arguments, export=export))


def _run_hydra(arguments: list[str], *, export: bool) -> int:
    """Let Hydra compose the settings (with its own `--help`, `--cfg`, `--multirun`), then do the work."""
    import hydra

    status = 0

    def work(config: Any) -> None:
        nonlocal status
        from hydra.core.hydra_config import HydraConfig

        overrides = tuple(o.removeprefix("++") for o in HydraConfig.get().overrides.task)
        status = max(status, _guarded(config, overrides, export=export))

    sys.argv = [sys.argv[0], *hydra_overrides(arguments)]
    hydra.main(version_base=HYDRA_VERSION_BASE, config_path=str(config_folder()), config_name="simulate")(work)()
    return status


def _guarded(config: Any, overrides: tuple[str, ...], *, export: bool) -> int:
    """Do the work and turn what a person can mend into one sentence and an exit code."""
    try:
        settings = simulation_from(config)
        if export:
            _export(settings)
        else:
            _simulate(settings, overrides)
    except MemambaError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_ERROR
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    return 0


def _simulate(config: Any, overrides: tuple[str, ...]) -> None:
    if config.resume is not None:
        config, overrides = _settings_of(config.resume, overrides)
    from .progress import ProgressReporter
    from .run import simulate

    logging.getLogger("flwr").setLevel(
        logging.ERROR
    )  # it logs every aggregation of every group, and sets its own level on import

    with ProgressReporter() as progress:
        try:
            result = simulate(config, overrides, progress)
        except KeyboardInterrupt:
            print("\ninterrupted; finished rounds are kept", file=sys.stderr)
            raise
    progress.finish(result, result.folder)


def _settings_of(folder: Path, overrides: tuple[str, ...]) -> tuple[Any, tuple[str, ...]]:
    """The settings of an interrupted run, from its folder; only what belongs to the machine may be given anew."""
    given = [o for o in overrides if not o.startswith("resume=")]
    strange = [o for o in given if o.split("=")[0] not in _FREE_ON_RESUME]
    if strange:
        raise ConfigError(
            f"resume takes its settings from {folder}; besides it only {', '.join(_FREE_ON_RESUME)} may be given, got "
            f"{' '.join(strange)}"
        )
    path = folder / "settings.json"
    if not path.is_file():
        raise ConfigError(f"resume={folder}: no settings.json there; name the output folder of an interrupted run")
    before = tuple(json.loads(path.read_text(encoding="utf-8"))["overrides"])
    kept = tuple(o for o in before if o.split("=")[0] not in ("output_dir", *(g.split("=")[0] for g in given)))
    return compose_simulation([*kept, *given, f"resume={folder}"]), (*kept, *given)


def _export(config: Any) -> None:
    from .cohort import prepare_cohort
    from .export import export_sites

    if config.output_dir is None:
        raise ConfigError("export-sites needs output_dir=FOLDER, a new folder for the site folders")
    cohort = prepare_cohort(config)
    case_ids = {name: tuple(r.case_id for r in site.cohort.records) for name, site in cohort.sites.items()}
    folders = export_sites(cohort.cohort, config.data, case_ids, config.output_dir)
    print(f"{len(folders)} site folders in {config.output_dir}, each with a site.yaml")
