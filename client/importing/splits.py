"""Format `splits`: published splits become a fold table of the patients of a site."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from client.importing import tables
from client.importing.options import ImportOptions
from client.importing.outcome import Imported, Section
from memamba_core.config.site import ClinicalTable, load_site_config
from memamba_core.data.clinical.table import read_clinical
from memamba_core.data.splits import PublishedSplits, read_splits
from memamba_core.data.tables import open_table
from memamba_core.errors import ConfigError

__all__ = ["FOLDS_FILE", "read"]

FOLDS_FILE = "folds.csv"
_YAML = (".yaml", ".yml")
_WANTED = (
    "Name the published splits first, then the site.yaml of the site, or its tables: import splits SPLITS site.yaml"
)


def read(sources: Sequence[Path], options: ImportOptions) -> Imported:
    """Read published splits and the patients of the site, whom the splits name by case id or by slide.

    Only patients of the site are written: a published split holds those of all sites, and each site reads the same one.

    Args:
        sources: the splits in a layout of `read_splits`; then one site.yaml, or what the format `tables` takes.
        options: as for `tables`; none with a site.yaml.

    Raises:
        ConfigError: a source is absent, or the splits are of no known layout.
        DataError: the tables cannot be read, the splits contradict each other, or no patient is in both.
    """
    splits, *others = sources
    if not others or splits.suffix in _YAML:
        raise ConfigError(f"{splits}: is {'the only' if not others else 'the first'} source. {_WANTED}")
    if splits.is_file() and "train" not in open_table(splits).columns:
        raise ConfigError(f"{splits}: has no column train. {_WANTED}")
    imported = _read_site(others, options) if others[0].suffix in _YAML else tables.read(others, options)
    _make_absolute(imported)
    records = read_clinical(ClinicalTable.parse(imported.sections["clinical"].settings, "data.clinical"), Path())
    published = read_splits(splits, records)
    folds = {r.case_id: published.fold_of[r.case_id] for r in records if r.case_id in published.fold_of}
    imported.tables[FOLDS_FILE] = pd.DataFrame({"case_id": list(folds), "fold": list(folds.values())})
    evidence = {"file": f"the fold of {len(folds)} of {len(records)} patients, by {splits}"}
    imported.sections["folds"] = Section({"file": FOLDS_FILE, "case_id": "case_id", "fold": "fold"}, evidence)
    imported.found += _describe(splits, published, folds)
    return imported


def _read_site(others: Sequence[Path], options: ImportOptions) -> Imported:
    """Return the sections of the data of a site.yaml, as they are there."""
    path, *more = others
    if more or options != ImportOptions():
        raise ConfigError(
            f"{path}: names the tables and their columns; leave out further sources, options of columns "
            f"and --decimal-mark. {_WANTED}"
        )
    config = load_site_config(path)
    data = config.data if config.privacy is None else config.data.with_decimal_points()
    given = data.model_dump(mode="json", exclude_unset=True, exclude={"root", "folds"})
    imported = Imported({name: Section(settings) for name, settings in given.items() if settings}, data.root)
    imported.found.append(f"patients: those of {path}")
    if data.folds is not None:
        imported.found.append(f"{data.folds.file}, the fold table of {path.name}, is replaced by {FOLDS_FILE}")
    return imported


def _make_absolute(imported: Imported) -> None:
    """Make the paths of the draft absolute, because its root is the folder of the fold table."""
    assert imported.root is not None, "tables stay where they are"
    for section in imported.sections.values():
        for setting in {"file", "path", "groups_file"} & set(section.settings):
            section.settings[setting] = str(imported.root / section.settings[setting])
    imported.root = None


def _describe(splits: Path, published: PublishedSplits, folds: dict[str, int]) -> list[str]:
    """Return lines about the folds: their sizes at this site, and what was read in another way than published."""
    sizes = Counter(folds.values())
    listed = ", ".join(f"{fold}: {sizes[fold]}" for fold in range(max(published.fold_of.values()) + 1))
    lines = [f"patients of each fold at this site: {listed}"]
    if published.single:
        lines.append(
            f"{splits} is one split: its test patients are fold 0, and all others are fold 1. Run fold 0 only, "
            "because a run of fold 1 tests on the patients who were published for training"
        )
    return [*lines, *published.warnings]
