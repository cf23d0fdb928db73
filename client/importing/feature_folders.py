"""Folders of patch features among the sources, with the settings that read them."""

import re
from collections.abc import Sequence
from pathlib import Path

from client.importing.outcome import Imported, Section
from memamba_core.data.features.layouts import CLAM_FOLDERS, TRIDENT_PREFIX
from memamba_core.data.features.patch_files import PATCH_SUFFIXES

__all__ = ["find_feature_folders", "propose_features"]

_UNKNOWN_ENCODER = "unknown"
_MAGNIFICATION = re.compile(r"(\d+(?:\.\d+)?)x(_|$)")
"""Magnification at the start of the name of a folder for one patch size: `20x_256px_0px_overlap`."""


def find_feature_folders(source: Path) -> list[Path]:
    """Return the folders that `data.features.path` may name: `source` itself, or folders directly below it."""
    if _has_features(source):
        return [source]
    below = sorted(folder for folder in source.iterdir() if folder.is_dir() and not folder.name.startswith("."))
    return [folder for folder in below if _has_features(folder)]


def propose_features(imported: Imported, folders: Sequence[Path], base: Path) -> None:
    """Propose the first folder of features; further ones and an unknown encoder are questions."""
    folder = folders[0]
    encoders = sorted({path.name.removeprefix(TRIDENT_PREFIX) for path in _trident(folder)})
    encoder = encoders[0] if encoders else _UNKNOWN_ENCODER
    section = Section({"path": str(folder.resolve().relative_to(base)), "encoder": encoder})
    imported.sections["features"] = section
    if len(encoders) == 1:
        section.evidence["encoder"] = f"name of the folder {TRIDENT_PREFIX}{encoder}"
    elif encoders:
        imported.ask(
            "features.encoder", f"the folder has the encoders {', '.join(encoders)}; which one do all sites use?"
        )
    else:
        imported.ask(
            "features.encoder",
            "which network computed these features? Nothing in the names of the folders says it, and all sites must "
            "write the same name.",
        )
    steps = [*(path.parent.name for path in _trident(folder)), folder.parent.name, folder.name]
    magnifications = {float(match[1]) for name in steps if (match := _MAGNIFICATION.match(name))}
    if len(magnifications) == 1:
        section.settings["magnification"] = magnifications.pop()
        section.evidence["magnification"] = "name of the folder of the patch size"
    if len(folders) > 1:
        others = ", ".join(str(other.resolve().relative_to(base)) for other in folders[1:8])
        imported.ask("features.path", f"{len(folders)} folders have features: also {others}. Is the first one right?")


def _has_features(folder: Path) -> bool:
    return any((folder / name).is_dir() for name in CLAM_FOLDERS) or bool(_trident(folder)) or _has_files(folder)


def _has_files(folder: Path) -> bool:
    return any(
        path.name.lower().endswith(tuple(PATCH_SUFFIXES)) and not path.name.startswith(".") for path in folder.iterdir()
    )


def _trident(folder: Path) -> list[Path]:
    """Return TRIDENT's folders of an encoder: `folder` itself if it is one, else those below it."""
    if folder.name.startswith(TRIDENT_PREFIX):
        return [folder]
    found = [*folder.glob(f"{TRIDENT_PREFIX}*"), *folder.glob(f"*/{TRIDENT_PREFIX}*")]
    return sorted(path for path in found if path.is_dir() and re.fullmatch(r"features_\w.*", path.name))
