"""Write the reference pages that are made from the code: `python docs/generator [--check]`, a part of `make docs`.

The pages are committed, so that they can be read without building the site; `tests/docs/test_reference.py` compares
them with the code. `--check` writes nothing and names the pages that differ.
"""

import argparse
import sys
from pathlib import Path

from reference_api import render_api
from reference_commands import render_commands
from reference_errors import render_errors
from reference_schemas import render_schemas
from reference_settings import render_coordinator_yaml, render_settings, render_site_yaml

REFERENCE = Path(__file__).resolve().parents[1] / "reference"


def render_pages() -> dict[str, str]:
    """Render every generated page: its path below docs/reference, and its text."""
    return {
        "settings.md": render_settings(),
        "site_yaml.md": render_site_yaml(),
        "coordinator_yaml.md": render_coordinator_yaml(),
        "commands.md": render_commands(),
        "errors.md": render_errors(),
        "schemas.md": render_schemas(REFERENCE / "schemas"),
        **render_api(),
    }


def find_stale_pages() -> list[str]:
    """Return the paths of committed pages that differ from the code."""
    return [
        name
        for name, text in render_pages().items()
        if not (REFERENCE / name).is_file() or (REFERENCE / name).read_text(encoding="utf-8") != text
    ]


def main() -> int:
    """Write the pages, or compare them; return 1 if a compared page differs."""
    parser = argparse.ArgumentParser(description="Write the reference pages that are made from the code.")
    parser.add_argument("--check", action="store_true", help="compare the committed pages and write nothing")
    if parser.parse_args().check:
        stale = find_stale_pages()
        for name in stale:
            print(f"docs/reference/{name} differs from the code; run `make reference`", file=sys.stderr)
        return bool(stale)
    for name, text in render_pages().items():
        (REFERENCE / name).parent.mkdir(exist_ok=True)
        (REFERENCE / name).write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
