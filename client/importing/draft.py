"""Write the draft of a site.yaml: settings, with the evidence and the open questions as comments above them."""

import json
import textwrap
from collections.abc import Iterator
from typing import Any

from client.importing.outcome import Imported

__all__ = ["render_draft"]

_WIDTH = 110
_HEAD = (
    "Draft, written by `flower-client import {format}`. Answer each QUESTION, correct the settings, and check the "
    "result with `flower-client doctor site.yaml --part data`. At a site with a kit, move the section `data` "
    "into the kit's site.yaml."
)


def render_draft(imported: Imported, format_name: str) -> str:
    """Return the text of a site.yaml that can be loaded, with a comment for each finding and question."""
    lines = [*_comment(_HEAD.format(format=format_name)), "#"]
    lines += [line for text in imported.found for line in _comment(f"* {text}", hang=2)]
    lines += [line for asked in imported.questions if not asked.setting for line in _ask(asked.text)]
    lines += ["", *_ask("name this site as the coordinator enrolled it."), "name: my-site", "data:"]
    lines += _questions(imported, "root", "  ")
    lines.append(f"  root: {_scalar('.' if imported.root is None else str(imported.root))}")
    for name, section in imported.sections.items():
        lines += _questions(imported, name, "  ")
        lines.append(f"  {name}:")
        for setting, value in section.settings.items():
            if setting in section.evidence:
                lines += _comment(section.evidence[setting], "    ")
            lines += _questions(imported, f"{name}.{setting}", "    ")
            lines.append(f"    {setting}: {_scalar(value)}")
    lines.append("state: state")
    return "\n".join(lines) + "\n"


def _scalar(value: Any) -> str:
    """Return a value as JSON, which YAML reads as the same value whatever signs it holds."""
    return json.dumps(value, ensure_ascii=False)


def _questions(imported: Imported, setting: str, indent: str) -> Iterator[str]:
    for asked in imported.questions:
        if asked.setting == setting:
            yield from _ask(asked.text, indent)


def _ask(text: str, indent: str = "") -> list[str]:
    return _comment(f"QUESTION: {text}", indent, hang=2)


def _comment(text: str, indent: str = "", hang: int = 0) -> list[str]:
    first = f"{indent}# "
    # Line ends in the name of a column would end the comment.
    return textwrap.wrap(
        " ".join(text.split()),
        _WIDTH,
        initial_indent=first,
        subsequent_indent=first + " " * hang,
        break_long_words=False,
        break_on_hyphens=False,
    )
