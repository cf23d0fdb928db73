"""Roles of clinical columns by their names, in English, German and French."""

import re
import unicodedata
from dataclasses import dataclass
from typing import Literal

__all__ = ["EventName", "TimeName", "fold_name", "match_case_id", "match_event", "match_slides", "match_time"]

_CASE_IDS = (
    *("case_id", "case_submitter_id", "bcr_patient_barcode", "patient_id", "patientid", "patient", "pat_id", "patid"),
    *("subject_id", "subject", "cases_submitter_id", "submitter_id", "id_patient", "patienten_id", "patientennummer"),
    *("patienten_nr", "patient_nr", "pat_nr", "fallnummer", "fall_nr", "pseudonym", "numero_patient", "no_patient"),
    *("ipp", "nip", "record_id", "sample_id", "sample", "pid", "id"),
)
_SLIDES = (
    *("slide_id", "slide_ids", "slides", "slide", "slide_name", "filename", "file_name", "image_id", "wsi", "wsi_id"),
    *("schnitt", "schnitte", "schnitt_id", "objekttraeger", "praeparat", "lame", "lames", "lame_id", "image"),
)
_TIME_WORDS = re.compile(
    r"survival|overall|follow_?up|fu|time|months?|days?|os|nachbeobachtung\w*|ueberleben\w*|beobachtung\w*|survie|suivi"
    r"|delai|duree"
)
_OUTCOME_WORDS = re.compile(
    r"event|status|dead|death|deceased|died|os|vital|verstorben|gestorben|tod|todesfall|ereignis|deces|decede|dcd"
    r"|evenement|statut"
)
_CENSORED_WORDS = re.compile(r"censor\w*|zensier\w*|zensur\w*|censure\w*")
_MONTHS = re.compile(r"months?|mon|mo|monate?n?|mois")
_DAYS = re.compile(r"days?|tagen?|jours?")
_YEARS = re.compile(r"years?|yrs?|jahren?|ans|annees?")
_ENDPOINTS = ("os", "dss", "pfi", "pfs", "dfi", "dfs", "rfs", "dmfs", "efs", "ttp")
_NO_OUTCOME = re.compile(
    r"age|alter|birth|geburt\w*|naissance|diagnos\w*|date|datum|treatment|therap\w*|radiation|year|stage|smok\w*|cause"
    r"|tumor|primary|margin|receptor|her2|er|pr|menopause"
)
"""Words of columns that are no follow-up and no event, whatever else their names say."""


@dataclass(frozen=True)
class TimeName:
    """Name of a column of times.

    Attributes:
        unit: unit in the name; None if it has none.
        endpoint: `os`, `pfs`, ...; None if the name has none.
    """

    unit: Literal["months", "days", "years"] | None
    endpoint: str | None


@dataclass(frozen=True)
class EventName:
    """Name of a column of events.

    Attributes:
        means: meaning of a 1, by the name.
        endpoint: as in `TimeName`.
    """

    means: Literal["happened", "censored"]
    endpoint: str | None


def fold_name(name: str) -> str:
    """Return a name in lower case without accents, with `_` between its words: `OS.time`, `Überleben (Tage)`."""
    for sign, plain in (("ä", "ae"), ("ö", "oe"), ("ü", "ue"), ("ß", "ss")):
        name = unicodedata.normalize("NFC", name).replace(sign, plain).replace(sign.upper(), plain)
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    return re.sub(r"[^0-9a-z]+", "_", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", plain).lower()).strip("_")


def match_case_id(name: str) -> int | None:
    """Return the rank of a name as that of the patient's identifier, 0 the best; None if it is none."""
    return _rank(name, _CASE_IDS)


def match_slides(name: str) -> int | None:
    """Return the rank of a name as that of a column of slides; None if it is none."""
    return _rank(name, _SLIDES)


def match_time(name: str) -> TimeName | None:
    """Return what a name says of a follow-up time; None if it is no name of one."""
    words = fold_name(name).split("_")
    endpoint = next((word for word in words if word in _ENDPOINTS), None)
    is_time = any(_TIME_WORDS.fullmatch(word) for word in words) and words != ["os"] and "status" not in words
    if endpoint in words and not any(_TIME_WORDS.fullmatch(w) and w not in _ENDPOINTS for w in words):
        is_time = False  # PFS alone is an event
    if not is_time or any(_NO_OUTCOME.fullmatch(word) for word in words if not _YEARS.fullmatch(word)):
        return None
    if _OUTCOME_WORDS.search("_".join(w for w in words if w not in ("os", "to"))) and "to" not in words:
        return None
    units: list[Literal["months", "days", "years"]] = []
    for word in words:
        if _MONTHS.fullmatch(word):
            units.append("months")
        elif _DAYS.fullmatch(word):
            units.append("days")
        elif _YEARS.fullmatch(word):
            units.append("years")
    return TimeName(units[0] if len(set(units)) == 1 else None, endpoint)


def match_event(name: str) -> EventName | None:
    """Return what a name says of an event; None if it is no name of one."""
    words = fold_name(name).split("_")
    endpoint = next((word for word in words if word in _ENDPOINTS), None)
    if any(_NO_OUTCOME.fullmatch(word) for word in words) or match_time(name) is not None:
        return None
    if any(_CENSORED_WORDS.fullmatch(word) for word in words):
        return EventName("censored", endpoint)
    if endpoint in words and len(words) == 1:
        return EventName("happened", endpoint)
    if any(_OUTCOME_WORDS.fullmatch(word) for word in words) and not {"days", "time", "months"} & set(words):
        return EventName("happened", endpoint)
    return None


def _rank(name: str, known: tuple[str, ...]) -> int | None:
    folded = fold_name(name)
    return known.index(folded) if folded in known else None
