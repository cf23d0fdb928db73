"""Checks of a site's features: every file is opened, its header compared with site.yaml, and a few rows are read."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from memamba_core.data.features.patch_folder import PatchFolder
from memamba_core.data.features.survey import FeatureSurvey
from memamba_core.data.records import Cohort, FeatureStore, PatientRecord

from .finding import Finding, error, ok, warning

__all__ = ["check_features", "list_files"]

_NAMED = 3
_LISTED = 10


def check_features(cohort: Cohort, survey: FeatureSurvey) -> Iterator[Finding]:
    """Report features and their files.

    Args:
        cohort: the patients.
        survey: as `survey_features` returns it.
    """
    store = cohort.features
    if store is None:
        yield ok("slides", "none, as set in site.yaml")
        return
    yield ok("slides", f"{len(survey.rows)} of {len(cohort.records)} patients; {_describe(cohort, survey)}")
    absent = [slide for r in cohort.records for slide in r.slides if not _has_features(store, r, slide)]
    named = sum(len(r.slides) for r in cohort.records)
    if absent:
        yield warning(
            "feature files",
            f"{len(absent)} of {named} slides in the table have no features{list_files(absent)}",
            "if that is more than you expect, extract their features, or compare their names with the files",
        )
    for failure in survey.damaged[:_NAMED]:
        yield error("feature files", str(failure), "do so before the next run: until then the site refuses every round")
    if len(survey.damaged) > _NAMED:
        yield error("feature files", f"{len(survey.damaged) - _NAMED} more files like these", "as for the files above")
    for doubt in survey.doubts:
        yield warning(doubt.check, doubt.text + list_files(doubt.files), doubt.remedy)
    if not absent and not survey.damaged:
        yield ok("feature files", f"present and readable for all {named} slides" if named else "present and readable")


def list_files(names: Sequence[str]) -> str:
    """Return the first names as the end of a sentence; a report (`Redaction`) does not show them."""
    return f": {', '.join(names[:_LISTED])}{', ...' if len(names) > _LISTED else ''}" if names else ""


def _describe(cohort: Cohort, survey: FeatureSurvey) -> str:
    """Return encoder, width and sizes of the bags."""
    store, sizes = cohort.features, list(survey.rows.values())
    assert store is not None
    text = f"features {store.encoder}, {store.width} wide"
    if isinstance(store, PatchFolder) and store.slide_level:
        text += "; one slide-level vector per slide, no patches"
        return f"{text}; for patches, point data.features.path to the folder of patch features"
    text += f"; median bag {np.median(sizes):,.0f} patches, largest {max(sizes):,d}"
    if survey.datasets:
        text += f"; read from dataset {', '.join(sorted(survey.datasets))}"
    if survey.num_empty:
        text += f"; {survey.num_empty} slides without a patch"
    return text


def _has_features(store: FeatureStore, record: PatientRecord, slide: str) -> bool:
    """Return True if the slide has a file, also one without a patch, or a row of a slide-level table."""
    if isinstance(store, PatchFolder):
        return slide in store.files
    return store.has(replace(record, slides=(slide,)))
