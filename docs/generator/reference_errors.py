"""Reference of errors and refusals, from `memamba_core.errors` and `memamba_core.wire.protocol`."""

import inspect

from page_text import GENERATED, first_paragraph, prose, table

from memamba_core import errors
from memamba_core.wire.protocol import Refusal


def render_errors() -> str:
    """Render the exception tree and the refusals of a site."""
    tree = inspect.getdoc(errors) or ""
    drawing = tree.partition("::\n\n")[2].split("\n\n")[0]
    classes = [getattr(errors, name) for name in errors.__all__]
    return (
        f"{GENERATED}# Errors and refusals\n\n"
        "## Errors\n\n"
        "An error that a person can fix derives from `MemambaError`; commands print its sentence and end with an "
        "[exit code](commands.md). An error's text stays on the machine where the error happened.\n\n"
        f"```text\n{inspect.cleandoc(drawing)}\n```\n\n"
        f"{table(('error', 'meaning'), ((f'`{cls.__name__}`', first_paragraph(cls.__doc__)) for cls in classes))}"
        "## Refusals\n\n"
        "A site that gives no result answers with one of these fixed texts. The detailed reason stays in the site's "
        "own log.\n\n"
        f"{table(('code', 'text'), ((str(refusal.code), prose(_text(refusal))) for refusal in Refusal))}"
    ).rstrip() + "\n"


def _text(refusal: Refusal) -> str:
    """Return the text of a refusal; the version's own numbers are left open, as they change with each release."""
    if refusal is Refusal.VERSION:
        return "the site runs version VERSION of this software, protocol NUMBER"
    return refusal.text
