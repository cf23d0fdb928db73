"""Record of a check of a site, without names of patients and slides: for other programs and for people elsewhere."""

from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Literal

from memamba_core.io.json_model import JsonModel
from memamba_core.wire.protocol import package_version

from .finding import Finding, Level
from .redaction import Redaction

__all__ = ["DoctorFinding", "DoctorReport"]


class DoctorFinding(JsonModel):
    """One finding of the doctor."""

    level: Literal["error", "warning", "ok"]
    """`error`: the site cannot take part until this is fixed; `warning`: a doubt to look at; `ok`: in order."""
    check: str
    """Name of the check, one or two words."""
    text: str
    """Result of the check, without names of patients and slides."""
    remedy: str
    """Action that resolves the finding; empty where none is needed."""
    count: int
    """Findings of this text: more than 1 where only the left-out names differ."""


class DoctorReport(JsonModel):
    """Findings of `flower-client doctor --json` and of its page: errors first, then warnings, then the rest."""

    site: str | None
    """Name of the site; null where `site.yaml` could not be read."""
    time: str
    """Time of the check, ISO 8601, UTC."""
    package: str
    """Version of this software."""
    part: Literal["data", "network"] | None
    """Part that was checked; null for both."""
    ready: bool
    """True if the site can take part: no finding is an error."""
    num_errors: int
    """Findings that are errors."""
    num_warnings: int
    """Findings that are warnings."""
    findings: tuple[DoctorFinding, ...]
    """All findings, by level; within a level in the order of the checks. Those of one text are one."""

    @classmethod
    def of(
        cls,
        findings: Iterable[Finding],
        site: str | None,
        part: Literal["data", "network"] | None,
        redaction: Redaction,
    ) -> "DoctorReport":
        """Build the report of finished checks.

        Args:
            findings: in the order of the checks.
            site: name of the site.
            part: part that was checked.
            redaction: takes names of patients and slides out of the texts.
        """
        order = (Level.ERROR, Level.WARNING, Level.OK)
        ranked = sorted(findings, key=lambda finding: order.index(finding.level))
        texts = Counter((f.level, f.check, redaction.apply(f.text), redaction.apply(f.remedy)) for f in ranked)
        counts = {level: sum(finding.level is level for finding in ranked) for level in order}
        return cls(
            site=site,
            time=datetime.now(UTC).isoformat(timespec="seconds"),
            package=package_version(),
            part=part,
            ready=not counts[Level.ERROR],
            num_errors=counts[Level.ERROR],
            num_warnings=counts[Level.WARNING],
            findings=tuple(
                DoctorFinding(level=level.value, check=check, text=text, remedy=remedy, count=count)
                for (level, check, text, remedy), count in texts.items()
            ),
        )

    def select(self, level: Literal["error", "warning", "ok"]) -> tuple[DoctorFinding, ...]:
        """Return the findings of a level."""
        return tuple(finding for finding in self.findings if finding.level == level)
