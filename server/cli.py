"""`flower-server`: the coordinator's commands.

A command imports what it needs when it runs, so that `--help` and mistakes are answered at once.
"""

import argparse
import datetime as dt
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from memamba_core.config.coordinator import CoordinatorConfig, RunSettings
from memamba_core.config.experiment import Experiment
from memamba_core.errors import AgreementError, BudgetError, ConfigError, FederationError, FolderBusyError, MemambaError
from memamba_core.wire.versions import version_line

from .exit_codes import ExitCode

if TYPE_CHECKING:
    from .summary import DeploymentSummary

__all__ = ["main"]

_FOLDER_VARIABLE = "MEMAMBA_SERVER_DIR"
_GRACE_S = 9.0  # Docker kills the process after 10 s


def main() -> None:
    """Parse the command line, run the command and exit with its code."""
    parser = _parser()
    arguments, more = parser.parse_known_args()
    if more:
        if "overrides" not in arguments or any(word.startswith("-") for word in more):
            parser.error(f"unrecognized arguments: {' '.join(more)}")
        arguments.overrides += more  # settings that follow an option
    sys.exit(_guarded(arguments.command, arguments))


def _guarded(command: Callable[[argparse.Namespace], ExitCode], arguments: argparse.Namespace) -> ExitCode:
    """Run a command; print an error that a person can fix as one sentence and return its exit code."""
    try:
        return command(arguments)
    except FolderBusyError as error:
        return _say(error, ExitCode.BUSY)
    except (FederationError, AgreementError, BudgetError) as error:
        return _say(error, ExitCode.UNFINISHED)
    except (MemambaError, OSError) as error:  # OSError: a folder that cannot be read or written
        return _say(error, ExitCode.MISTAKE)
    except KeyboardInterrupt:
        return _say("interrupted", ExitCode.INTERRUPTED)


def _say(text: object, code: ExitCode) -> ExitCode:
    print(f"error: {text}", file=sys.stderr)
    return code


# Commands
# --------------------------------------------------------------------------------------------------------------


def _init(arguments: argparse.Namespace) -> ExitCode:
    from server.admin.folder import create_folder

    given = {
        "addresses": tuple(arguments.address),
        "port": arguments.port,
        "listen_host": arguments.listen_host,
        "listen_port": arguments.listen_port,
        "loopback_port": arguments.loopback_port,
    }
    config = CoordinatorConfig.parse({key: value for key, value in given.items() if value is not None}, "init")
    folder = create_folder(arguments.folder, config)
    print(f"{folder.path}: created, with a certificate for {', '.join(config.addresses)}")
    print(f"sites connect to {config.address_for_sites()}; authority {folder.pki.authority_fingerprint()}")
    print(f"keep a copy of {folder.pki.folder} in a safe place: without it every site needs a new kit")
    return ExitCode.DONE


def _enroll(arguments: argparse.Namespace) -> ExitCode:
    from memamba_core.io.node_key import normalise_public_key

    folder = _open(arguments)
    try:
        content = arguments.key.read_bytes()
    except OSError as error:
        raise ConfigError(f"{arguments.key}: not readable ({error.strerror}); expected the site's node.pub") from None
    key, now = normalise_public_key(content, str(arguments.key)), dt.datetime.now(dt.UTC).replace(microsecond=0)
    name = arguments.name
    roster = folder.change_roster(
        lambda r: r.replace_key(name, key, now) if arguments.replace else r.enroll(name, key, now)
    )
    print(f"{name}: {roster.get(name).fingerprint}")
    print("compare this fingerprint with the site by telephone before the next run")
    return ExitCode.DONE


def _remove(arguments: argparse.Namespace) -> ExitCode:
    _open(arguments).change_roster(lambda roster: roster.remove(arguments.name))
    print(f"{arguments.name}: removed; its key is refused from the next run on")
    return ExitCode.DONE


def _roster(arguments: argparse.Namespace) -> ExitCode:
    roster = _open(arguments).roster()
    width = max((len(name) for name in roster.names), default=0)
    for site in roster.sites:
        print(f"{site.name:{width}}  {site.fingerprint}  since {site.key_since:%Y-%m-%d}")
    if not roster.sites:
        print("no site is enrolled; add one with `flower-server enroll NAME node.pub`")
    return ExitCode.DONE


