"""Write a cohort as folders that sites could serve: `flower-simulate export-sites`.

A run of the simulation over views of one cohort can be repeated with real clients, each with its own `site.yaml`.
"""

import logging
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import yaml

from memamba_core.config.simulation import CohortConfig
from memamba_core.config.site import ClinicalTable, FeatureFolder, FoldTable, GenomicsTable, SiteConfig, SiteDataConfig
from memamba_core.data.features.patch_folder import PatchFolder
from memamba_core.data.records import Cohort, FeatureStore
from memamba_core.errors import ConfigError
from memamba_core.io.atomic import fill_atomically

__all__ = ["export_sites"]

_log = logging.getLogger(__name__)

_HEADER = """\
# One site of a simulation, ready for its own client.
# Paths are relative to this file. Disclosure thresholds are strict here, unlike in the simulation.
"""
_FEATURES = "features"
_FEATURE_TABLE = "features.csv.gz"
_GZIP = {"method": "gzip", "mtime": 0}  # no time stamp: the same cohort gives the same bytes


def export_sites(
    cohort: Cohort, cohort_config: CohortConfig, sites: Mapping[str, tuple[str, ...]], output_dir: Path
) -> tuple[Path, ...]:
    """Write each site of a partition as a folder with everything its client needs.

    A folder holds `site.yaml` and `clinical.csv`, and `genomics.csv.gz`, features and `folds.csv` if its patients have
    them. Files of patch features are linked where the file system allows it (no disk space is used; do not edit them in
    place), else copied. Bags that are not files are written as files in CLAM's layout. Slide-level tables are cut to
    the patients of the site and keyed by patient; their `groups_file` is copied whole, because families are made from
    all its names.

    Reading a folder back with `load_cohort` gives the patients of the site, their values and their bags.

    Args:
        cohort: the patients; their folds are written.
        cohort_config: settings of the cohort, which name its features.
        sites: site name -> case ids, as `partition_cohort` gives them.
        output_dir: a folder that does not exist or is empty. It appears only when everything is written.

    Returns:
        The folders, in the order of `sites`. Where the cohort has folds, a site without a patient in a fold is left
        out with a warning: it would neither train nor be tested.

    Raises:
        ConfigError: the folder is not empty, or cannot be written.
        DataError: a bag cannot be read.
    """
    output_dir = output_dir.absolute()
    if output_dir.exists() and (not output_dir.is_dir() or any(output_dir.iterdir())):
        raise ConfigError(
            f"{output_dir}: exists and is not an empty folder; nothing was written. Choose a new output_dir"
        )
    with_folds = any(r.fold is not None for r in cohort.records)
    written: list[str] = []
    try:
        with fill_atomically(output_dir) as partial:
            for name, case_ids in sites.items():
                site = cohort.subset(case_ids)
                assert len(site.records) == len(case_ids) > 0, "sites are a partition of the cohort"
                if with_folds and all(r.fold is None for r in site.records):
                    _log.warning("site %s is left out: none of its patients is in a fold", name)
                    continue
                _write_site(site, cohort_config, name, partial / name, with_folds)
                written.append(name)
    except OSError as error:
        raise ConfigError(f"{output_dir} cannot be written: {error}; choose another output_dir") from None
    return tuple(output_dir / name for name in written)


def _write_site(site: Cohort, cohort_config: CohortConfig, name: str, folder: Path, with_folds: bool) -> None:
    """Write one site."""
    folder.mkdir()
    config = SiteConfig(
        name=name,
        data=SiteDataConfig(
            root=Path(),
            clinical=_write_clinical(site, folder),
            genomics=_write_genes(site, folder),
            features=_write_features(site, cohort_config, folder),
            folds=_write_folds(site, folder) if with_folds else None,
        ),
        state=Path("state"),
        approve="ask",
    )
    text = yaml.safe_dump(config.model_dump(mode="json", exclude_none=True), sort_keys=False)
    (folder / "site.yaml").write_text(_HEADER + text, encoding="utf-8")


def _write_clinical(site: Cohort, folder: Path) -> ClinicalTable:
    """Write months and events, independent of the units and the coding of the source."""
    records = site.records
    columns: dict[str, list[Any]] = {
        "case_id": [r.case_id for r in records],
        "survival_months": [r.time_months for r in records],
        "event": [int(r.event) for r in records],
    }
    slides = any(r.slides for r in records)
    tss = any(r.tss for r in records)
    if slides:
        columns["slide_ids"] = [";".join(r.slides) for r in records]
    if tss:
        columns["tss"] = [r.tss or "" for r in records]
    pd.DataFrame(columns).to_csv(folder / "clinical.csv", index=False)
    return ClinicalTable(file="clinical.csv", slides="slide_ids" if slides else None, tss="tss" if tss else None)


