"""docs/how_to/coordinator.md is held to the code: its settings exist, and every command is shown."""

import re

import pytest
from fixtures.pages import REPOSITORY

from memamba_core.config.coordinator import RunSettings
from server.cli import _parser


@pytest.fixture(scope="module")
def page():
    return (REPOSITORY / "docs" / "how_to" / "coordinator.md").read_text(encoding="utf-8")


def test_every_setting_of_a_run_is_shown_in_use(page):
    table = page[page.index("| setting | use |") :].split("\n\n")[0]
    assert set(re.findall(r"`([a-z_]+)=", table)) - {"agreement.gene_groups"} == set(RunSettings.model_fields)


def test_every_command_exists_and_is_shown(page):
    shown = set(re.findall(r"flower-server ([a-z]+)", page))
    (commands,) = [action.choices for action in _parser()._actions if action.choices]
    assert shown == set(commands)