def _renew(arguments: argparse.Namespace) -> ExitCode:
    folder = _open(arguments)
    until = folder.pki.renew(folder.config.addresses, dt.datetime.now(dt.UTC))
    print(f"{folder.pki.server_certificate}: valid until {until:%Y-%m-%d}, for {', '.join(folder.config.addresses)}")
    print("sites need not do anything; a run in progress keeps the old certificate")
    return ExitCode.DONE


def _kit(arguments: argparse.Namespace) -> ExitCode:
    from server.admin.kit import write_kit

    path = write_kit(_open(arguments), arguments.name, arguments.address, arguments.output)
    print(f"{path}: contains no secret; it may be sent by e-mail")
    return ExitCode.DONE


def _run(arguments: argparse.Namespace) -> ExitCode:
    settings, overrides = _split(arguments.overrides)
    folder = _open(arguments)
    from rich.console import Console

    from .deployment import plan_run, run_deployment
    from .logs import open_log

    plan = plan_run(folder, settings, overrides)
    console = Console(stderr=True)
    open_log(arguments.log_format, console)
    _end_within_grace()
    try:
        summary = run_deployment(folder, plan, console)
    except (FederationError, AgreementError) as error:
        if not plan.has_begun:
            raise
        raise FederationError(f"{error}. When that is mended: flower-server run resume={plan.run.run_id}") from error
    except KeyboardInterrupt:
        if not plan.has_begun:
            raise
        return _say(
            f"interrupted; finished rounds are kept. Continue: flower-server run resume={plan.run.run_id}",
            ExitCode.INTERRUPTED,
        )
    _print_summary(summary, plan.folder)
    return ExitCode.DONE if summary.is_complete else ExitCode.INCOMPLETE


def _print_summary(summary: "DeploymentSummary", folder: Path) -> None:
    print(summary.attendance.text)
    planned = summary.settings["federation"]["num_rounds"]
    ended = f" of {planned}" if summary.num_rounds < planned else ""
    print(f"{summary.num_rounds}{ended} rounds, {summary.seconds:.0f} s")
    for c_index, name in (
        (summary.c_index_histogram, "all sites, from counts"),
        (summary.c_index_within_site, "pairs inside sites"),
    ):
        if c_index is not None:
            print(f"C-index, {name}: {c_index:.3f}, of {summary.closing_evaluation.num_patients} test patients")
    if summary.closing_evaluation.loss is not None:
        tested = summary.closing_evaluation
        print(f"loss of the final model: {tested.loss:.3f}, of {tested.num_patients} test patients")
    if summary.fold >= 0 and summary.without_c_index is not None:
        print(f"no C-index: {summary.without_c_index}")
    for warning in summary.warnings:
        if warning != summary.ended_early:
            print(f"warning: {warning}")
    print(f"results: {folder / 'summary.json'}\nmodel: {folder / 'model.safetensors'}")
    if summary.ended_early is not None:
        print(f"ended early: {summary.ended_early}")


def _status(arguments: argparse.Namespace) -> ExitCode:
    from .status import describe_run

    folder = _open(arguments)
    text = describe_run(folder)
    print(text or f"{folder.path}: no run is in progress")
    return ExitCode.NOT_RUNNING if text is None else ExitCode.DONE


def _stop(arguments: argparse.Namespace) -> ExitCode:
    from .status import stop_run

    folder = _open(arguments)
    stopped = stop_run(folder)
    print(f"{folder.path}: " + ("the run has ended; it can be resumed" if stopped else "no run is in progress"))
    return ExitCode.DONE if stopped else ExitCode.NOT_RUNNING


# Arguments
# --------------------------------------------------------------------------------------------------------------


def _open(arguments: argparse.Namespace) -> Any:
    """Open the federation's folder: `--dir`, else the environment variable, else the working directory."""
    from server.admin.folder import open_folder

    return open_folder(arguments.dir or Path(os.environ.get(_FOLDER_VARIABLE, ".")))


