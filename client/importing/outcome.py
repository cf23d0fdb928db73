"""Result of an import: tables to write, settings with the evidence for them, and questions that are left."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Imported", "Question", "Section"]


@dataclass(frozen=True)
class Question:
    """Question that the files do not answer.

    Attributes:
        setting: dotted setting of site.yaml that the answer changes, or a section of it; '' for none.
        text: what is open, the evidence, and what to do; sentences with full stops.
    """

    setting: str
    text: str


@dataclass
class Section:
    """Section of `data` in site.yaml.

    Attributes:
        settings: name -> value.
        evidence: name -> why it has this value; a comment in the draft.
    """

    settings: dict[str, Any]
    evidence: dict[str, str] = field(default_factory=dict)


@dataclass
class Imported:
    """Findings of an import. Texts hold names of files and columns, counts and quantiles, and nothing of one patient.

    Attributes:
        sections: name below `data` -> its settings.
        root: folder of the files that the settings name; None for the folder that the import writes.
        tables: name of a file to write -> its rows.
        found: lines for the screen and the head of the draft.
        questions: what is left to answer.
    """

    sections: dict[str, Section]
    root: Path | None = None
    tables: dict[str, "pd.DataFrame"] = field(default_factory=dict)
    found: list[str] = field(default_factory=list)
    questions: list[Question] = field(default_factory=list)

    def ask(self, setting: str, text: str) -> None:
        """Add a question."""
        self.questions.append(Question(setting, text))
