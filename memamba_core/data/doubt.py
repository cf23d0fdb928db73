"""Doubts: what a site's files hold that is no error and may still be a mistake."""

from dataclasses import dataclass

__all__ = ["Doubt"]


@dataclass(frozen=True)
class Doubt:
    """One suspicion about the files of a site, with its evidence.

    A doubt is for the people of the site. It names files, columns and counts, and neither a patient nor a value of one.
    It never leaves the site and changes no answer.

    Attributes:
        check: what was compared, one or two words; the same for every cohort (`follow-up`, `identifiers`).
        text: what was found, with the numbers that raise the doubt; a sentence without full stop.
        remedy: what to look at, and what to do if the doubt is right; a sentence without full stop.
        files: names of the feature files concerned. They may hold a patient's identifier: only the doctor's screen at
            the site shows them, and no log.
    """

    check: str
    text: str
    remedy: str
    files: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.text}; {self.remedy}"
