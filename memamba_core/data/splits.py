"""Read published splits: of MCAT and PORPOISE, CLAM, MMP and PANTHER, or one split into training and test patients."""

import re
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from memamba_core.data.identifiers.canonical import canonical_column
from memamba_core.data.identifiers.near_misses import advise, describe_near_misses, find_near_misses
from memamba_core.data.identifiers.slide_names import slide_name
from memamba_core.data.records import PatientRecord
from memamba_core.data.tables import Table, open_table
from memamba_core.errors import ConfigError, DataError

__all__ = ["PublishedSplits", "read_splits"]

_SPLIT_FILE = re.compile(r"splits_(\d+)\.csv")  # not CLAM's splits_0_bool.csv and splits_0_descriptor.csv
_SPLIT_FOLDER = re.compile(r"(.+)_k=(\d+)")
_GROUPS = ("train", "val", "test")
_WANTED = (
    "wanted splits_0.csv, splits_1.csv, ... with columns train and val (or test), or folders NAME_k=0, NAME_k=1, ... "
    "with train.csv and test.csv, without a gap, or one such file or folder. Name the right one"
)
_ONE_TEST_FOLD = (
    "A patient is tested in one fold, and not trained on there. If the splits are random draws, name one file of them"
)
_NO_THIRD_SET = (
    "train must hold all patients who are tested in another split; splits that set a third group aside are not "
    "supported. Correct the file"
)


@dataclass(frozen=True)
class PublishedSplits:
    """Test folds as published.

    Attributes:
        fold_of: case id -> test fold, for all members of the splits; a slide of no known patient counts as a case id.
        single: True for one split: fold 0 holds its test patients, and fold 1, which is never tested, the others.
        warnings: sentences about what was read in another way than published, and about patients in one of the two
            lists only, with counts.
    """

    fold_of: dict[str, int]
    single: bool
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Group:
    """One group of a split.

    Attributes:
        table: of the group.
        column: of its identifiers.
        case_ids: case id of each row; '' in the padding of the shorter column of a file.
        is_column: True if other columns of the table are other groups, so that no patient appears twice.
    """

    table: Table
    column: str
    case_ids: "pd.Series[str]"
    is_column: bool

    @classmethod
    def of(cls, table: Table, column: str, owner_of: Mapping[str, str], *, is_column: bool) -> "_Group":
        names = canonical_column(table.text([column])[column])
        if is_column:
            table.refuse(column, names.duplicated() & (names != ""), "repeats a patient", "List each patient once")
        return cls(
            table, column, names.map(lambda name: owner_of.get(name, owner_of.get(slide_name(name), name))), is_column
        )

    def members(self) -> set[str]:
        return set(self.case_ids[self.case_ids != ""])

    def refuse(self, bad: "pd.Series[bool]", what: str, remedy: str) -> None:
        self.table.refuse(self.column, bad & (self.case_ids != ""), what, remedy)


@dataclass(frozen=True)
class _Split:
    train: tuple[_Group, ...]
    test: _Group

    def trained(self) -> set[str]:
        return set().union(*(group.members() for group in self.train))


def read_splits(path: Path, records: Collection[PatientRecord]) -> PublishedSplits:
    """Read the test fold of each patient, check that the splits agree, and compare them with a cohort.

    Layouts:

    * MCAT, PORPOISE, CLAM: a folder of `splits_0.csv`, `splits_1.csv`, ... with columns `train`, `val` and `test`;
      other files are ignored;
    * MMP, PANTHER: folders `NAME_k=0`, `NAME_k=1`, ... with `train.csv`, `val.csv` and `test.csv`, whose column
      `case_id` (or `slide_id`) names the members; `path` is their parent, or the parent and NAME;
    * one file or folder of either kind, for one split.

    Where a split has `test`, these patients are held out and those of `val` are trained on, because no epoch is chosen
    on them; else `val` is held out.

    Args:
        path: file, folder, or common beginning of folders.
        records: the patients of the cohort, with their slides: members may be named by either.

    Raises:
        ConfigError: no splits of these layouts, or a number is missing.
        DataError: the splits contradict each other, or hold no patient of the cohort.
    """
    owner_of = {slide: r.case_id for r in records for slide in r.slides} | {r.case_id: r.case_id for r in records}
    splits = [_open_split(files, owner_of) for files in _find_splits(path)]
    for split in splits:
        group = split.test
        group.refuse(group.case_ids.isin(split.trained()), "repeats a patient of train", _ONE_TEST_FOLD)
    if len(splits) == 1:
        fold_of = dict.fromkeys(splits[0].trained(), 1) | dict.fromkeys(splits[0].test.members(), 0)
    else:
        fold_of = _join(splits)
    warnings = _compare_patients(path, fold_of, {r.case_id for r in records})
    if any(len(split.train) > 1 for split in splits):
        text = (
            f"the val patients of {path} are trained on, because no epoch is chosen on them; its test patients are "
            "held out"
        )
        warnings = (text, *warnings)
    return PublishedSplits(fold_of, len(splits) == 1, warnings)


