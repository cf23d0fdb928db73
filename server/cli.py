"""`flower-server`: the coordinating site's commands.

What a command needs is imported when it is known, so that `--help` and a mistake answer at once.
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

from .exit_codes import ExitCode

if TYPE_CHECKING:
    from .summary import DeploymentSummary

__all__ = ["main"]

_FOLDER_VARIABLE = "MEMAMBA_SERVER_DIR"
_GRACE_S = 9.0  # Docker kills after 10


def main() -> None:
    """Entry point."""
    parser = _parser()
    arguments, more = parser.parse_known_args()
    if more:
        if "overrides" not in arguments or any(word.startswith("-") for word in more):
            parser.error(f"unrecognized arguments: {' '.join(more)}")
        arguments.overrides += more  # settings that stand behind an option
    sys.exit(_guarded(arguments.command, arguments))


def _guarded(command: Callable[[argparse.Namespace], ExitCode], arguments: argparse.Namespace) -> ExitCode:
    """Do the work and turn what a person can mend into one sentence and an exit code."""
    try:
        return command(arguments)
    except FolderBusyError as error:
        return _say(error, ExitCode.BUSY)
    except (FederationError, AgreementError, BudgetError) as error:
        return _say(error, ExitCode.UNFINISHED)
    except (MemambaError, OSError) as error:  # the second: a folder that cannot be read or written
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
    print(f"{folder.path}: made, with a certificate for {', '.join(config.addresses)}")
    print(f"hospitals connect to {config.address_for_sites()}; authority {folder.pki.authority_fingerprint()}")
    print(f"keep a copy of {folder.pki.folder} in a safe place: without it every hospital needs a new kit")
    return ExitCode.DONE


def _enroll(arguments: argparse.Namespace) -> ExitCode:
    from memamba_core.io.node_key import normalise_public_key

    folder = _open(arguments)
    try:
        content = arguments.key.read_bytes()
    except OSError as error:
        raise ConfigError(f"{arguments.key}: not readable ({error.strerror}); wanted the hospital's node.pub") from None
    key, now = normalise_public_key(content, str(arguments.key)), dt.datetime.now(dt.UTC).replace(microsecond=0)
    name = arguments.name
    roster = folder.change_roster(
        lambda r: r.replace_key(name, key, now) if arguments.replace else r.enroll(name, key, now)
    )
    print(f"{name}: {roster.get(name).fingerprint}")
    print("compare this fingerprint with the hospital by telephone before the next run")
    return ExitCode.DONE


def _remove(arguments: argparse.Namespace) -> ExitCode:
    _open(arguments).change_roster(lambda roster: roster.remove(arguments.name))
    print(f"{arguments.name}: removed; from the next run on its key is refused")
    return ExitCode.DONE


def _roster(arguments: argparse.Namespace) -> ExitCode:
    roster = _open(arguments).roster()
    width = max((len(name) for name in roster.names), default=0)
    for site in roster.sites:
        print(f"{site.name:{width}}  {site.fingerprint}  since {site.key_since:%Y-%m-%d}")
    if not roster.sites:
        print("no hospital is enrolled; `flower-server enroll NAME node.pub` adds one")
    return ExitCode.DONE


def _renew(arguments: argparse.Namespace) -> ExitCode:
    folder = _open(arguments)
    until = folder.pki.renew(folder.config.addresses, dt.datetime.now(dt.UTC))
    print(f"{folder.pki.server_certificate}: valid until {until:%Y-%m-%d}, for {', '.join(folder.config.addresses)}")
    print("hospitals notice nothing; a run in progress goes on with the certificate before")
    return ExitCode.DONE


def _kit(arguments: argparse.Namespace) -> ExitCode:
    from server.admin.kit import write_kit

    path = write_kit(_open(arguments), arguments.name, arguments.address, arguments.output)
    print(f"{path}: nothing in it is secret; it may go by mail")
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
        raise FederationError(f"{error}. Then: flower-server run resume={plan.run.run_id}") from error
    except KeyboardInterrupt:
        if not plan.has_begun:
            raise
        return _say(
            f"interrupted; finished rounds are kept: flower-server run resume={plan.run.run_id}", ExitCode.INTERRUPTED
        )
    _print_summary(summary, plan.folder)
    return ExitCode.DONE


def _print_summary(summary: "DeploymentSummary", folder: Path) -> None:
    print(f"{summary.num_rounds} rounds with {summary.num_sites} sites, {summary.seconds:.0f} s")
    for c_index, name in (
        (summary.c_index_histogram, "all sites, from counts"),
        (summary.c_index_within_site, "pairs inside sites"),
    ):
        if c_index is not None:
            print(f"C-index, {name}: {c_index:.3f}, of {summary.closing_evaluation.num_patients} test patients")
    for warning in summary.warnings:
        print(f"warning: {warning}")
    print(f"results: {folder / 'summary.json'}\nmodel: {folder / 'model.safetensors'}")


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
    """The federation's folder: `--dir`, else the environment, else the working directory."""
    from server.admin.folder import open_folder

    return open_folder(arguments.dir or Path(os.environ.get(_FOLDER_VARIABLE, ".")))


