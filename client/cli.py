"""Command line of a site: `flower-client`.

Torch and Flower are imported after the arguments are parsed, so that `--help` and usage errors appear at once.
"""

import argparse
import logging
import os
import re
import shutil
import sys
from contextlib import nullcontext
from datetime import UTC, datetime
from pathlib import Path

from memamba_core.config.site import SiteConfig, load_site_config
from memamba_core.errors import ConfigError, DataError, MemambaError, TamperedLogError
from memamba_core.wire.versions import version_line

from .exit_codes import ExitCode
from .importing.command import add_import
from .keys import SiteKeys
from .logs import open_logs, support_log

__all__ = ["main"]

_RUNTIME_VARIABLE = "MEMAMBA_RUNTIME"
_RUNTIME_DEFAULT = "127.0.0.1:9094"


def main(arguments: list[str] | None = None) -> None:
    """Parse the arguments, run the command, and exit with an `ExitCode`."""
    options = _parser().parse_args(arguments)
    try:
        code: ExitCode = options.command(options)
    except TamperedLogError as error:
        print(f"error: {error}", file=sys.stderr)
        code = ExitCode.TAMPERED
    except (MemambaError, OSError) as error:  # OSError: a file or folder that cannot be read or written
        print(f"error: {error}", file=sys.stderr)
        code = ExitCode.MISTAKE
    except KeyboardInterrupt:
        code = ExitCode.INTERRUPTED
    sys.exit(code)


