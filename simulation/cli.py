"""`flower-simulate`: run a simulation, attack one (`audit`), or write its sites as folders (`export-sites`).

Torch is imported after the settings are known, so that `--help` and a mistyped setting answer at once.
"""

import argparse
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from memamba_core.config.compose import (
    compose_audit,
    compose_simulation,
    config_groups,
    expand_sweep,
    render_settings,
)
from memamba_core.config.run_manifest import RunManifest, explain_damaged_manifest, manifest_path
from memamba_core.config.simulation import MACHINE_SETTINGS, SimulationConfig
from memamba_core.errors import ConfigError, MemambaError
from memamba_core.wire.versions import version_line

from .exit_codes import ExitCode

if TYPE_CHECKING:
    from .multirun import Multirun
    from .run import SimulationResult

__all__ = ["main"]

_CONFIG_DIR = "--config-dir="
_COMMANDS = {
    "run": "train one survival model over simulated sites; the default command",
    "audit": "attack the answers and the model of such a run, and report what an attacker learns",
    "export-sites": "write the simulated sites as folders, each with a site.yaml for `flower-client`",
}
_EXAMPLES = """\
examples:
  flower-simulate data=tcga_luad model=genomics partition=tss compare=true data.root=FOLDER
  flower-simulate resume=FOLDER                          continue an interrupted run
  flower-simulate --multirun seed=0,1,2                  several runs, one table
  flower-simulate --cfg job data=tcga_blca               show the composed settings, run nothing
  flower-simulate audit attacks=membership               one attack; without attacks=..., all of them
  flower-simulate export-sites output_dir=FOLDER         write the sites as site folders
"""


