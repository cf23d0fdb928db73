"""Look at every feature file of a cohort once: number of rows, errors that training would meet, and doubts."""

from dataclasses import dataclass, field
from pathlib import Path

import h5py

from memamba_core.data.doubt import Doubt
from memamba_core.data.features.doubts import (
    find_coordinate_doubts,
    find_folder_doubts,
    find_sample_doubts,
    find_second_file_doubts,
)
from memamba_core.data.features.patch_files import PatchFileSample, sample_patch_file
from memamba_core.data.features.patch_folder import PatchFolder
from memamba_core.data.records import Cohort
from memamba_core.errors import DataError

__all__ = ["FeatureSurvey", "survey_features"]


@dataclass
class FeatureSurvey:
    """Findings about all feature files of a cohort.

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

    A file of 4,000 patches on a local disk takes 3 ms, 22 ms in CLAM's chunks of one row, 32 ms with gzip.
    """
    survey, store = FeatureSurvey(), cohort.features
    samples, pairs = dict[Path, PatchFileSample](), dict[Path, tuple[PatchFileSample, PatchFileSample]]()
    patches = dict[Path, tuple[int, int]]()
    folders = store.folders if isinstance(store, PatchFolder) else ()
    with_coordinates = {folder for folder in folders if (folder.parent / "patches").is_dir()}
    for record in cohort.records:
        if cohort.has_slides(record):
            survey.rows[record.case_id] = 0
        if not isinstance(store, PatchFolder):
            if store is not None and (bag := store.load(record)) is not None:
                survey.rows[record.case_id] = len(bag.patches_PF)
            continue
        for slide in (s for s in record.slides if s in store.files):
            path = store.files[slide]
            try:
                sample = sample_patch_file(path, store.declared.dataset)
                store.compare(path, sample.facts)
            except DataError as failure:
                survey.damaged.append(failure)
                continue
            samples[path] = sample
            if sample.facts.num_patches:
                survey.rows[record.case_id] += sample.facts.num_patches
            else:
                survey.num_empty += 1
            if "/" in sample.facts.dataset:
                survey.datasets.add(sample.facts.dataset)
            if (other := _second(store, slide)) is not None:
                pairs[path] = (sample, other)
            number = _num_coordinates(path) if path.parent in with_coordinates else None
            if number is not None and not sample.facts.slide_level:
                patches[path] = (sample.facts.num_patches, number)
    survey.doubts += [
        *find_sample_doubts(samples),
        *find_second_file_doubts(pairs),
        *find_coordinate_doubts(patches),
        *find_folder_doubts(samples),
    ]
    return survey


def _num_coordinates(path: Path) -> int | None:
    """Return the number of patches that CLAM or TRIDENT cut from the slide, or None if it is not known."""
    folder = path.parent.parent / "patches"
    for name in (f"{path.stem}_patches.h5", f"{path.stem}.h5"):
        try:
            with h5py.File(folder / name, "r", locking=False) as file:
                return int(file["coords"].shape[0])
        except (OSError, RuntimeError, ValueError, LookupError, AttributeError):  # absent, or of another kind
            continue
    return None


def _second(store: PatchFolder, slide: str) -> PatchFileSample | None:
    """Return the sample of the slide's other file. That file is not read in training; if damaged, it is ignored."""
    path = store.second.get(slide)
    try:
        return None if path is None else sample_patch_file(path)
    except DataError:
        return None
