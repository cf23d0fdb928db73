"""docs/how_to/coordinator.md is held to the code: its tables of settings, exit codes and commands are complete."""

import re

import pytest

from memamba_core.config.coordinator import RunSettings
from server.cli import _parser
from server.exit_codes import ExitCode


@pytest.fixture(scope="module")
def page(repository):
    return (repository / "docs" / "how_to" / "coordinator.md").read_text(encoding="utf-8")


def rows(page, head):
    table = page[page.index(head) :].split("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in table]


def test_every_setting_of_a_run_is_there_with_its_default(page):
    told = {row[0].strip("`"): row[1] for row in rows(page, "| setting | default |")}
    assert set(told) == set(RunSettings.model_fields)
    for name, field in RunSettings.model_fields.items():
        if field.default is not None:
            assert float(told[name]) == field.default


def test_exit_codes(page):
    assert [(int(code), meaning) for code, meaning in rows(page, "| exit code |")] == [
        (code.value, code.meaning) for code in ExitCode
    ]


def test_every_command_exists_and_is_shown(page):
    shown = set(re.findall(r"flower-server ([a-z]+)", page))
    (commands,) = [action.choices for action in _parser()._actions if action.choices]
    assert shown == set(commands)
