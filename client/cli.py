"""`flower-client`: one hospital's side of a federation.

Torch and Flower are imported after the command is understood, so that `--help` and a mistake answer at once.
"""

import argparse
import logging
import os
import shutil
import sys
import textwrap
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from memamba_core.config.site import SiteConfig, load_site_config
from memamba_core.errors import ConfigError, DataError, MemambaError, TamperedLogError

from .exit_codes import ExitCode
from .keys import SiteKeys
from .logs import open_logs, support_log

if TYPE_CHECKING:
    from memamba_core.privacy.egress import EgressRecord

__all__ = ["main"]

_RUNTIME_VARIABLE = "MEMAMBA_RUNTIME"
_RUNTIME_DEFAULT = "127.0.0.1:9094"
_INDENT = "    "


def main(arguments: list[str] | None = None) -> None:
    """Entry point."""
    options = _parser().parse_args(arguments)
    try:
        code: ExitCode = options.command(options)
    except TamperedLogError as error:
        print(f"error: {error}", file=sys.stderr)
        code = ExitCode.TAMPERED
    except (MemambaError, OSError) as error:  # the second: a file or folder that cannot be read or written
        print(f"error: {error}", file=sys.stderr)
        code = ExitCode.MISTAKE
    except KeyboardInterrupt:
        code = ExitCode.INTERRUPTED
    sys.exit(code)