def _split(overrides: Sequence[str]) -> tuple[RunSettings, tuple[str, ...]]:
    """Split overrides into settings of this run and settings of the experiment.

    Raises:
        ConfigError: an override does not have the form `key=value`, is given twice, or names no setting.
    """
    own: dict[str, object] = {}
    experiment = []
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals:
            raise ConfigError(f"setting is {override!r}; expected key=value, for example federation.num_rounds=50")
        if key not in RunSettings.model_fields:
            if re.fullmatch(r"\w+", key) and key not in Experiment.model_fields:
                raise ConfigError(
                    f"unknown setting {key!r}; expected one of the run ({', '.join(RunSettings.model_fields)}) or "
                    f"of the experiment ({', '.join(Experiment.model_fields)}; as in federation.num_rounds=50)"
                )
            experiment.append(override)
            continue
        if key in own:
            raise ConfigError(f"{key} is given twice; expected once")
        own[key] = tuple(re.split(r"\s*,\s*", value.strip("[] "))) if key == "sites" else value
    return RunSettings.parse(own, "run"), tuple(experiment)


def _end_within_grace() -> None:
    """On the first SIGTERM or Ctrl-C stop the work and clean up, for at most nine seconds."""

    def stop(_number: int, _frame: FrameType | None) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        threading.Thread(target=_end, daemon=True).start()
        raise KeyboardInterrupt

    for number in (
        signal.SIGTERM,
        signal.SIGINT,
    ):  # explicit handlers: process 1 of a container ignores the default ones
        signal.signal(number, stop)


def _end() -> None:
    time.sleep(_GRACE_S)
    os._exit(ExitCode.INTERRUPTED)  # every file on disk is complete at any time


def _parser() -> argparse.ArgumentParser:
    codes = "\n".join(f"  {code.value:3}  {code.meaning}" for code in ExitCode)
    parser = argparse.ArgumentParser(
        prog="flower-server",
        description="Coordinator of a federation. docs/how_to/coordinator.md describes each step.",
        epilog=f"exit codes:\n{codes}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--version",
        action="version",
        version=version_line(),
        help="print the versions of package, protocol, Flower and torch",
    )
    commands = parser.add_subparsers(required=True, metavar="command")

    def add(name: str, command: Callable[[argparse.Namespace], ExitCode], text: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        sub.set_defaults(command=command)
        if name != "init":
            sub.add_argument(
                "--dir",
                type=Path,
                help=f"folder of the federation; default ${_FOLDER_VARIABLE}, else the working directory",
            )
        return sub

    init = add("init", _init, "create a federation's folder: authority, server certificate, empty roster, settings")
    init.add_argument("folder", type=Path, metavar="DIR")
    init.add_argument(
        "--address",
        action="append",
        required=True,
        help="host name or IP address by which sites reach the coordinator; may be repeated",
    )
    init.add_argument("--port", type=int, help="port that sites connect to; default 8443")
    init.add_argument("--listen-host", help="address of this machine to listen on; default 0.0.0.0")
    init.add_argument(
        "--listen-port",
        type=int,
        help="port of this machine to listen on, if a port mapping makes it differ from --port",
    )
    init.add_argument("--loopback-port", type=int, help="port for programs on this machine; default 18000")
    enroll = add("enroll", _enroll, "enroll a site by name and public key")
    enroll.add_argument("name", metavar="NAME")
    enroll.add_argument("key", type=Path, metavar="node.pub")
    enroll.add_argument("--replace", action="store_true", help="replace the site's key; the old key is refused")
    add("remove", _remove, "remove a site from the roster").add_argument("name", metavar="NAME")
    add("roster", _roster, "list the enrolled sites with the fingerprints of their keys")
    add("renew", _renew, "make a new server certificate, when it expires or after a change of addresses")
    kit = add("kit", _kit, "write the files that a site needs to join, as one zip file")
    kit.add_argument("name", metavar="NAME")
    kit.add_argument("--address", help="address by which this site reaches the coordinator; default the first")
    kit.add_argument("--output", type=Path, help="file to write; default kits/NAME.zip")
    run = add("run", _run, "run a federation, or continue an interrupted one (resume=RUN)")
    run.add_argument(
        "overrides",
        nargs="*",
        metavar="key=value",
        help="setting of the experiment (federation.num_rounds=50, strategy=fedprox), or of this run: sites=a,b,c "
        "min_sites=2 wait_s=600 approval_wait_s=3600 name=RUN fold=0 signatures=FILE resume=RUN (which takes "
        "federation.min_results=2, too)",
    )
    run.add_argument(
        "--log-format", choices=("text", "json"), default="text", help="format of the log on standard error"
    )
    add("status", _status, "print the current step of the run in progress")
    add("stop", _stop, "end the run in progress; it can be resumed")
    return parser
