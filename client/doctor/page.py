"""Page of a check of a site that can be sent to a data manager: one HTML file without external resources."""

from importlib.resources import files
from pathlib import Path

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup, escape

from memamba_core.io.atomic import write_atomically

from .record import DoctorReport

__all__ = ["render_page", "write_page"]

_SECTIONS = (
    ("error", "Errors", "The site cannot take part until these are fixed. Row 1 is the first below the header."),
    ("warning", "Doubts", "The site can take part. These may be mistakes: look at each before the first run."),
)
_PARTS = {"data": "data and machine", "network": "network and keys", None: "data, machine, network and keys"}


def render_page(report: DoctorReport) -> str:
    """Render the page of a report. Every text is escaped, and control characters are replaced."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, keep_trailing_newline=True)
    environment.filters |= {"visible": _visible, "prose": _prose}
    template = environment.from_string(files(__package__).joinpath("templates/report.html.jinja").read_text("utf-8"))
    level = "error" if report.num_errors else "warning" if report.num_warnings else "ok"
    return template.render(
        report=report, sections=_SECTIONS, parts=_PARTS[report.part], verdict=_verdict(report), verdict_level=level
    )


def write_page(report: DoctorReport, path: Path) -> None:
    """Write the page of a report, whole or not at all; an earlier page of this name is replaced."""
    with write_atomically(path) as partial:
        partial.write_text(render_page(report), encoding="utf-8")


def _verdict(report: DoctorReport) -> str:
    doubts = f"{report.num_warnings} {'doubt' if report.num_warnings == 1 else 'doubts'}"
    if report.num_errors:
        errors = f"{report.num_errors} {'error' if report.num_errors == 1 else 'errors'}"
        return f"Not ready: {errors} to fix" + (f", {doubts} to look at" if report.num_warnings else "")
    return f"Ready to run; {doubts} to look at" if report.num_warnings else "Ready to run; nothing to look at"


def _visible(text: str) -> str:
    """Replace characters that are not printable: control characters, and those that turn the direction of a line."""
    return "".join(character if character.isprintable() else "\ufffd" for character in text)


def _prose(text: str) -> Markup:
    """Return a sentence with the parts between backticks as code."""
    parts = _visible(text).split("`")
    if len(parts) % 2 == 0:  # an unpaired backtick is a character of a name
        return escape("`".join(parts))
    return Markup("").join(
        Markup("<code>{}</code>").format(part) if index % 2 else escape(part) for index, part in enumerate(parts)
    )