def _parser() -> argparse.ArgumentParser:
    meanings = "\n".join(f"  {code.value:3d}  {code.meaning}" for code in ExitCode)
    parser = argparse.ArgumentParser(
        prog="flower-client",
        description="Run a site of a federation. docs/how_to/site.md describes the steps from a kit to a run.",
        epilog=f"exit codes:\n{meanings}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--version",
        action="version",
        version=version_line(),
        help="print the versions of package, protocol, Flower and torch",
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    keygen = commands.add_parser("keygen", help="generate the site's keys; node.pub is for the coordinator")
    keygen.add_argument("folder", type=Path, nargs="?", default=Path("keys"), metavar="FOLDER", help="default: keys")
    keygen.set_defaults(command=_keygen)

    add_import(commands)

    doctor = commands.add_parser("doctor", help="check data, machine, network and key before a run")
    _takes_site(doctor)
    doctor.add_argument("--part", choices=("data", "network"), help="check one part only; default: both")
    doctor.add_argument("--json", action="store_true", help="print the findings as JSON when all checks are done")
    doctor.add_argument("--html", type=Path, metavar="FILE", help="also write a page for a data manager, without names")
    doctor.set_defaults(command=_doctor)

    for name, help_text in {
        "run": "take part in the coordinator's runs until stopped: connector and executor in one process",
        "connect": "run the connector only: it has the keys and network access, and reads no data",
        "train": "run the executor only: it reads the data, and reaches the connector but no other host",
    }.items():
        part = commands.add_parser(name, help=help_text)
        _takes_site(part)
        if name != "run":
            part.add_argument(
                "--runtime",
                default=os.environ.get(_RUNTIME_VARIABLE, _RUNTIME_DEFAULT),
                metavar="HOST:PORT",
                help="address at which the connector hands out tasks to the executor "
                f"(default: ${_RUNTIME_VARIABLE}, or {_RUNTIME_DEFAULT})",
            )
        part.add_argument("--log-format", choices=("text", "json"), default="text", help="of the log on standard error")
        part.set_defaults(command=_run, part=name)

    runs = commands.add_parser("runs", help="list the coordinator's runs: waiting, approved, refused")
    _takes_site(runs)
    runs.add_argument("run", nargs="?", metavar="RUN", help="show this run in full")
    runs.set_defaults(command=_runs)
    for name, verdict, help_text in (
        ("approve", "approved", "show a run that waits for approval, and approve it"),
        ("refuse", "refused", "refuse a run, or withdraw its approval, also in the middle of the run"),
    ):
        part = commands.add_parser(name, help=help_text)
        _takes_site(part)
        part.add_argument("run", metavar="RUN", help="name of the run")
        part.set_defaults(command=_decide, verdict=verdict, digest=None, yes=False)
        if verdict == "refused":
            part.add_argument("--yes", action="store_true", help="refuse without a question")
        else:
            part.add_argument(
                "--digest",
                metavar="DIGITS",
                help="approve without a question, if the digest of the terms begins with these 16 or more digits; "
                "`flower-client runs` shows it",
            )

    predict = commands.add_parser(
        "predict",
        help="predict risk and survival of this site's patients with a trained model; nothing leaves",
        description="Predict risk and survival of this site's patients with a trained model, into a new folder on this "
        "machine. For research only: not a medical device. docs/how_to/site.md describes the files.",
    )
    _takes_site(predict)
    predict.add_argument(
        "--model",
        type=Path,
        required=True,
        metavar="FOLDER",
        help="folder with model.safetensors and model.json: state/runs/RUN, or the folder of a simulation",
    )
    predict.add_argument(
        "--output",
        type=Path,
        metavar="FOLDER",
        help="new folder for predictions.csv (default: state/predictions/MODEL-TIME)",
    )
    predict.add_argument(
        "--attention",
        action="store_true",
        help="also write the attention to each patch, for heat maps: one PATIENT.h5 per patient",
    )
    predict.add_argument(
        "--accept-scale",
        action="store_true",
        help="predict even if the expression is on another scale than that of the model's patients",
    )
    predict.set_defaults(command=_predict)

    egress = commands.add_parser("egress", help="verify the egress log and list everything that left this site")
    _takes_site(egress)
    egress.set_defaults(command=_egress)

    cohort = commands.add_parser(
        "cohort", help="show the blocks of this site's patients, record a withdrawal, or draw the blocks again"
    )
    actions = cohort.add_subparsers(metavar="ACTION", required=True)
    show = actions.add_parser("show", help="list the blocks, those that are set aside and why, and the history")
    _takes_site(show)
    withdraw = actions.add_parser("withdraw", help="exclude patients who withdrew; their blocks are retired")
    _takes_site(withdraw)
    withdraw.add_argument("case_ids", nargs="+", metavar="CASE_ID", help="as in the clinical table")
    refreeze = actions.add_parser("refreeze", help="draw all blocks again, at the cost that the command states")
    _takes_site(refreeze)
    refreeze.add_argument("--reason", required=True, help="one line for the history of the cohort")
    for action in (withdraw, refreeze):
        action.add_argument("--yes", action="store_true", help="do it; without this the command states the cost only")
    for name, action in (("show", show), ("withdraw", withdraw), ("refreeze", refreeze)):
        action.set_defaults(command=_cohort, action=name)

    ledger = commands.add_parser("ledger", help="report the privacy budget that this site's patients have spent")
    _takes_site(ledger)
    ledger.set_defaults(command=_ledger)
    return parser


def _takes_site(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("site", type=Path, metavar="site.yaml", help="settings of the site")


def _digest(text: str) -> str:
    if not re.fullmatch(r"[0-9a-fA-F]{16,64}", text):
        raise ConfigError(
            f"--digest is {text!r}; expected 16 to 64 hexadecimal digits, as `flower-client runs` shows them"
        )
    return text.lower()


def _keygen(options: argparse.Namespace) -> ExitCode:
    keys = SiteKeys(options.folder)
    fingerprint = keys.generate()
    print(f"{keys.private}: the private key. It never leaves this machine; give it to no one, the coordinator included")
    print(f"{keys.public}: send this file to the coordinator, and compare this fingerprint by telephone:")
    print(f"  {fingerprint}")
    print(f"{keys.secret}: shared by this site's connector and executor only")
    return ExitCode.DONE


def _run(options: argparse.Namespace) -> ExitCode:
    config = load_site_config(options.site)
    state = None if options.part == "connect" else _state(config)
    try:
        open_logs(options.log_format, state)
    except OSError as error:
        raise ConfigError(f"{state}: the private log cannot be written to this folder ({error.strerror})") from None
    from .approval.policy import describe_policy
    from .doctor.permissions import refuse_open_files
    from .service import run_connector, run_executor, run_together
    from .state_lock import only_client

    try:
        for warning in refuse_open_files(options.site, config):
            support_log.warning("%s", warning)
        if state is not None:
            describe_policy(config)  # before the lock, so that a missing `approve` is reported first
        with nullcontext() if state is None else only_client(state):
            if options.part == "connect":
                run_connector(config, _host_and_port(options.runtime))
            elif options.part == "train":
                run_executor(config, _host_and_port(options.runtime), options.site)
            else:
                run_together(config, options.site)
    except DataError as error:
        support_log.error(
            "the data could not be read; run `flower-client doctor` to see the reason on this site's screen"
        )
        _private(error)
        return ExitCode.MISTAKE
    except ConfigError as error:
        support_log.error("%s", error)
        return ExitCode.MISTAKE
    except OSError as error:  # its text may contain the name of a data file
        support_log.error(
            "stopped by a system error (%s); state/site.log names the file", error.strerror or type(error).__name__
        )
        _private(error)
        return ExitCode.MISTAKE
    except TamperedLogError as error:
        support_log.error(
            "a log of this site was edited or truncated; nothing leaves. Run `flower-client egress` to see where"
        )
        _private(error)
        return ExitCode.TAMPERED
    return ExitCode.DONE


def _doctor(options: argparse.Namespace) -> ExitCode:
    from client.doctor.command import run_doctor

    healthy = run_doctor(options.site, options.part, as_json=options.json, html=options.html)
    return ExitCode.DONE if healthy else ExitCode.PROBLEM


def _runs(options: argparse.Namespace) -> ExitCode:
    from .approval.commands import show_runs

    config = load_site_config(options.site)
    for line in show_runs(config, _state(config, existing=True), options.run):
        print(line)
    return ExitCode.DONE


def _decide(options: argparse.Namespace) -> ExitCode:
    from .approval.commands import decide_run

    config = load_site_config(options.site)
    state = _state(config, existing=True)
    digest = None if options.digest is None else _digest(options.digest)
    decided = decide_run(config, state, options.site, options.run, options.verdict, digest=digest, sure=options.yes)
    for line in decided:
        print(line, flush=True)
    return ExitCode.DONE


def _predict(options: argparse.Namespace) -> ExitCode:
    from .predict import predict_patients

    config = load_site_config(options.site)
    output = options.output
    if output is None:
        stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
        output = _state(config) / "predictions" / f"{options.model.resolve().name}-{stamp}"
    lines = predict_patients(
        config, options.model, output, attention=options.attention, accept_scale=options.accept_scale
    )
    for line in lines:
        print(line)
    print(f"predictions: {output / 'predictions.csv'}")
    if options.attention:
        print(f"attention: {output / 'attention'}")
    return ExitCode.DONE


def _egress(options: argparse.Namespace) -> ExitCode:
    from memamba_core.privacy.egress import EgressLog

    from .egress_listing import egress_listing

    log = EgressLog(_state(load_site_config(options.site), existing=True))
    records = log.read()
    for line in egress_listing(records, shutil.get_terminal_size().columns if sys.stdout.isatty() else None):
        print(line)
    total = sum(record.num_bytes for record in records)
    print(f"{len(records)} answers, {total:,d} bytes in total; the log is complete: {log.path}")
    return ExitCode.DONE


def _cohort(options: argparse.Namespace) -> ExitCode:
    from .cohort_command import refreeze_cohort, show_cohort, withdraw_patients

    config = load_site_config(options.site)
    if options.action == "show":
        lines = show_cohort(config)
    elif options.action == "withdraw":
        lines = withdraw_patients(config, options.case_ids, confirmed=options.yes)
    else:
        lines = refreeze_cohort(config, options.reason, confirmed=options.yes)
    print("\n".join(lines))
    return ExitCode.DONE


def _ledger(options: argparse.Namespace) -> ExitCode:
    from .private_round import ledger_folder
    from .spending import spending_report

    config = load_site_config(options.site)
    for line in spending_report(ledger_folder(_state(config, existing=True)), config.name, config.privacy):
        print(line)
    return ExitCode.DONE


def _state(config: SiteConfig, *, existing: bool = False) -> Path:
    """Return the site's state folder; create it unless it must be an `existing` one.

    Raises:
        ConfigError: `site.yaml` names no state folder, or the folder is absent or cannot be written.
    """
    if config.state is None:
        raise ConfigError("site.yaml names no state folder, the one writable folder; add `state: state`")
    if existing:
        if not config.state.is_dir():
            raise ConfigError(
                f"{config.state}: no such folder. No run has taken place yet, or site.yaml names another state folder"
            )
        return config.state
    try:
        config.state.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{config.state}: the state folder cannot be created ({error.strerror})") from None
    if not os.access(config.state, os.W_OK | os.X_OK):
        raise ConfigError(f"{config.state}: the state folder cannot be written by user {os.getuid()}; change its owner")
    return config.state


def _host_and_port(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if not colon or not host or not port.isdigit() or not 1 <= int(port) <= 65535:
        raise ConfigError(f"--runtime is {text!r}; expected HOST:PORT, for example {_RUNTIME_DEFAULT}")
    return host.strip("[]"), int(port)


def _private(error: Exception) -> None:
    """Log the full reason to the private log, which stays at the site."""
    logging.getLogger(__name__).error("%s", error)
