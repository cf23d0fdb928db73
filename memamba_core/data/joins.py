"""Compare the identifiers of two files: rows and files that match nothing, and would match in another spelling."""

from collections.abc import Collection, Iterator, Mapping, Sequence

from memamba_core.config.site import FeatureFolder, FoldTable, GenomicsTable
from memamba_core.data.doubt import Doubt
from memamba_core.data.features.patch_folder import PatchFolder
from memamba_core.data.features.slide_tables import SlideTable
from memamba_core.data.identifiers.near_misses import (
    advise,
    count_twins,
    describe_near_misses,
    describe_shapes,
    find_near_misses,
)
from memamba_core.data.identifiers.slide_names import slide_name
from memamba_core.data.records import FeatureStore, PatientRecord

__all__ = [
    "explain_features",
    "explain_rows",
    "find_fold_doubts",
    "find_row_doubts",
    "find_slide_doubts",
    "find_twin_doubts",
]

UNEXPLAINED_SHARE = 0.05
"""Share of the slides that may be without a file while other files match no slide; more is a doubt."""

FEWEST_NUMBERED = 20
"""Fewest patients of whom one should be in fold 0, if the folds are numbered from 0."""


def find_twin_doubts(records: Sequence[PatientRecord], clinical: str) -> Iterator[Doubt]:
    """Yield a doubt if patients of the clinical table would be one in another spelling.

    Args:
        records: patients of the clinical table.
        clinical: its file.
    """
    for how, names, patients in count_twins([r.case_id for r in records]):
        yield Doubt(
            "identifiers",
            f"{names} patients of {clinical} would be {patients} {how}: one patient may stand there several times",
            "give all rows of a patient one identifier, unless these are different patients; a patient under two names "
            "can be trained on and tested",
        )


def find_row_doubts(
    records: Sequence[PatientRecord], case_ids: Collection[str], config: GenomicsTable, clinical: str
) -> Iterator[Doubt]:
    """Yield a doubt if rows of the molecular table match no patient, and would with another spelling.

    Rows of other patients alone are no doubt: a molecular table often holds more patients than the clinical one.

    Args:
        records: patients of the clinical table.
        case_ids: identifiers of the molecular table.
        config: settings of the molecular table.
        clinical: file of the clinical table.
    """
    unknown, missing = _differ(case_ids, [r.case_id for r in records])
    if near := find_near_misses(unknown, missing):
        yield Doubt(
            "identifiers",
            f"{len(unknown)} of {len(case_ids)} rows of {config.file} match no patient of {clinical}; "
            f"{describe_near_misses(near)}, and {len(missing)} of {len(records)} patients have no row",
            f"{advise(near)} (column {config.case_id!r} of {config.file})",
        )


def find_fold_doubts(
    records: Sequence[PatientRecord],
    kept: Sequence[PatientRecord],
    fold_of: Mapping[str, int],
    config: FoldTable,
    clinical: str,
) -> Iterator[Doubt]:
    """Yield a doubt if patients are in no fold, and one if the folds are numbered from 1.

    Args:
        records: patients of the clinical table.
        kept: those of them who have data; the others are counted elsewhere.
        fold_of: identifier in the fold table -> its fold.
        config: settings of the fold table.
        clinical: file of the clinical table.
    """
    numbers = {r.fold for r in kept if r.fold is not None}
    if len(kept) >= FEWEST_NUMBERED and len(numbers) > 1 and numbers == set(range(1, len(numbers) + 1)):
        yield Doubt(
            "folds",
            f"column {config.fold!r} of {config.file} numbers the folds from 1 to {len(numbers)}, and a run of fold 0 "
            "tests no patient of this site",
            "number the folds from 0, as the other sites do",
        )
    unknown, _ = _differ(fold_of, [r.case_id for r in records])
    missing = {r.case_id for r in kept if r.case_id not in fold_of}
    if not missing:
        return
    text = f"{len(missing)} of {len(kept)} patients are in no fold and are neither trained on nor tested"
    remedy = f"add them to {config.file}, unless they are left out on purpose"
    if unknown:
        text += f"; {len(unknown)} of {len(fold_of)} rows of {config.file} match no patient of {clinical}"
    if near := find_near_misses(unknown, missing):
        text += f", {describe_near_misses(near)}"
        remedy = f"{advise(near)} (column {config.case_id!r} of {config.file})"
    yield Doubt("folds", text, remedy)


