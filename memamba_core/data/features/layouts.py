"""Find the files of an encoder in the folder layouts of CLAM, TRIDENT and STAMP, or in a plain folder."""

import os
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from memamba_core.data.features.folder_names import (
    COORDINATE_FOLDERS,
    explain_absent_features,
    explain_absent_folder,
    list_feature_files,
)
from memamba_core.data.identifiers.slide_names import slide_name
from memamba_core.errors import DataError

__all__ = ["TRIDENT_FOLDER", "FoundFiles", "find_patch_files"]

CLAM_FOLDERS = ("pt_files", "h5_files")
TRIDENT_PREFIX = "features_"
TRIDENT_SLIDE_PREFIX = "slide_features_"
TRIDENT_FOLDER = re.compile(r"(\d+(?:\.\d+)?)x_(\d+)px_(?:(\d+)px_overlap)?", re.IGNORECASE)
"""Name of a TRIDENT folder for one magnification, patch size and overlap: `20x_256px_0px_overlap`."""
STAMP_HASH = r"(?:-[0-9a-f]{8})?"
"""End of the name of a STAMP folder: the hash of the code that extracted the features."""


@dataclass(frozen=True)
class FoundFiles:
    """Feature files of one encoder.

    Attributes:
        files: name of a slide -> its file, sorted by name.
        second: name of a slide -> its other file, which is not read (`.pt` where there is an `.h5`).
        folders: folders that were looked into.
    """

    files: dict[str, Path]
    second: dict[str, Path] = field(default_factory=dict)
    folders: tuple[Path, ...] = ()


def find_patch_files(path: Path, encoder: str, magnification: float | None) -> FoundFiles:
    """Find the files of features of one encoder.

    Layouts, tried in this order:

    * CLAM: files in `h5_files` and `pt_files` below `path`;
    * plain: files directly in `path` (the innermost folder of CLAM, TRIDENT or STAMP, or any other);
    * TRIDENT: `features_ENCODER` (or, for a slide encoder, `slide_features_ENCODER`) below `path` or below a folder of
      it such as `20x_256px_0px_overlap`, at the declared magnification;
    * STAMP: `ENCODER` or `ENCODER-HASH` below `path`, with folders in it as the slides had them.

    A slide with an HDF5 file and another one is read from the HDF5 file, which has coordinates.

    Args:
        path: the folder that the site.yaml names.
        encoder: the declared encoder.
        magnification: the declared magnification, or None.

    Raises:
        DataError: no such folder; no files in it; no folder, or several, of the encoder; a folder of another
            magnification; two files of one slide.
    """
    if not path.is_dir():
        raise explain_absent_folder(path)
    _check_magnification(path, path, encoder, magnification)
    clam = tuple(path / name for name in CLAM_FOLDERS if (path / name).is_dir())
    if clam:
        folders: tuple[Path, ...] = clam
    elif list_feature_files(path):
        folders = (path,)
    elif candidates := _trident_folders(path):
        folders = (_choose_trident(path, candidates, encoder, magnification),)
    else:
        folders = _stamp_folders(path, encoder)
    found, second = dict[str, Path](), dict[str, Path]()
    for folder in folders:
        for file in list_feature_files(folder):
            name = slide_name(file.stem)
            other = found.get(name)
            if other is None:
                found[name] = file
            elif _is_hdf5(other) == _is_hdf5(file):
                raise DataError(f"{file}: is the same slide as {_relative(other, file)}. Keep one of the two files")
            else:
                found[name], second[name] = (file, other) if _is_hdf5(file) else (other, file)
    if not found:
        raise explain_absent_features(path, folders or (path,))
    return FoundFiles(dict(sorted(found.items())), second, folders)


def _is_hdf5(file: Path) -> bool:
    return file.suffix.lower() in (".h5", ".hdf5")


def _relative(other: Path, file: Path) -> str:
    return other.name if other.parent == file.parent else str(other)


