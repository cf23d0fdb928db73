"""Look at every feature file of a cohort once: number of rows, errors that training would meet, and doubts."""

from dataclasses import dataclass, field
from pathlib import Path

from memamba_core.data.doubt import Doubt
from memamba_core.data.feature_doubts import find_sample_doubts, find_second_file_doubts
from memamba_core.data.features import PatchFolder
from memamba_core.data.patch_files import PatchFileSample, sample_patch_file
from memamba_core.data.records import Cohort
from memamba_core.errors import DataError

__all__ = ["FeatureSurvey", "survey_features"]


@dataclass
class FeatureSurvey:
    """What all feature files of a cohort show.

    Attributes:
        rows: case id -> rows of the patient's bag, for the patients who have features.
        damaged: errors that reading these files raises, one per file.
        doubts: contradictions between the files.
        num_empty: files without a row, of slides without tissue.
        datasets: names of the datasets that hold the features, where they lie in a group.
    """

    rows: dict[str, int] = field(default_factory=dict)
    damaged: list[DataError] = field(default_factory=list)
    doubts: list[Doubt] = field(default_factory=list)
    num_empty: int = 0
    datasets: set[str] = field(default_factory=set)


def survey_features(cohort: Cohort) -> FeatureSurvey:
    """Open every feature file of the cohort's patients: headers, coordinates and a few rows.

    A file on a local disk takes about 2 ms; on a share a few round trips.
    """
    survey, store = FeatureSurvey(), cohort.features
    samples, pairs = dict[Path, PatchFileSample](), list[tuple[PatchFileSample, PatchFileSample]]()
    for record in filter(cohort.has_slides, cohort.records):
        if not isinstance(store, PatchFolder):
            bag = None if store is None else store.load(record)
            survey.rows[record.case_id] = 0 if bag is None else len(bag.patches_PF)
            continue
        survey.rows[record.case_id] = 0
        for slide in (s for s in record.slides if s in store.files):
            path = store.files[slide]
            try:
                sample = sample_patch_file(path, store.declared.dataset)
                store.compare(path, sample.facts)
            except DataError as failure:
                survey.damaged.append(failure)
                continue
            samples[path] = sample
            survey.rows[record.case_id] += sample.facts.num_patches
            survey.num_empty += not sample.facts.num_patches
            if "/" in sample.facts.dataset:
                survey.datasets.add(sample.facts.dataset)
            if (other := _second(store, slide)) is not None:
                pairs.append((sample, other))
    survey.doubts += [*find_sample_doubts(samples), *find_second_file_doubts(pairs)]
    return survey


def _second(store: PatchFolder, slide: str) -> PatchFileSample | None:
    """Return the sample of the slide's other file. That file is not read in training; if damaged, it is ignored."""
    path = store.second.get(slide)
    try:
        return None if path is None else sample_patch_file(path)
    except DataError:
        return None