def _write_genes(site: Cohort, folder: Path) -> GenomicsTable | None:
    """Write the unscaled molecular values of the patients who have them."""
    if site.genes is None:
        return None
    row_of = {r.case_id: r.gene_row for r in site.records if r.gene_row is not None}
    if not row_of:
        return None
    values_NC = site.genes.values_NC[list(row_of.values())]
    table = pd.DataFrame(values_NC, columns=pd.Index(site.genes.columns))
    table.insert(0, "case_id", list(row_of))
    table.to_csv(folder / "genomics.csv.gz", index=False, compression=_GZIP)
    return GenomicsTable(file="genomics.csv.gz")


def _write_features(site: Cohort, cohort_config: CohortConfig, folder: Path) -> FeatureFolder | None:
    """Write the features of the patients who have them."""
    store, source = site.features, cohort_config.features
    if store is None or not any(store.has(r) for r in site.records):
        return None
    if store.columns:
        assert source is not None, "a slide-level table comes from tables"
        assert cohort_config.root is not None, "CohortConfig checks it"
        if source.groups_file is not None:
            shutil.copyfile(cohort_config.root / source.groups_file, folder / "feature_groups.csv")
        _write_feature_table(site, store, folder / _FEATURE_TABLE)
        groups_file = None if source.groups_file is None else "feature_groups.csv"
        return source.model_copy(update={"path": _FEATURE_TABLE, "key": "case_id", "groups_file": groups_file})
    if isinstance(store, PatchFolder):
        _link_patch_files(site, store, folder / _FEATURES)
        declared = store.declared
        return FeatureFolder(
            path=_FEATURES, encoder=declared.encoder, magnification=declared.magnification, width=store.width
        )
    _write_patch_files(site, store, folder / _FEATURES / "h5_files")
    return FeatureFolder(path=_FEATURES, encoder=store.encoder, width=store.width)


def _write_feature_table(site: Cohort, store: FeatureStore, path: Path) -> None:
    """Write one row per slide vector, keyed by patient, in the order of the store."""
    case_ids: list[str] = []
    blocks: list[np.ndarray[Any, Any]] = []
    for record in site.records:
        bag = store.load(record)
        if bag is not None:
            blocks.append(bag.patches_PF.numpy())
            case_ids += [record.case_id] * len(bag.patches_PF)
    table = pd.DataFrame(np.concatenate(blocks), columns=pd.Index(store.columns))
    table.insert(0, "case_id", case_ids)
    table.to_csv(path, index=False, compression=_GZIP)


def _link_patch_files(site: Cohort, store: PatchFolder, folder: Path) -> None:
    """Link or copy the source's own files: types and attributes stay, and gigabytes are not read."""
    for slide in (slide for r in site.records for slide in r.slides if slide in store.files):
        source = store.files[slide].resolve()
        target = (
            folder
            / ("h5_files" if source.suffix.lower() in (".h5", ".hdf5") else "pt_files")
            / f"{slide}{source.suffix}"
        )
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            target.hardlink_to(source)
        except OSError:  # another file system, or one without links
            shutil.copyfile(source, target)


def _write_patch_files(site: Cohort, store: FeatureStore, folder: Path) -> None:
    """Write one file per slide from bags in memory."""
    folder.mkdir(parents=True)
    for record in site.records:
        for slide in record.slides:
            bag = store.load(replace(record, slides=(slide,)))
            if bag is not None:
                with h5py.File(folder / f"{slide}.h5", "w") as file:
                    file["features"] = bag.patches_PF.numpy()
                    if bag.coords_P2 is not None:
                        file["coords"] = bag.coords_P2.numpy()


def _write_folds(site: Cohort, folder: Path) -> FoldTable:
    """Write the test fold of each patient. A patient without a fold has no row."""
    folds = [(r.case_id, r.fold) for r in site.records if r.fold is not None]
    pd.DataFrame(folds, columns=pd.Index(["case_id", "fold"])).to_csv(folder / "folds.csv", index=False)
    return FoldTable(file="folds.csv")
