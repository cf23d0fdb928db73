"""`flower-client doctor`: findings on the screen as they arrive, as JSON, and as a page."""

from collections.abc import Iterator
from pathlib import Path

from memamba_core.config.site import load_site_config
from memamba_core.errors import ConfigError, MemambaError

from .finding import Finding
from .page import write_page
from .record import DoctorReport
from .redaction import Redaction
from .report import Part, examine, print_report

__all__ = ["run_doctor"]


def run_doctor(site_yaml: Path, part: Part | None, *, as_json: bool, html: Path | None) -> bool:
    """Check a site and report.

    Args:
        site_yaml: settings of the site.
        part: data or network only; None for both.
        as_json: print a `DoctorReport` when all checks are done, in place of the findings one by one.
        html: file of the page; None writes none.

    Returns:
        True if no finding is an error.

    Raises:
        ConfigError: the page cannot be written to this place.
    """
    if html is not None and (html.is_dir() or not html.absolute().parent.is_dir()):
        raise ConfigError(f"--html {html}: expected a file in a folder that exists")
    findings: list[Finding] = []

    def keep() -> Iterator[Finding]:
        for finding in examine(site_yaml, part):
            findings.append(finding)
            yield finding

    if as_json:
        findings += examine(site_yaml, part)
    else:
        ready = print_report(keep())
        if html is None:
            return ready
    name, redaction = None, Redaction()
    try:
        config = load_site_config(site_yaml)
    except MemambaError:  # a finding says why; no table was read
        pass
    else:
        name, redaction = config.name, Redaction.of_site(config)
    report = DoctorReport.of(findings, name, part, redaction)
    if html is not None:
        write_page(report, html)
    if as_json:
        print(report.model_dump_json(indent=1))
    return report.ready