def main() -> None:
    """Run the command line and exit."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # from a batch system or `docker stop`: as Ctrl-C
    try:
        status = _guarded(lambda: _dispatch(sys.argv[1:]))
        sys.stdout.flush()
    except BrokenPipeError:  # `flower-simulate --help | head`: the reader closed the pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 0
    sys.exit(status)


def _guarded(work: Callable[[], int]) -> int:
    """Do the work; turn an error that a person can fix into one sentence and an exit code."""
    try:
        return work()
    except BrokenPipeError:
        raise
    except (MemambaError, OSError) as error:  # OSError: a full disk, a folder that cannot be written
        print(f"error: {error}", file=sys.stderr)
        return ExitCode.MISTAKE
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED


# Arguments
# --------------------------------------------------------------------------------------------------------------


class _Parser(argparse.ArgumentParser):
    """Argument parser whose errors are one sentence, and whose help ends with groups and settings."""

    settings_file = "simulate"

    def error(self, message: str) -> NoReturn:
        self.exit(ExitCode.MISTAKE, f"error: {message}. See `flower-simulate --help`\n")

    def format_help(self) -> str:
        groups = "\n".join(f"  {name}: {', '.join(files)}" for name, files in config_groups().items())
        settings = "".join(f"  {line}\n" for line in render_settings(self.settings_file).splitlines())
        return (
            f"{super().format_help()}\ngroups (group=file):\n{groups}\n\n"
            "settings (key=value; these values are in force, "
            f"docs/reference/settings.md lists all settings with units and ranges):\n{settings}"
        )


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="flower-simulate",
        usage="flower-simulate [run|audit|export-sites] [group=file ...] [key=value ...]",
        description="Simulate a federation of sites on this machine. Without settings: a generated cohort.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--version",
        action="version",
        version=version_line(),
        help="print the versions of package, protocol, Flower and torch",
    )
    commands = parser.add_subparsers(dest="command", metavar="command")
    for name, text in _COMMANDS.items():
        sub = commands.add_parser(
            name,
            usage=f"flower-simulate {name} [group=file ...] [key=value ...]",
            help=text,
            description=f"{text[0].upper()}{text[1:]}.",
            allow_abbrev=False,
        )
        sub.settings_file = "audit" if name == "audit" else "simulate"
        sub.add_argument("overrides", nargs="*", metavar="key=value", help="setting, or file of a group")
        sub.add_argument(
            "--config-dir",
            type=Path,
            metavar="DIR",
            help="folder with more settings files, such as data/my_cohort.yaml",
        )
        sub.add_argument("--cfg", choices=("job",), help="print the composed settings and run nothing")
        if name == "run":
            sub.add_argument(
                "-m", "--multirun", action="store_true", help="run each combination of settings such as seed=0,1,2"
            )
    return parser


def _parse(words: Sequence[str]) -> argparse.Namespace:
    """Parse the command line; `run` is the command that need not be named."""
    parser = _parser()
    if not words or words[0] not in (*_COMMANDS, "-h", "--help", "--version"):
        words = ["run", *words]
    arguments, more = parser.parse_known_args(words)
    if more:
        if arguments.command is None or any(word.startswith("-") for word in more):
            parser.error(f"unrecognized arguments: {' '.join(more)}")
        arguments.overrides += more  # settings that stand behind an option
    for word in getattr(arguments, "overrides", ()):
        if word in _COMMANDS:
            parser.error(f"{word!r} is a command and comes first: flower-simulate {word} ...")
    return arguments


def _dispatch(words: Sequence[str]) -> int:
    arguments = _parse(words)
    overrides, config_dir = tuple(arguments.overrides), arguments.config_dir
    if arguments.cfg:
        if any(override.startswith("resume=") for override in overrides):
            raise ConfigError(
                "--cfg shows what would be composed; the settings of a run to resume are in settings.json"
            )
        print(render_settings("audit" if arguments.command == "audit" else "simulate", overrides, config_dir), end="")
        return 0
    record = (*([f"{_CONFIG_DIR}{config_dir.resolve()}"] if config_dir else []), *overrides)
    if arguments.command == "audit":
        return _audit(compose_audit(overrides, config_dir), record)
    if arguments.command == "export-sites":
        return _export(compose_simulation(overrides, config_dir))
    if arguments.multirun:
        return _multirun(overrides, config_dir, record[: len(record) - len(overrides)])
    return _simulate(compose_simulation(overrides, config_dir), record)


# Commands
# --------------------------------------------------------------------------------------------------------------


def _simulate(config: SimulationConfig, overrides: tuple[str, ...]) -> int:
    if config.resume is not None:
        config, overrides = _settings_of(config, overrides)
    _run_shown(config, overrides)
    return 0


def _run_shown(config: SimulationConfig, overrides: tuple[str, ...]) -> "SimulationResult":
    """Simulate with progress on the screen; say how to continue if it is interrupted."""
    from .progress import ProgressReporter
    from .run import simulate

    progress = ProgressReporter()
    try:
        with progress:
            result = simulate(config, overrides, progress)
    except (KeyboardInterrupt, OSError):  # after the bars are gone, which would break the command below in two lines
        print(f"\n{progress.how_to_continue()}", file=sys.stderr)
        raise
    progress.finish(result.summary, result.folder)
    return result


def _multirun(overrides: tuple[str, ...], config_dir: Path | None, options: tuple[str, ...]) -> int:
    """Run every combination, then print and write one table; a run that fails does not stop the others."""
    runs = []
    for swept, expanded in expand_sweep(overrides, config_dir):
        config = compose_simulation(expanded, config_dir)
        if config.output_dir is not None or config.resume is not None:
            raise ConfigError("--multirun makes a folder for each run below outputs/; leave output_dir and resume out")
        runs.append((swept, config, (*options, *expanded)))
    from rich.console import Console

    from .multirun import Multirun

    multirun = Multirun.begin([swept for swept, _, _ in runs])
    failed = False
    try:
        for (swept, config, words), folder in zip(runs, multirun.folders, strict=True):
            print(f"run {folder.name}")
            work = partial(_run_of_many, multirun, swept, config.model_copy(update={"output_dir": folder}), words)
            status = _guarded(work)
            failed = failed or status != 0
            if status == ExitCode.INTERRUPTED:
                return status
    finally:
        multirun.show(Console())
    return ExitCode.MISTAKE if failed else 0


def _run_of_many(
    multirun: "Multirun", swept: Mapping[str, str], config: SimulationConfig, words: tuple[str, ...]
) -> int:
    result = _run_shown(config, words)
    multirun.add(swept, result.folder, result.summary)
    return 0


def _audit(config: SimulationConfig, overrides: tuple[str, ...]) -> int:
    from rich.console import Console

    from simulation.audit.report import table
    from simulation.audit.run import audit
    from simulation.progress import StepReporter

    console = Console()
    with StepReporter(console, "audit") as steps:
        report, folder = audit(config, overrides, steps.on_step)
    console.print(table(report))
    for sentence in report.findings:
        console.print(f"* {sentence}", highlight=False, soft_wrap=True)
    console.print(f"results: {folder / 'audit.json'}", highlight=False, soft_wrap=True)
    return 0


def _export(config: SimulationConfig) -> int:
    from .cohort import prepare_cohort
    from .export import export_sites

    if config.output_dir is None:
        raise ConfigError("export-sites needs output_dir=FOLDER, a new folder for the site folders")
    cohort = prepare_cohort(config)
    case_ids = {name: tuple(r.case_id for r in site.cohort.records) for name, site in cohort.sites.items()}
    folders = export_sites(cohort.cohort, config.data, case_ids, config.output_dir)
    print(f"{len(folders)} site folders in {config.output_dir}, each with a site.yaml")
    return 0


def _settings_of(config: SimulationConfig, overrides: tuple[str, ...]) -> tuple[SimulationConfig, tuple[str, ...]]:
    """Read the settings of an interrupted run from its folder; only machine settings may be given again."""
    folder = config.resume
    assert folder is not None
    allowed = (*MACHINE_SETTINGS, "resume", _CONFIG_DIR.rstrip("="))
    refused = [o for o in overrides if o.split("=")[0] not in allowed]
    if refused:
        raise ConfigError(
            f"resume takes its settings from {folder}; besides it only {', '.join(MACHINE_SETTINGS)} may be given, got "
            f"{' '.join(refused)}"
        )
    before = RunManifest.read(manifest_path(folder))
    machine = {name: getattr(config, name) for name in MACHINE_SETTINGS}
    with explain_damaged_manifest():
        source = str(manifest_path(folder))
        settings = SimulationConfig.parse({**before.settings, **machine, "resume": folder}, source)
    return settings, before.overrides
