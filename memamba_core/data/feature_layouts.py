"""Find the files of an encoder in the folder layouts of CLAM and TRIDENT, or in a plain folder."""

import re
from pathlib import Path

from memamba_core.data.patch_files import PATCH_SUFFIXES
from memamba_core.data.slide_names import slide_name
from memamba_core.errors import DataError

__all__ = ["find_patch_files"]

CLAM_FOLDERS = ("pt_files", "h5_files")
TRIDENT_PREFIX = "features_"
TRIDENT_MAGNIFICATION = re.compile(r"(\d+(?:\.\d+)?)x_")
"""Magnification at the start of the name of a TRIDENT folder for one patch size: `20x_256px_0px_overlap`."""


def find_patch_files(path: Path, encoder: str, magnification: float | None) -> dict[str, Path]:
    """Find the files of patch features of one encoder.

    Layouts, tried in this order:

    * CLAM: `h5_files/*.h5` and `pt_files/*.pt` below `path`;
    * plain: `.h5` or `.pt` files directly in `path` (CLAM's or TRIDENT's innermost folder, or any other);
    * TRIDENT: `features_ENCODER` below `path` or below a folder of it such as `20x_256px_0px_overlap`. The
      folder with the name of the declared encoder is used, at the declared magnification.

    A slide with both an `.h5` and a `.pt` file is read from the `.h5`, which has coordinates.

    Args:
        path: the folder that the site.yaml names.
        encoder: the declared encoder.
        magnification: the declared magnification, or None.

    Returns:
        Name of the slide -> its file, sorted by name.

    Raises:
        DataError: no such folder; no files in it; no folder, or several, of the encoder; two files of one
            slide.
    """
    if not path.is_dir():
        raise DataError(
            f"{path}: no such folder; expected patch features in CLAM's or TRIDENT's layout. {_CORRECT_PATH}"
        )
    clam = [path / name for name in CLAM_FOLDERS if (path / name).is_dir()]
    folders = clam or ([path] if _files(path) else [_choose_trident(path, encoder, magnification)])
    found: dict[str, Path] = {}
    for folder in folders:
        for file in _files(folder):
            name = slide_name(file.name)
            other = found.get(name)
            if other is not None and (other.suffix == ".pt") == (file.suffix == ".pt"):
                raise DataError(f"{file}: is the same slide as {other.name}. Keep one of the two files")
            if other is None or other.suffix == ".pt":
                found[name] = file
    if not found:
        raise DataError(f"{path}: has CLAM's folders, but no .h5 or .pt file in them. {_CORRECT_PATH}")
    return dict(sorted(found.items()))


_CORRECT_PATH = "Correct data.features.path, or extract features first"


def _files(folder: Path) -> list[Path]:
    """Return the feature files directly in the folder, without hidden ones: macOS leaves `._name.h5` behind."""
    return sorted(f for f in folder.iterdir() if f.suffix in PATCH_SUFFIXES and not f.name.startswith("."))


def _choose_trident(path: Path, encoder: str, magnification: float | None) -> Path:
    """Return the TRIDENT folder of the declared encoder and magnification."""
    candidates = sorted(
        folder
        for pattern in (f"{TRIDENT_PREFIX}*", f"*/{TRIDENT_PREFIX}*")
        for folder in path.glob(pattern)
        if folder.is_dir() and _files(folder)
    )
    if not candidates:
        raise DataError(
            f"{path}: has neither h5_files or pt_files (CLAM), nor features_ENCODER (TRIDENT), nor .h5 or "
            f".pt files. {_CORRECT_PATH}"
        )
    listed = ", ".join(str(folder.relative_to(path)) for folder in candidates)
    named = [folder for folder in candidates if folder.name.casefold() == f"{TRIDENT_PREFIX}{encoder}".casefold()]
    if not named:
        raise DataError(
            f"{path}: no folder {TRIDENT_PREFIX}{encoder}; found {listed}. Set data.features.encoder to the "
            "encoder of the features, or point data.features.path to the folder itself"
        )
    if len(named) > 1 and magnification is not None:
        named = [folder for folder in named if _magnification(folder) == magnification] or named
    if len(named) > 1:
        raise DataError(
            f"{path}: several folders of {encoder}: "
            f"{', '.join(str(folder.relative_to(path)) for folder in named)}. Set "
            "data.features.magnification, or point data.features.path to the one to use"
        )
    return named[0]


def _magnification(folder: Path) -> float | None:
    match = TRIDENT_MAGNIFICATION.match(folder.parent.name)
    return float(match[1]) if match else None