def _split(overrides: Sequence[str]) -> tuple[RunSettings, tuple[str, ...]]:
    """What is said of this run, and what of the experiment.

    Raises:
        ConfigError: something is not of the form `key=value`, is given twice, or is no setting of a run.
    """
    own: dict[str, object] = {}
    experiment = []
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals:
            raise ConfigError(f"got {override!r}; wanted key=value, for example federation.num_rounds=50")
        if key not in RunSettings.model_fields:
            if re.fullmatch(r"\w+", key) and key not in Experiment.model_fields:
                raise ConfigError(
                    f"unknown setting {key!r}; of a run there are {', '.join(RunSettings.model_fields)}, and of the "
                    f"experiment {', '.join(Experiment.model_fields)} (as in federation.num_rounds=50)"
                )
            experiment.append(override)
            continue
        if key in own:
            raise ConfigError(f"{key} is given twice")
        own[key] = tuple(re.split(r"\s*,\s*", value.strip("[] "))) if key == "sites" else value
    return RunSettings.parse(own, "run"), tuple(experiment)


def _end_within_grace() -> None:
    """On the first SIGTERM or Ctrl-C leave the work where it is and clean up, for a few seconds at most."""

    def stop(_number: int, _frame: FrameType | None) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        threading.Thread(target=_end, daemon=True).start()
        raise KeyboardInterrupt

    for number in (signal.SIGTERM, signal.SIGINT):  # explicit, because process 1 of a container ignores the default
        signal.signal(number, stop)


def _end() -> None:
    time.sleep(_GRACE_S)
    os._exit(ExitCode.INTERRUPTED)  # what is on disk is whole at any time


def _parser() -> argparse.ArgumentParser:
    codes = "\n".join(f"  {code.value:3}  {code.meaning}" for code in ExitCode)
    parser = argparse.ArgumentParser(
        prog="flower-server",
        description="The coordinating site of a federation. docs/coordinator.md goes through it step by step.",
        epilog=f"exit codes:\n{codes}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="command")

    def add(name: str, command: Callable[[argparse.Namespace], ExitCode], text: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        sub.set_defaults(command=command)
        if name != "init":
            sub.add_argument(
                "--dir", type=Path, help=f"folder of the federation; default ${_FOLDER_VARIABLE}, else here"
            )
        return sub

    init = add("init", _init, "make a federation's folder: authority, server certificate, empty roster, settings")
    init.add_argument("folder", type=Path, metavar="DIR")
    init.add_argument("--address", action="append", required=True, help="host name or IP by which hospitals reach it")
    init.add_argument("--port", type=int, help="that hospitals connect to; default 8443")
    init.add_argument("--listen-host", help="address of this machine to listen on; default 0.0.0.0")
    init.add_argument("--listen-port", type=int, help="if it is another than --port, behind a port mapping")
    init.add_argument("--loopback-port", type=int, help="for this machine's own programs; default 18000")
    enroll = add("enroll", _enroll, "let a hospital in, by name and public key")
    enroll.add_argument("name", metavar="NAME")
    enroll.add_argument("key", type=Path, metavar="node.pub")
    enroll.add_argument("--replace", action="store_true", help="the hospital has a new key; the one before is refused")
    add("remove", _remove, "take a hospital off the roster").add_argument("name", metavar="NAME")
    add("roster", _roster, "list the enrolled hospitals with the fingerprints of their keys")
    add("renew", _renew, "make a new server certificate, when it expires or addresses have changed")
    kit = add("kit", _kit, "write what a hospital needs to join, as a zip file")
    kit.add_argument("name", metavar="NAME")
    kit.add_argument("--address", help="by which this hospital reaches the coordinator; default the first")
    kit.add_argument("--output", type=Path, help="file to write; default kits/NAME.zip")
    run = add("run", _run, "run a federation, or go on with an interrupted one (resume=RUN)")
    run.add_argument(
        "overrides",
        nargs="*",
        metavar="key=value",
        help="of the experiment (federation.num_rounds=50, strategy=fedprox), or of this run: sites=a,b,c min_sites=2 "
        "wait_s=600 name=RUN fold=0 signatures=FILE resume=RUN",
    )
    run.add_argument("--log-format", choices=("text", "json"), default="text", help="of standard error")
    add("status", _status, "say what the run in progress does")
    add("stop", _stop, "end the run in progress; it can be resumed")
    return parser
