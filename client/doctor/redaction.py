"""Take the names of patients, slides and feature files out of texts that leave the site's screen.

Findings may name slides and feature files, because the person at the site has to find them. A report that is sent to
somebody else holds counts only.
"""

import os
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from unicodedata import normalize

from memamba_core.config.site import SiteConfig
from memamba_core.data.clinical.table import read_clinical
from memamba_core.errors import MemambaError

__all__ = ["Redaction"]

_MARK = "[name]"
_REMARK = " (the site's screen names them)"
_LISTED = re.compile(r": ([^,;:]+(?:, [^,;:]+)*)(?=$|[;:])")
_QUOTED = re.compile(r"'([^']*)'")
_OF_LAYOUT = re.compile(r"(slide_)?features_|patches$|h5_files$|pt_files$")
_AMBIGUOUS = re.compile(r"\d{1,5}|[a-z]+")


@dataclass(frozen=True)
class Redaction:
    """Names that no text of a report may hold.

    Attributes:
        names: case ids, slides and feature files, longest first, which are left out wherever they stand.
        ambiguous: numbers of up to five digits and words of small letters: as names they are left out in lists and
            between quotation marks only, because elsewhere they may be counts or words of a sentence.
        root: folder of the site's data, which is left out of paths.
    """

    names: tuple[str, ...] = ()
    ambiguous: frozenset[str] = frozenset()
    root: str = ""

    @classmethod
    def of_names(cls, names: Collection[str], root: str = "") -> "Redaction":
        """Build a redaction of these names, in any Unicode form, and of the folder of the data."""
        forms = {normalize(form, name) for name in names if name for form in ("NFC", "NFD")} | {*names} - {""}
        ambiguous = frozenset(name for name in forms if _AMBIGUOUS.fullmatch(name))
        return cls(tuple(sorted(forms - ambiguous, key=lambda name: (-len(name), name))), ambiguous, root)

    @classmethod
    def of_site(cls, config: SiteConfig) -> "Redaction":
        """Collect the names of a site's patients, slides and feature files, as far as its files can be read."""
        names = set(_feature_files(config))
        try:
            records = read_clinical(config.data.clinical, config.data.root)
        except (MemambaError, OSError):  # the findings say why; texts about such a table hold no cell
            records = []
        for record in records:
            names |= {record.case_id, *record.slides}
        return cls.of_names(names, str(config.data.root))

    def apply(self, text: str) -> str:
        """Return the text without the names and the folder of the data; a list of names becomes a remark."""
        if self.root:
            text = text.replace(f"{self.root}{os.sep}", "")
        for name in self.names:
            if name in text:
                text = re.sub(rf"(?<![^\W_]){re.escape(name)}(?![^\W_])", _MARK, text)
        text = _QUOTED.sub(lambda found: f"'{_MARK}'" if found[1] in self.ambiguous else found[0], text)
        return _LISTED.sub(self._shorten, text)

    def _shorten(self, found: re.Match[str]) -> str:
        listed = set(found[1].split(", ")) - {"..."}
        return _REMARK if listed and listed <= {_MARK, *self.ambiguous} else found[0]


def _feature_files(config: SiteConfig) -> Iterator[str]:
    """Yield the names of the files below the folder of features, with and without suffixes, and of slides' folders.

    STAMP keeps the folders of the slides, which may be named after patients, in the folder of an encoder.
    """
    if config.data.features is None:
        return
    top = config.data.root / config.data.features.path
    for folder, inner, files in os.walk(top):
        if Path(folder) != top:
            yield from (name for name in inner if not _OF_LAYOUT.match(name))
        for file in files:
            yield file
            stem, dot, _ = file.rpartition(".")
            yield stem if dot else file
