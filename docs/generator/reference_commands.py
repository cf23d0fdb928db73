"""Reference of the command lines, from the argument parsers and exit codes of the three commands."""

import argparse
import importlib
import signal
import sys
from collections.abc import Iterator
from unittest import mock

from page_text import GENERATED, prose, table

COMMANDS = {"flower-simulate": "simulation", "flower-server": "server", "flower-client": "client"}


class _ParserFound(Exception):  # noqa: N818  not an error: carries the parser out of a command that begins to parse
    def __init__(self, parser: argparse.ArgumentParser) -> None:
        super().__init__()
        self.parser = parser


def render_commands() -> str:
    """Render every command with its arguments and exit codes."""
    text = f"{GENERATED}# Commands\n\n`COMMAND --help` prints the same texts.\n\n"
    for command, package in COMMANDS.items():
        parser = find_parser(package)
        text += f"## {command}\n\n{prose(parser.description or '')}\n\n{_render_arguments(parser)}"
        for name, sub in subcommands(parser):
            text += f"### {command} {name}\n\n{prose(sub.description or '')}\n\n"
            text += f"```text\n{_usage(f'{command} {name}', sub)}\n```\n\n{_render_arguments(sub)}"
        text += f"### Exit codes of {command}\n\n"
        text += table(("code", "meaning"), ((str(code), prose(meaning)) for code, meaning in exit_codes(package)))
    return text.rstrip() + "\n"


def find_parser(package: str) -> argparse.ArgumentParser:
    """Return the argument parser of a command: start its `main` and stop where it begins to parse."""

    def stop(parser: argparse.ArgumentParser, *_arguments: object, **_named: object) -> None:
        raise _ParserFound(parser)

    main = importlib.import_module(f"{package}.cli").main
    with (
        mock.patch.object(argparse.ArgumentParser, "parse_known_args", stop),
        mock.patch.object(sys, "argv", [package, "--help"]),
        mock.patch.object(signal, "signal"),  # the handlers of a command are not for the process that reads its help
    ):
        try:
            main()
        except _ParserFound as found:
            return found.parser
    raise AssertionError(f"{package}.cli.main parses no arguments")


def subcommands(parser: argparse.ArgumentParser) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """Yield the commands below a command with their parsers."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            yield from action.choices.items()


def exit_codes(package: str) -> list[tuple[int, str]]:
    """Return the exit codes of a command with their meanings."""
    codes = importlib.import_module(f"{package}.exit_codes").ExitCode
    return [(code.value, code.meaning) for code in codes]


def _render_arguments(parser: argparse.ArgumentParser) -> str:
    rows = [
        (f"`{_synopsis(action)}`", prose(str(action.help or "") % {**vars(action), "prog": parser.prog}))
        for action in parser._actions
        if not isinstance(action, argparse._HelpAction | argparse._SubParsersAction)
    ]
    return table(("argument", "meaning"), rows) if rows else ""


def _usage(command: str, parser: argparse.ArgumentParser) -> str:
    """Return one line of usage, required options and positional arguments first."""
    words = [command]
    actions = [action for action in parser._actions if not isinstance(action, argparse._HelpAction)]
    for action in sorted(actions, key=lambda action: not (action.required or not action.option_strings)):
        optional = not action.required if action.option_strings else action.nargs in ("?", "*")
        words.append(f"[{_synopsis(action)}]" if optional else _synopsis(action))
    return " ".join(words)


def _synopsis(action: argparse.Action) -> str:
    value = action.metavar or ("|".join(map(str, action.choices)) if action.choices else action.dest.upper())
    assert isinstance(value, str)
    if action.nargs == "*":
        value += " ..."
    if not action.option_strings:
        return value
    return action.option_strings[-1] + ("" if action.nargs == 0 else f" {value}")
