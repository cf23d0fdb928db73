"""The hospital's page is true: its commands are understood, and what it says one reads is what the program writes."""

import ast
import re
import shlex
from pathlib import Path

import pytest

from client.cli import _parser
from memamba_core.config.guarded_settings import GUARDED
from memamba_core.wire.protocol import Refusal

REPOSITORY = Path(__file__).resolve().parents[2]
PAGES = [(REPOSITORY / "docs" / name).read_text(encoding="utf-8") for name in ("how_to/site.md", "reference/data.md")]
SITE = PAGES[0]


def commands():
    """Every command of the pages, in a console or in a sentence, that has an argument."""
    shown = [line.removeprefix("$ ") for page in PAGES for line in page.splitlines()]
    quoted = [text for page in PAGES for text in re.findall(r"`(flower-client [^`]+)`", page)]
    return sorted(c for c in {*shown, *quoted} if re.match(r"flower-client (keygen|.*site\.yaml)", c))


def texts():
    """Texts that the client can print: its strings, with `...` for what is filled in."""
    core = REPOSITORY / "memamba_core"
    predicting = (core / "inference.py", core / "data" / "genomics" / "expression_scale.py")
    for path in sorted([*(REPOSITORY / "client").rglob("*.py"), *predicting]):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value
            elif isinstance(node, ast.JoinedStr):
                yield "".join(str(p.value) if isinstance(p, ast.Constant) else "..." for p in node.values)


@pytest.mark.parametrize("command", commands())
def test_a_command_of_the_pages_is_understood(command):
    _parser().parse_args(shlex.split(command)[1:])


def test_the_troubles_are_those_that_the_program_tells():
    rows = re.findall(r"^\| `([^`]+)`", SITE[SITE.index("| what you read |") :], flags=re.MULTILINE)
    assert len(rows) >= 10
    said = "\n".join(texts())
    for row in rows:
        for part in re.split(r"\.\.\.|\(\d+:", row):
            words = part.strip(" ()")
            assert words in said, f"{row}: nothing in client/ says {words!r}"


def test_the_guarded_settings_are_those_of_the_program():
    section = SITE[SITE.index("## Guarded settings") :]
    lower, higher = section[: section.index("`training.loss.censored_bin`")].split("These may be higher")
    for text, relation in ((lower, "<="), (higher, ">=")):
        listed = set(re.findall(r"`([a-z_]+\.[a-z_.]+)`", text)) - {"limits.settings"}
        assert listed == {name for name, allowed in GUARDED.items() if allowed == relation}


def test_the_refusals_that_the_page_explains_exist():
    named = {int(code) for code in re.findall(r"\((1\d\d)[:)]", SITE)}
    assert named <= {refusal.code for refusal in Refusal}
    assert (len(Refusal), "seventeen fixed texts" in SITE) == (17, True)