def _parser() -> argparse.ArgumentParser:
    meanings = "\n".join(f"  {code.value:3d}  {code.meaning}" for code in ExitCode)
    parser = argparse.ArgumentParser(
        prog="flower-client",
        description="One hospital's side of a federation. docs/site.md describes the way from a kit to a run.",
        epilog=f"exit codes:\n{meanings}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    keygen = commands.add_parser("keygen", help="make the site's keys; node.pub is for the coordinator")
    keygen.add_argument("folder", type=Path, nargs="?", default=Path("keys"), metavar="FOLDER", help="default: keys")
    keygen.set_defaults(command=_keygen)

    doctor = commands.add_parser("doctor", help="look at data, machine, network and key before anything runs")
    _takes_site(doctor)
    doctor.add_argument("--part", choices=("data", "network"), help="one half alone; without it both")
    doctor.set_defaults(command=_doctor)

    run = commands.add_parser("run", help="take part in the coordinator's runs, until stopped")
    _takes_site(run)
    run.add_argument(
        "--part",
        choices=("link", "train"),
        help="link: the connection alone (keys, a way out, no data); train: the work alone (data, no way out); without "
        "it both in one",
    )
    run.add_argument(
        "--runtime",
        default=os.environ.get(_RUNTIME_VARIABLE, _RUNTIME_DEFAULT),
        metavar="HOST:PORT",
        help="between the two parts: where link listens and train asks "
        f"(default: ${_RUNTIME_VARIABLE}, or {_RUNTIME_DEFAULT})",
    )
    run.add_argument("--log-format", choices=("text", "json"), default="text", help="of the log on standard error")
    run.set_defaults(command=_run)

    predict = commands.add_parser(
        "predict",
        help="risk and survival of this site's patients by a trained model; nothing leaves",
        description="Risk and survival of this site's patients by a trained model, into a new folder on this machine. "
        "For research: no medical device. docs/site.md says what the files hold.",
    )
    _takes_site(predict)
    predict.add_argument(
        "--model",
        type=Path,
        required=True,
        metavar="FOLDER",
        help="with model.safetensors and model.json: state/runs/RUN, or the folder of a simulation",
    )
    predict.add_argument(
        "--output",
        type=Path,
        metavar="FOLDER",
        help="a new folder for predictions.csv (default: state/predictions/MODEL-TIME)",
    )
    predict.add_argument(
        "--attention",
        action="store_true",
        help="write the attention to each patch, too, for heat maps: PATIENT.h5 each",
    )
    predict.set_defaults(command=_predict)

    egress = commands.add_parser("egress", help="what left this hospital, after verifying the log")
    _takes_site(egress)
    egress.set_defaults(command=_egress)

    ledger = commands.add_parser("ledger", help="what privacy this site's patients have spent")
    _takes_site(ledger)
    ledger.set_defaults(command=_ledger)
    return parser


def _takes_site(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("site", type=Path, metavar="site.yaml")


def _keygen(options: argparse.Namespace) -> ExitCode:
    keys = SiteKeys(options.folder)
    fingerprint = keys.generate()
    print(f"{keys.private}: the private key. It never leaves this machine; nobody may ask for it")
    print(f"{keys.public}: send this file to the coordinator, and read them this fingerprint by telephone:")
    print(f"  {fingerprint}")
    print(f"{keys.secret}: between the two programs of this site, for nobody else")
    return ExitCode.DONE


def _run(options: argparse.Namespace) -> ExitCode:
    config = load_site_config(options.site)
    runtime = _host_and_port(options.runtime)
    link_alone = options.part == "link"
    state = None if link_alone else _state(config)
    try:
        open_logs(options.log_format, state)
    except OSError as error:
        raise ConfigError(f"{state}: the private log cannot be written there ({error.strerror})") from None
    from .service import run_connection, run_together, run_train

    try:
        if link_alone:
            run_connection(config, runtime)
        elif options.part == "train":
            run_train(config, runtime)
        else:
            run_together(config)
    except DataError as error:
        support_log.error("the data could not be read; `flower-client doctor` on this site's screen says why")
        _private(error)
        return ExitCode.MISTAKE
    except ConfigError as error:
        support_log.error("%s", error)
        return ExitCode.MISTAKE
    except OSError as error:  # its text may name a file of data
        support_log.error(
            "stopped by the system (%s); state/site.log says at what", error.strerror or type(error).__name__
        )
        _private(error)
        return ExitCode.MISTAKE
    except TamperedLogError as error:
        support_log.error("a log of this site is not as it left it; nothing leaves. `flower-client egress` says where")
        _private(error)
        return ExitCode.TAMPERED
    return ExitCode.DONE


def _doctor(options: argparse.Namespace) -> ExitCode:
    from client.doctor.report import examine, print_report

    healthy = print_report(examine(options.site, options.part))
    return ExitCode.DONE if healthy else ExitCode.PROBLEM


def _predict(options: argparse.Namespace) -> ExitCode:
    from .predict import predict_patients

    config = load_site_config(options.site)
    output = options.output
    if output is None:
        stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
        output = _state(config) / "predictions" / f"{options.model.resolve().name}-{stamp}"
    for line in predict_patients(config, options.model, output, attention=options.attention):
        print(line)
    print(f"predictions: {output / 'predictions.csv'}")
    if options.attention:
        print(f"attention: {output / 'attention'}")
    return ExitCode.DONE


def _egress(options: argparse.Namespace) -> ExitCode:
    from memamba_core.privacy.egress import EgressLog

    log = EgressLog(_state(load_site_config(options.site), existing=True))
    egress_records = log.read()
    for line in _record_lines(egress_records, shutil.get_terminal_size().columns if sys.stdout.isatty() else None):
        print(line)
    total = sum(one.num_bytes for one in egress_records)
    print(f"{len(egress_records)} answers, {total:,d} bytes in all; the log is whole: {log.path}")
    return ExitCode.DONE


def _record_lines(egress_records: "Sequence[EgressRecord]", columns: int | None) -> Iterator[str]:
    """A line for each answer; on a terminal of so many columns, what was in it stands below, broken between words."""
    width = max((len(one.run_id) for one in egress_records), default=3)
    heading = f"{'time (UTC)':19}  {'phase':10} {'round':>5}  {'bytes':>12}  {'sha256':12}  {'run':{width}}"
    yield heading if columns else f"{heading}  what"
    for one in egress_records:
        where = f"{one.phase:10} {one.server_round or '':>5}"
        what = one.text or f"{one.kind}: {', '.join(one.fields)}"
        line = f"{one.time[:19]}  {where}  {one.num_bytes:12,d}  {one.sha256[:12]}  {one.run_id:{width}}"
        if columns is None:
            yield f"{line}  {what}"
        else:
            yield line
            yield from textwrap.wrap(
                what, columns, initial_indent=_INDENT, subsequent_indent=_INDENT, break_on_hyphens=False
            )


def _ledger(options: argparse.Namespace) -> ExitCode:
    from .private_round import ledger_folder
    from .spending import spending_report

    config = load_site_config(options.site)
    for line in spending_report(ledger_folder(_state(config, existing=True)), config.name, config.privacy):
        print(line)
    return ExitCode.DONE


def _state(config: SiteConfig, *, existing: bool = False) -> Path:
    """The site's state folder, made if need be.

    Raises:
        ConfigError: there is none in `site.yaml`, or it cannot be written.
    """
    if config.state is None:
        raise ConfigError("site.yaml names no state, the one writable folder; add `state: state`")
    if existing:
        if not config.state.is_dir():
            raise ConfigError(f"{config.state}: no such folder. Nothing has run here yet, or site.yaml names another")
        return config.state
    try:
        config.state.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{config.state}: the state folder cannot be made ({error.strerror})") from None
    if not os.access(config.state, os.W_OK | os.X_OK):
        raise ConfigError(f"{config.state}: the state folder cannot be written by user {os.getuid()}; change its owner")
    return config.state


def _host_and_port(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if not colon or not host or not port.isdigit() or not 1 <= int(port) <= 65535:
        raise ConfigError(f"--runtime {text!r}: wanted HOST:PORT, for example {_RUNTIME_DEFAULT}")
    return host.strip("[]"), int(port)


def _private(error: Exception) -> None:
    """The reason in full, to the log that stays."""
    logging.getLogger(__name__).error("%s", error)
