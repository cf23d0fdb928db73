"""Every `flower-simulate` of the pages is understood: its settings are composed."""

import re
import shlex

import pytest
from fixtures.pages import PAGES, commands_of

from memamba_core.config.compose import compose_audit, compose_simulation

OWN_FOLDER = "--config-dir"  # a folder of the reader's own


def commands():
    """The `flower-simulate` of every page, in consoles and in sentences; a choice is its first."""
    shown = {command for page in PAGES for command in commands_of(page) if command.startswith("flower-simulate ")}
    shown = {command for command in shown if "=FILE" not in command}  # any file of a group
    return sorted({re.sub(r"\|[a-z|]+", "", command) for command in shown if OWN_FOLDER not in command})


@pytest.mark.parametrize("command", commands())
def test_a_command_of_the_pages_is_understood(command, monkeypatch):
    monkeypatch.setenv("MEMAMBA_DATA", "data")
    settings = [word for word in shlex.split(command) if "=" in word]
    if "--multirun" in command:
        settings = [word if "[" in word else word.partition(",")[0] for word in settings]
    if not any(word.startswith("resume=") for word in settings):
        (compose_audit if shlex.split(command)[1] == "audit" else compose_simulation)(settings)
