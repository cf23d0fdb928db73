"""Markdown of the generated pages: escaping, tables, links."""

import re
from collections.abc import Iterable, Sequence

GENERATED = "<!-- Generated from the code by `make reference`. Edit the docstrings, not this page. -->\n\n"
_PAGE = re.compile(r"docs/(explanation|how_to|reference|results|tutorials)/(\w+)\.md")


def prose(text: str) -> str:
    """Return a docstring as one line of Markdown: links to pages, and no HTML outside of code."""
    parts = re.split(r"(`[^`]*`)", " ".join(text.split()))
    return "".join(part if part.startswith("`") else _link_pages(part.replace("<", "&lt;")) for part in parts)


def cell(text: str) -> str:
    """Return a text that may stand in a table."""
    return text.replace("|", "\\|")


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table with a blank line behind it."""
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join(cell(text) for text in row) + " |" for row in rows]
    return "\n".join(lines) + "\n\n"


def first_paragraph(docstring: str | None) -> str:
    """Return the first paragraph of a docstring as one line."""
    return prose((docstring or "").strip().split("\n\n")[0])


def _link_pages(text: str) -> str:
    return _PAGE.sub(lambda found: f"[{found[2]}.md](../{found[1]}/{found[2]}.md)", text)