def find_slide_doubts(
    records: Sequence[PatientRecord], features: FeatureStore, config: FeatureFolder, clinical: str
) -> Iterator[Doubt]:
    """Yield a doubt if slides lack features while features match no slide, and one if files hold no patch.

    Slides without features alone are no doubt, nor are features of other slides alone: most cohorts have some. Both
    together are a doubt where another spelling would match, or where many slides are concerned (`UNEXPLAINED_SHARE`).

    Args:
        records: patients of the clinical table.
        features: the site's features.
        config: settings of the features.
        clinical: file of the clinical table.
    """
    slides = [slide for r in records for slide in r.slides]
    if isinstance(features, PatchFolder):
        unknown, missing = _differ(features.files, slides)
        near = find_near_misses(unknown, missing)
        if near or min(len(unknown), len(missing)) > UNEXPLAINED_SHARE * len(slides):
            would = f"; {describe_near_misses(near, 'slide')}" if near else ""
            yield Doubt(
                "slide names",
                f"{len(unknown)} of {len(features.files)} files in {config.path} match no slide of {clinical}{would}, "
                f"and {len(missing)} of {len(slides)} slides have no file",
                advise(near) if near else "compare the names, unless these are files of other slides",
            )
        if empty := sum(map(features.is_empty, slides)):
            alone = sum(
                bool(r.slides) and not features.has(r) and any(map(features.is_empty, r.slides)) for r in records
            )
            yield Doubt(
                "empty slides",
                f"{empty} of {len(slides)} slides have a file without a patch; {alone} patients have no other slide",
                "check the tissue segmentation of these slides; they count as absent, and a patient with nothing else "
                "is left out",
            )
    elif isinstance(features, SlideTable):
        unknown, missing = _rows_and_patients(records, features)
        if near := find_near_misses(unknown, missing):
            yield Doubt(
                "slide names",
                f"{len(unknown)} of {len(features.rows_of_case)} keys of {config.path} match no slide and no patient "
                f"of {clinical}; {describe_near_misses(near, 'slide')}",
                f"{advise(near)} (column {config.key!r} of {config.path})",
            )


def explain_rows(
    records: Sequence[PatientRecord], clinical: str, case_ids: Collection[str], config: GenomicsTable | FoldTable
) -> str:
    """Return sentences on why no row of a table matches a patient: what would match, or how both sides look."""
    remedy = "Write the same identifiers in both tables: a TCGA patient has 12 characters, longer barcodes name samples"
    return _explain(case_ids, config.file, [r.case_id for r in records], clinical, "rows", remedy)


def explain_features(
    records: Sequence[PatientRecord], clinical: str, features: FeatureStore, config: FeatureFolder
) -> str:
    """Return sentences on why no features match a slide or a patient: what would match, or how both sides look."""
    slides, case_ids = [s for r in records for s in r.slides], {slide_name(r.case_id) for r in records}
    remedy = "Name the column of slides in data.clinical.slides, and compare its names with those of the feature files"
    if isinstance(features, SlideTable):
        unknown, missing = _rows_and_patients(records, features)
        return _explain(unknown, config.path, missing, clinical, "keys", f"{remedy}, or with column {config.key!r}")
    files = features.files if isinstance(features, PatchFolder) else {}
    if empty := len(files.keys() & set(slides)):
        return f"Their {empty} files hold no patch. Check the tissue segmentation and extract again"
    if named := len(files.keys() & case_ids):
        return (
            f"{named} of {len(files)} files bear the identifier of a patient. Set data.clinical.slides to the column "
            "of the identifiers, if each patient has one slide"
        )
    return _explain(files, config.path, slides, clinical, "files", remedy)


def _explain(
    found: Collection[str], where_found: str, wanted: Collection[str], where_wanted: str, what: str, remedy: str
) -> str:
    if near := find_near_misses(found, wanted):
        advice = advise(near)
        counts = describe_near_misses(near, would="would match")
        return f"Of {len(found)} {what}, {counts}. {advice[0].upper()}{advice[1:]}"
    shapes = describe_shapes(wanted, where_wanted, found, where_found)
    return f"The {shapes}. {remedy}" if shapes else remedy


def _differ(found: Collection[str], wanted: Collection[str]) -> tuple[set[str], set[str]]:
    """Return the identifiers that are found and not wanted, and those that are wanted and not found."""
    return set(found).difference(wanted), set(wanted).difference(found)


def _rows_and_patients(records: Sequence[PatientRecord], table: SlideTable) -> tuple[set[str], set[str]]:
    """Return the keys of a slide-level table that name no slide and no patient, and what is listed without a row."""
    slides, case_ids = {s for r in records for s in r.slides}, {r.case_id for r in records}
    unknown = {key for key in table.rows_of_case if key not in case_ids and slide_name(key) not in slides}
    without = [r for r in records if not table.has(r)]
    missing = {slide for slide in slides if slide not in table.rows_of_slide} | {r.case_id for r in without}
    return unknown, missing