def _compare_patients(path: Path, fold_of: Mapping[str, int], present: set[str]) -> tuple[str, ...]:
    """Return warnings that count patients in the cohort or in the splits only; no patient in both is an error."""
    unknown, without_fold = set(fold_of) - present, present - set(fold_of)
    near = find_near_misses(unknown, without_fold)
    would = f"; {describe_near_misses(near)}: {advise(near)}" if near else ""
    if len(without_fold) == len(present):
        raise DataError(
            f"{path}: none of the cohort's {len(present)} patients is in these splits ({len(fold_of)} "
            f"patients){would or '; they are of another cohort'}. Name the splits of this cohort"
        )
    warnings = []
    if without_fold:
        warnings.append(f"{len(without_fold)} patients are in no split of {path}: neither trained on nor tested")
    if unknown:
        text = f"{len(unknown)} patients of the splits in {path} are not in the cohort and are ignored{would}"
        warnings.append(text)
    return tuple(warnings)


def _join(splits: Sequence[_Split]) -> dict[str, int]:
    """Return the number of the split that tests each patient; check that each split trains on all others."""
    fold_of: dict[str, int] = {}
    for fold, split in enumerate(splits):
        group = split.test
        what = f"repeats a patient of another file's {group.column}" if group.is_column else "repeats a tested patient"
        group.refuse(group.case_ids.isin(set(fold_of)), what, _ONE_TEST_FOLD)
        fold_of |= dict.fromkeys(group.members(), fold)
    for fold, split in enumerate(splits):
        expected = {case_id for case_id, k in fold_of.items() if k != fold}
        for group in split.train:
            group.refuse(
                ~group.case_ids.isin(expected | {""}), "has patients who are tested in no split", _NO_THIRD_SET
            )
        if missing := len(expected - split.trained()):
            group = split.train[0]
            raise DataError(
                f"{group.table.path}: column {group.column!r} lacks {missing} patients who are tested in another "
                f"split. {_NO_THIRD_SET}"
            )
    return fold_of


def _find_splits(path: Path) -> list[dict[str, Path]]:
    """Return the files of each split: `{"": splits_0.csv}`, or train.csv and test.csv under these names."""
    if path.is_file():
        return [{"": path}]
    files = {int(m[1]): f for f in _listed(path) if (m := _SPLIT_FILE.fullmatch(f.name))}
    if files:
        _check_numbers(path, files, "files splits_*.csv", "splits_{}.csv")
        return [{"": files[number]} for number in sorted(files)]
    if groups := _groups_in(path):
        return [groups]
    names = defaultdict[str, dict[int, Path]](dict)
    for folder in [*_listed(path), *(f for f in _listed(path.parent) if f.name.startswith(f"{path.name}_k="))]:
        if (match := _SPLIT_FOLDER.fullmatch(folder.name)) and _groups_in(folder):
            names[match[1]][int(match[2])] = folder
    if len(names) > 1:
        listed = ", ".join(sorted(names)[:8])
        raise ConfigError(f"{path}: holds splits of {listed}. Name one of them: FOLDER/{min(names)}")
    if not names:
        raise ConfigError(f"{path}: found 0 files splits_*.csv; {_WANTED}")
    ((name, folders),) = names.items()
    _check_numbers(path, folders, f"folders {name}_k=*", f"{name}_k={{}}")
    return [_groups_in(folders[number]) for number in sorted(folders)]


def _check_numbers(path: Path, found: Mapping[int, Path], what: str, name: str) -> None:
    absent = sorted(set(range(max(found) + 1)) - set(found))
    if absent:
        raise ConfigError(f"{path}: found {len(found)} {what}, but not {name.format(absent[0])}; {_WANTED}")


def _listed(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


def _groups_in(folder: Path) -> dict[str, Path]:
    """Return train.csv and the files of held out patients in a folder; none unless both are there."""
    groups = {name: folder / f"{name}.csv" for name in _GROUPS if (folder / f"{name}.csv").is_file()}
    return groups if "train" in groups and len(groups) > 1 else {}


def _open_split(files: Mapping[str, Path], owner_of: Mapping[str, str]) -> _Split:
    groups = dict[str, _Group]()
    if "" in files:
        table = open_table(files[""])
        table.require("train")
        if "test" not in table.columns:
            table.require("val")
        for name in _GROUPS:
            if name in table.columns:
                groups[name] = _Group.of(table, name, owner_of, is_column=True)
    else:
        for name, path in files.items():
            table = open_table(path)
            column = next((c for c in ("case_id", "slide_id") if c in table.columns), "case_id")
            table.require(column)
            groups[name] = _Group.of(table, column, owner_of, is_column=False)
    held_out = [name for name in ("test", "val") if name in groups and groups[name].members()]
    if not held_out or not groups["train"].members():
        raise DataError(f"{groups['train'].table.path}: train, or val and test, are empty; expected patients in both")
    test, *more = held_out
    return _Split((groups["train"], *(groups[name] for name in more)), groups[test])
