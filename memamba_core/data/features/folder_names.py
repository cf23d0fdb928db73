"""List the feature files of a folder, and say why a folder has none."""

import os
from collections import Counter
from pathlib import Path

from memamba_core.data.features.patch_files import PATCH_SUFFIXES
from memamba_core.errors import DataError

__all__ = [
    "COORDINATE_FOLDERS",
    "explain_absent_features",
    "explain_absent_folder",
    "list_feature_files",
    "list_unfinished",
]

UNFINISHED_SUFFIXES = (".part", ".partial", ".tmp", ".temp", ".crdownload", ".download", ".filepart", ".lock")
"""Extensions that copy programs and TRIDENT put behind the name of a file that is not complete."""
_SLIDES = (".svs", ".tif", ".tiff", ".ndpi", ".mrxs", ".scn", ".bif", ".czi", ".vsi", ".qptiff", ".isyntax", ".dcm")
_ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".7z", ".zst", ".xz")
_PICKLES = (".pkl", ".pickle", ".pth", ".joblib")
COORDINATE_FOLDERS = ("patches", "masks", "stitches")
"""Folders of CLAM and TRIDENT that hold patch coordinates and pictures."""
_CORRECT_PATH = "Correct data.features.path, or extract features first"


def list_feature_files(folder: Path) -> list[Path]:
    """Return the feature files directly in the folder, without hidden ones: macOS leaves `._name.h5` behind.

    Raises:
        DataError: the folder cannot be listed.
    """
    return [folder / name for name in _names(folder) if name.lower().endswith(PATCH_SUFFIXES)]


def list_unfinished(folder: Path) -> list[str]:
    """Return the names in the folder that copy programs and TRIDENT give to files that are not complete."""
    return [name for name in _names(folder) if name.lower().endswith(UNFINISHED_SUFFIXES)]


def explain_absent_folder(path: Path) -> DataError:
    """Return the error for a folder that is not there."""
    nearest = next((p for p in (path, *path.parents) if p.is_symlink() and not p.exists()), None)
    if nearest is not None:
        return DataError(
            f"{path}: {'is' if nearest == path else f'{nearest} is'} a link to {nearest.readlink()}, which is not "
            "there. Mount the share that holds it, or correct the link"
        )
    if path.is_file():
        return DataError(f"{path}: is a file; expected a folder of patch features, or a table. {_CORRECT_PATH}")
    return DataError(
        f"{path}: no such folder; expected patch features in CLAM's, TRIDENT's or STAMP's layout. {_CORRECT_PATH}"
    )


def explain_absent_features(path: Path, folders: tuple[Path, ...]) -> DataError:
    """Return the error for a folder without feature files, with what it holds instead.

    Args:
        path: the folder that the site.yaml names.
        folders: the folders in which files were expected.
    """
    names = [name for folder in folders for name in _names(folder)]
    for name in _names(path):
        if not (path / name).exists():
            raise explain_absent_folder(path / name)
    suffixes = Counter(Path(name).suffix.lower() for name in names)
    for kinds, what, remedy in (
        (
            UNFINISHED_SUFFIXES,
            "unfinished copies",
            "Wait until the copy or the extraction has finished",
        ),
        (_SLIDES, "whole-slide images, not features", "Extract features first, with CLAM, TRIDENT or STAMP"),
        (_ARCHIVES, "archives", "Unpack them"),
        (_PICKLES, "pickles, which can run code and are not opened", "Save tensors as .pt, or arrays as .npy"),
    ):
        present = {suffix: suffixes[suffix] for suffix in kinds if suffixes[suffix]}
        if present:
            listed = ", ".join(f"{count} {suffix}" for suffix, count in present.items())
            return DataError(f"{path}: holds {what} ({listed}). {remedy}")
    if folders != (path,):
        return DataError(f"{path}: has CLAM's folders, but no .h5 or .pt file in them. {_CORRECT_PATH}")
    if present_folders := [name for name in COORDINATE_FOLDERS if (path / name).is_dir()]:
        return DataError(
            f"{path}: holds {', '.join(present_folders)}, which are patch coordinates and pictures, but no features. "
            "Point data.features.path to the folder of the features, or extract them first"
        )
    below = sorted(name for name in names if (path / name).is_dir())[:8]
    return DataError(
        f"{path}: has neither h5_files or pt_files (CLAM), nor features_ENCODER (TRIDENT), nor ENCODER (STAMP), nor "
        f"feature files ({', '.join(PATCH_SUFFIXES)})"
        + (f"; it holds the folders {', '.join(below)}" if below else "; it is empty" if not names else "")
        + f". {_CORRECT_PATH}"
    )


def _names(folder: Path) -> list[str]:
    try:
        return sorted(entry.name for entry in folder.iterdir() if not entry.name.startswith("."))
    except PermissionError:
        raise DataError(
            f"{folder}: may not be listed by user {os.getuid()}. Give this user the right to read the folder"
        ) from None
    except OSError as error:
        raise DataError(f"{folder}: cannot be listed ({error.strerror}). Check the disk or the share") from None
