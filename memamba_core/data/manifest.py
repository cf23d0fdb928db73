"""Join the tables of a site into a cohort: patients with their molecular data, features and test fold."""

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from memamba_core.config.site import ClinicalTable, FeatureFolder, FoldTable, GenomicsTable, SiteDataConfig
from memamba_core.data.clinical.event_codes import find_reversed_events
from memamba_core.data.clinical.follow_up import find_follow_up_doubts
from memamba_core.data.clinical.outcome_columns import find_outcome_columns
from memamba_core.data.clinical.table import read_clinical
from memamba_core.data.doubt import Doubt
from memamba_core.data.features.doubts import find_listing_doubts
from memamba_core.data.features.patch_folder import PatchFolder, open_features
from memamba_core.data.genomics.table import find_gene_doubts, read_genes
from memamba_core.data.identifiers.key_columns import parse_keys
from memamba_core.data.joins import (
    explain_features,
    explain_rows,
    find_fold_doubts,
    find_row_doubts,
    find_slide_doubts,
    find_twin_doubts,
)
from memamba_core.data.records import Cohort, FeatureStore, GeneTable, PatientRecord
from memamba_core.data.tables import open_table
from memamba_core.errors import NoPatientsError

__all__ = ["load_cohort"]

log = logging.getLogger(__name__)


def load_cohort(config: SiteDataConfig) -> Cohort:
    """Read the patients of a site and join their data. Values are unscaled; bags are read later.

    The clinical table defines the patients (`read_clinical`: its columns and units). A patient without a row in the
    molecular table, or with no value in this row, has no molecular data. A slide without features is skipped. A patient
    without molecular data and without features is left out. Log lines hold only counts.

    Args:
        config: the section `data` of site.yaml.

    Returns:
        The patients in the order of the clinical table. `gene_row` counts those with molecular data, in that
        order. Without a fold table `fold` is None.

    Raises:
        DataError: a file, column or cell is not as described, or tables contradict each other.
        NoPatientsError: the molecular table, the features or the fold table hold no patient of the clinical table.
            This is an error even if the others do: identifiers that do not match look like missing data.
    """
    records = read_clinical(config.clinical, config.root)
    doubts: list[Doubt] = [
        *find_follow_up_doubts(records, config.clinical),
        *find_reversed_events(records, config.clinical),
        *find_twin_doubts(records, config.clinical.file),
    ]
    genes: GeneTable | None = None
    features: FeatureStore | None = None
    fold_of: dict[str, int] = {}
    if config.genomics is not None:
        records, genes = _join_genes(records, config.genomics, config.root, config.clinical, doubts)
        doubts += find_gene_doubts(config.genomics.file, genes)
    if config.features is not None:
        features = open_features(config.features, config.root)
        _check_features(records, features, config.features, config.root, config.clinical)
        if isinstance(features, PatchFolder):
            doubts += find_listing_doubts(features.files, features.second, features.folders)
        doubts += find_slide_doubts(records, features, config.features, config.clinical.file)
    if config.folds is not None:
        records, fold_of = _join_folds(records, config.folds, config.root, config.clinical)
    cohort = Cohort(tuple(records), genes, features, has_folds=config.folds is not None)
    kept = tuple(r for r in records if cohort.has_genes(r) or cohort.has_slides(r))
    absent = len(records) - len(kept)
    log.info("patients: %d; %d left out, without molecular data and features", len(kept), absent)
    if config.folds is not None:
        doubts += find_fold_doubts(records, kept, fold_of, config.folds, config.clinical.file)
    doubts += find_outcome_columns(cohort, config)
    return replace(cohort, records=kept, doubts=tuple(doubts))


def _join_genes(
    records: list[PatientRecord],
    config: GenomicsTable,
    root: Path,
    clinical: ClinicalTable,
    doubts: list[Doubt],
) -> tuple[list[PatientRecord], GeneTable]:
    """Return the records with their row of the molecular table, and this table of these patients; add to the doubts."""
    not_genes = [c for c in (clinical.case_id, clinical.time, clinical.event, clinical.slides, clinical.tss) if c]
    case_ids, table = read_genes(config, root, clinical_columns=not_genes)
    measured = np.flatnonzero(~np.isnan(table.values_NC).all(axis=1)).tolist()
    row_of = {case_ids[row]: row for row in measured}
    rows = [row_of[r.case_id] for r in records if r.case_id in row_of]
    log.info("molecular data: %d of %d patients, from %d rows", len(rows), len(records), len(case_ids))
    if known := len({r.case_id for r in records}.intersection(case_ids)):
        doubts += find_row_doubts(records, case_ids, config, clinical.file)
    if not rows:
        source = f"{root / config.file}: column {config.case_id!r} has"
        if known:
            raise NoPatientsError(
                f"{source} {known} of the {len(records)} patients of the clinical table, but nothing is measured in "
                "their rows. Write the measurements into these rows, or leave out data.genomics"
            )
        raise NoPatientsError(
            f"{source} none of the {len(records)} patients of the clinical table. "
            + explain_rows(records, clinical.file, case_ids, config)
        )
    places = iter(range(len(rows)))
    joined = [replace(r, gene_row=next(places)) if r.case_id in row_of else r for r in records]
    return joined, replace(table, values_NC=table.values_NC[rows])


def _check_features(
    records: list[PatientRecord], features: FeatureStore, config: FeatureFolder, root: Path, clinical: ClinicalTable
) -> None:
    """Log how many patients and slides have features; refuse features that belong to no patient."""
    found = sum(features.has(r) for r in records)
    slides = [replace(r, slides=(slide,)) for r in records for slide in r.slides]
    absent = sum(not features.has(slide) for slide in slides)
    log.info("features: %d of %d patients; absent for %d of %d slides", found, len(records), absent, len(slides))
    if not found:
        raise NoPatientsError(
            f"{root / config.path}: has features of none of the {len(records)} patients, for whom the "
            f"clinical table lists {len(slides)} slides. {explain_features(records, clinical.file, features, config)}"
        )


def _join_folds(
    records: list[PatientRecord], config: FoldTable, root: Path, clinical: ClinicalTable
) -> tuple[list[PatientRecord], dict[str, int]]:
    """Return the records with their test fold, None for patients without a row; and the fold of each row."""
    table = open_table(root / config.file, config)
    table.require(config.case_id, "data.folds.case_id")
    table.require(config.fold, "data.folds.fold")
    text = table.text([config.case_id, config.fold])
    case_ids = parse_keys(table, config.case_id, text[config.case_id])
    folds = pd.to_numeric(text[config.fold], errors="coerce")
    bad = folds.isna() | (folds < 0) | (folds % 1 != 0)
    remedy = "Write the number of the test fold that holds the patient"
    table.refuse(config.fold, bad, "is not a whole number from 0 on", remedy)
    remedy = "Write the patient's identifier, or take the row out"
    table.refuse(config.case_id, case_ids == "", "is empty", remedy)
    remedy = "Keep one row per patient: each patient is in one test fold"
    table.refuse(config.case_id, case_ids.duplicated(), "repeats a patient", remedy)
    fold_of: dict[str, int] = dict(zip(case_ids, folds.astype(int).tolist(), strict=True))
    if not any(r.case_id in fold_of for r in records):
        raise NoPatientsError(
            f"{table.path}: column {config.case_id!r} has none of the {len(records)} patients of the clinical table. "
            + explain_rows(records, clinical.file, case_ids, config)
        )
    joined = [replace(r, fold=fold_of.get(r.case_id)) for r in records]
    log.info("folds: %d of %d patients are in no fold", sum(r.fold is None for r in joined), len(joined))
    return joined, fold_of