def _stamp_folders(path: Path, encoder: str) -> tuple[Path, ...]:
    """Return STAMP's folder of the encoder and the folders in it that hold files; empty if there is no such layout."""
    pattern = re.compile(re.escape(encoder) + STAMP_HASH, re.IGNORECASE)
    inside = [path] if pattern.fullmatch(path.name) else []
    named = inside or [f for f in sorted(path.iterdir()) if pattern.fullmatch(f.name) and f.is_dir()]
    holding = {folder: tuple(f for f in (folder, *_folders_below(folder)) if list_feature_files(f)) for folder in named}
    used = [folder for folder in named if holding[folder]]
    if len(used) > 1:
        raise DataError(
            f"{path}: several folders of {encoder}: {', '.join(f.name for f in used)}, made by different versions of "
            "STAMP's code. Point data.features.path to the one to use"
        )
    return holding[used[0]] if used else ()


def _folders_below(folder: Path) -> Iterator[Path]:
    for root, names, _ in os.walk(folder):
        names[:] = sorted(name for name in names if name not in COORDINATE_FOLDERS)
        yield from (Path(root) / name for name in names)


def _trident_folders(path: Path) -> list[Path]:
    """Return TRIDENT's folders of all encoders that hold files."""
    return sorted(
        folder
        for prefix in (TRIDENT_PREFIX, TRIDENT_SLIDE_PREFIX)
        for pattern in (f"{prefix}*", f"*/{prefix}*")
        for folder in path.glob(pattern)
        if folder.is_dir() and list_feature_files(folder)
    )


def _choose_trident(path: Path, candidates: list[Path], encoder: str, magnification: float | None) -> Path:
    """Return the TRIDENT folder of the declared encoder and magnification."""
    named = next(
        (
            found
            for prefix in (TRIDENT_PREFIX, TRIDENT_SLIDE_PREFIX)
            if (found := [f for f in candidates if f.name.casefold() == f"{prefix}{encoder}".casefold()])
        ),
        [],
    )
    if not named:
        raise DataError(
            f"{path}: no folder {TRIDENT_PREFIX}{encoder}; found {_listed(path, candidates)}. Set "
            "data.features.encoder to the encoder of the features, or point data.features.path to the folder itself"
        )
    fitting = named
    if magnification is not None:
        fitting = [folder for folder in named if magnification_of(folder) in (None, magnification)]
        if not fitting:
            raise DataError(
                f"{path}: no folder of {encoder} at {magnification:g}x; found {_listed(path, named)}. Correct "
                "data.features.magnification, or extract at that magnification"
            )
        fitting = [folder for folder in fitting if magnification_of(folder) == magnification] or fitting
    if len(fitting) > 1:
        raise _several(path, encoder, fitting)
    return fitting[0]


def _several(path: Path, encoder: str, folders: list[Path]) -> DataError:
    """Return the error for several folders of one encoder, with what tells them apart."""
    said = [TRIDENT_FOLDER.match(folder.parent.name) for folder in folders]
    differences = defaultdict[str, list[str]](list)
    for index, what, unit in ((1, "magnification", "x"), (2, "patch size", "px"), (3, "overlap", "px")):
        values = [match[index] for match in said if match is not None and match[index] is not None]
        if len(set(values)) > 1:
            differences[what] = [f"{value}{unit}" for value in dict.fromkeys(values)]
    remedy = "point data.features.path to one of them"
    if "magnification" in differences:
        remedy = f"set data.features.magnification, or {remedy}"
    differ = "; ".join(f"{what} {' and '.join(values)}" for what, values in differences.items())
    return DataError(
        f"{path}: several folders of {encoder}: {_listed(path, folders)}. "
        + (f"They differ in {differ}; {remedy}" if differ else f"{remedy[0].upper()}{remedy[1:]}")
    )


def magnification_of(folder: Path) -> float | None:
    """Return the magnification in the name of a TRIDENT folder or of the folder above; None if neither has one."""
    for name in (folder.name, folder.parent.name):
        if match := TRIDENT_FOLDER.match(name):
            return float(match[1])
    return None


def _check_magnification(path: Path, folder: Path, encoder: str, declared: float | None) -> None:
    """Compare the folder's name with the declared magnification."""
    said = magnification_of(folder)
    if declared is not None and said is not None and said != declared:
        raise DataError(
            f"{path}: the name of the folder says {said:g}x, but data.features.magnification says {declared:g}. No "
            f"folder of {encoder} at {declared:g}x was found. Correct the setting, or point data.features.path to "
            "another folder"
        )


def _listed(path: Path, folders: list[Path]) -> str:
    return ", ".join(str(folder.relative_to(path)) for folder in folders)
