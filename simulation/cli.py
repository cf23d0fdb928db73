"""`flower-simulate`: run a simulation, attack one (`audit=all`), or write its hospitals as folders (`export-sites`).

Torch is imported after the settings are known, so that `--help` and a mistyped setting answer at once.
"""

import logging
import os
import re
import signal
import sys
from collections.abc import Callable
from typing import Any

from memamba_core.config.compose import (
    HYDRA_VERSION_BASE,
    compose_simulation,
    config_folder,
    hydra_overrides,
    simulation_from,
)
from memamba_core.config.run_manifest import RunManifest, explain_damaged_manifest
from memamba_core.config.simulation import MACHINE_SETTINGS, SimulationConfig
from memamba_core.errors import ConfigError, MemambaError

__all__ = ["main"]

EXIT_ERROR = 2
EXIT_INTERRUPTED = 130

_CONFIG_DIR = "--config-dir="
_OVERRIDE = re.compile(r"~|\+*\w[\w.@/]*=")


def main() -> None:
    """Entry point."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # of a batch system, or of `docker stop`: as Ctrl-C
    arguments = sys.argv[1:]
    export = "export-sites" in arguments
    if export:
        arguments.remove("export-sites")
    options = any(argument.startswith("-") for argument in arguments)
    try:
        status = _run_hydra(arguments, export=export) if options else _run_plain(tuple(arguments), export=export)
        sys.stdout.flush()
    except BrokenPipeError:  # `flower-simulate --help | head`: the reader has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 0
    sys.exit(status)


def _run_plain(overrides: tuple[str, ...], *, export: bool) -> int:
    """Compose the settings from overrides alone and do the work."""
    return _guarded(lambda: compose_simulation(overrides), overrides, export=export)


def _run_hydra(arguments: list[str], *, export: bool) -> int:
    """Let Hydra read its own options first (`--help`, `--cfg`, `--multirun`, `--config-dir`), then do the work."""
    import hydra

    status = 0

    def work(config: Any) -> None:
        nonlocal status
        from hydra.core.hydra_config import HydraConfig

        hydra_config = HydraConfig.get()
        own = [f"{_CONFIG_DIR}{s.path}" for s in hydra_config.runtime.config_sources if s.provider == "command-line"]
        overrides = (*own, *(o.removeprefix("++") for o in hydra_config.overrides.task))
        status = max(status, _guarded(lambda: simulation_from(config), overrides, export=export))

    # Options first: Hydra's parser loses overrides that stand on both sides of an option.
    sys.argv = [sys.argv[0], *sorted(hydra_overrides(arguments), key=lambda a: bool(_OVERRIDE.match(a)))]
    hydra.main(version_base=HYDRA_VERSION_BASE, config_path=str(config_folder()), config_name="simulate")(work)()
    return status


def _guarded(compose: Callable[[], SimulationConfig], overrides: tuple[str, ...], *, export: bool) -> int:
    """Do the work and turn what a person can mend into one sentence and an exit code."""
    try:
        settings = compose()
        if export:
            _export(settings)
        elif settings.audit.attacks:
            _audit(settings, overrides)
        else:
            _simulate(settings, overrides)
    except BrokenPipeError:
        raise
    except (MemambaError, OSError) as error:  # the second: a full disk, a folder that cannot be written
        print(f"error: {error}", file=sys.stderr)
        return EXIT_ERROR
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    return 0


def _simulate(config: SimulationConfig, overrides: tuple[str, ...]) -> None:
    if config.resume is not None:
        config, overrides = _settings_of(config, overrides)
    from .progress import ProgressReporter
    from .run import simulate

    logging.getLogger("flwr").setLevel(
        logging.ERROR
    )  # it logs every aggregation of every group, and sets its own level on import

    progress = ProgressReporter()
    try:
        with progress:
            result = simulate(config, overrides, progress)
    except (KeyboardInterrupt, OSError):  # when the bars are gone, which would break the command below in two lines
        kept = progress.folder is not None and progress.folder.is_dir()
        print(
            "\ninterrupted; "
            + (
                f"finished rounds are kept; go on with: flower-simulate resume={progress.folder}"
                if kept
                else "no round was finished, and nothing is left behind"
            ),
            file=sys.stderr,
        )
        raise
    progress.finish(result, result.folder)


def _audit(config: SimulationConfig, overrides: tuple[str, ...]) -> None:
    from rich.console import Console

    from simulation.audit.report import table
    from simulation.audit.run import audit

    for name in ("flwr", "server"):
        logging.getLogger(name).setLevel(logging.ERROR)
    console = Console()
    with console.status("audit") as status:
        report, folder = audit(config, overrides, status.update)
    console.print(table(report))
    for sentence in report["findings"]:
        console.print(f"* {sentence}", highlight=False, soft_wrap=True)
    console.print(f"results: {folder / 'audit.json'}", highlight=False, soft_wrap=True)


def _settings_of(config: SimulationConfig, overrides: tuple[str, ...]) -> tuple[SimulationConfig, tuple[str, ...]]:
    """The settings of an interrupted run, from its folder; only what belongs to the machine may be given anew."""
    folder = config.resume
    assert folder is not None
    allowed = (*MACHINE_SETTINGS, "resume", _CONFIG_DIR.rstrip("="))
    strange = [o for o in overrides if o.split("=")[0] not in allowed]
    if strange:
        raise ConfigError(
            f"resume takes its settings from {folder}; besides it only {', '.join(MACHINE_SETTINGS)} may be given, got "
            f"{' '.join(strange)}"
        )
    path = folder / "settings.json"
    if not path.is_file():
        raise ConfigError(f"resume={folder}: no settings.json there; name the output folder of an interrupted run")
    before = RunManifest.read(path)
    machine = {name: getattr(config, name) for name in MACHINE_SETTINGS}
    with explain_damaged_manifest():
        settings = SimulationConfig.parse({**before.settings, **machine, "resume": folder}, str(path))
    return settings, before.overrides


def _export(config: SimulationConfig) -> None:
    from .cohort import prepare_cohort
    from .export import export_sites

    if config.output_dir is None:
        raise ConfigError("export-sites needs output_dir=FOLDER, a new folder for the site folders")
    cohort = prepare_cohort(config)
    case_ids = {name: tuple(r.case_id for r in site.cohort.records) for name, site in cohort.sites.items()}
    folders = export_sites(cohort.cohort, config.data, case_ids, config.output_dir)
    print(f"{len(folders)} site folders in {config.output_dir}, each with a site.yaml")
