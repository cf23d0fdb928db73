"""Patch features as a `FeatureStore`; `open_features` chooses between it and a slide-level table."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from memamba_core.config.site import FeatureFolder
from memamba_core.data.features.layouts import find_patch_files
from memamba_core.data.features.patch_files import (
    PATCH_SUFFIXES,
    PatchFileFacts,
    inspect_patch_file,
    read_patches,
    slide_order,
)
from memamba_core.data.features.row_choice import choose_rows
from memamba_core.data.features.slide_tables import open_slide_table
from memamba_core.data.records import FeatureStore, PatientRecord
from memamba_core.data.tables import is_table
from memamba_core.errors import DataError
from memamba_core.patient import Bag

__all__ = ["PatchFolder", "open_features", "open_patch_folder"]

LARGEST_EMPTY_FILE = 1 << 16
"""A file without a patch has at most so many bytes: header and attributes take some kilobytes, 16 patches of UNI 64."""


def open_features(config: FeatureFolder, root: Path) -> FeatureStore:
    """Open a site's features: a folder of patch features, or a table with one vector per slide.

    Args:
        config: the section `features` of site.yaml.
        root: folder that `config.path` is relative to.

    Raises:
        DataError: the features are absent or differ from the declaration.
    """
    path = root / config.path
    if is_table(path.name):
        return open_slide_table(config, root)
    if path.is_file() and path.suffix.lower() in PATCH_SUFFIXES:
        raise DataError(
            f"{path}: is a single file; expected the folder that holds it. Set data.features.path to {path.parent}"
        )
    return open_patch_folder(config, root)


@dataclass(eq=False)
class PatchFolder:
    """Patch features, or one vector per slide, in one file per slide, read on request; no file stays open.

    Attributes:
        encoder: declared encoder, with the magnification where one is declared (`uni_v1@20x`).
        width: width F of a patch in the first readable file.
        files: name of a slide -> its file.
        declared: settings that every file is compared with.
        width_source: file that `width` was read from.
        slide_level: True if that file holds one vector of the whole slide, False if patches; None where no file was
            opened, because the width is declared.
        second: name of a slide -> its other file, which is not read.
        folders: folders that hold the files.
        columns: empty; the columns of an encoder have no names.
        families: empty; a patch is one token.
    """

    encoder: str
    width: int
    files: Mapping[str, Path]
    declared: FeatureFolder
    width_source: Path
    slide_level: bool | None = None
    second: Mapping[str, Path] = field(default_factory=dict)
    folders: tuple[Path, ...] = ()
    columns: tuple[str, ...] = ()
    families: tuple[str, ...] = ()
    _empty: dict[str, bool] = field(default_factory=dict, repr=False)

    def has(self, record: PatientRecord) -> bool:
        """Return True if any slide of the patient has a file with a patch; a file that cannot be read counts as one."""
        return any(slide in self.files and not self.is_empty(slide) for slide in record.slides)

    def is_empty(self, slide: str) -> bool:
        """Return True if the slide has a file without a patch: no tissue was found. The first answer is kept.

        Only small files are opened, because a share may hold 10,000 files.
        """
        if slide not in self._empty:
            path = self.files.get(slide)
            self._empty[slide] = path is not None and _holds_no_patch(path, self.declared.dataset)
        return self._empty[slide]

    def fingerprint(self, record: PatientRecord) -> bytes:
        """Return name and size of the patient's files, as `FeatureStore.fingerprint` describes."""
        found = [(slide, self.files[slide]) for slide in record.slides if slide in self.files]
        return json.dumps([[slide, path.stat().st_size if path.exists() else -1] for slide, path in found]).encode()

    def inspect(self, record: PatientRecord) -> dict[Path, PatchFileFacts]:
        """Return the facts of the patient's files in the order of the record's slides, without reading features.

        Raises:
            DataError: a file is damaged, or of another width, encoder, magnification or kind.
        """
        return {path: self.check(path) for s in record.slides if (path := self.files.get(s)) is not None}

    def check(self, path: Path) -> PatchFileFacts:
        """Return the facts of one file, after every check that needs no values.

        Raises:
            DataError: the file is damaged, or of another width, encoder, magnification or kind.
        """
        facts = inspect_patch_file(path, self.declared.dataset)
        self.compare(path, facts)
        return facts

    def compare(self, path: Path, facts: PatchFileFacts) -> None:
        """Compare the facts of a file with the declaration and with the file that gave the width.

        Raises:
            DataError: the file is of another width, encoder, magnification or kind.
        """
        _check_declared(path, facts, self.declared)
        if facts.num_patches and self.slide_level is not None and facts.slide_level != self.slide_level:
            kinds = ("patches", "one vector of the whole slide")
            raise DataError(
                f"{path}: holds {kinds[facts.slide_level]}, but {self.width_source} {kinds[self.slide_level]}. Point "
                "data.features.path to a folder of one kind"
            )
        if facts.num_patches and facts.width != self.width:
            raise DataError(
                f"{path}: a patch has width {facts.width}, but {self.width} in {self._width_source()}. They "
                "come from different encoders; extract all slides with one"
            )

    def load(
        self, record: PatientRecord, max_patches: int | None = None, rng: np.random.Generator | None = None
    ) -> Bag | None:
        """Read the patches of all slides of the patient that have a file, in the order of the record's slides.

        Within a slide, patches are sorted by (y, x) where coordinates are known. Under a limit, each slide keeps its
        share (`choose_rows`). Coordinates are relative to their own slide; they are None if one slide has none.

        Args:
            record: the patient.
            max_patches: most rows to return over all slides; None for all.
            rng: samples rows at random without replacement; None takes them evenly spaced.

        Returns:
            float32 patches and int64 coordinates, or None where no slide has a patch.

        Raises:
            DataError: a file is damaged, of another width, encoder or magnification, or holds values that are
                not finite.
        """
        dataset = self.declared.dataset
        parts = [read_patches(path, places, dataset) for path, places in self._chosen(record, max_patches, rng)]
        if not parts:
            return None
        coords = [coords_P2 for _, coords_P2 in parts if coords_P2 is not None]
        return Bag(
            patches_PF=torch.from_numpy(parts[0][0] if len(parts) == 1 else np.concatenate([p for p, _ in parts])),
            coords_P2=torch.from_numpy(np.concatenate(coords)) if len(coords) == len(parts) else None,
        )

    def rows_of(self, record: PatientRecord, max_patches: int | None = None) -> dict[str, npt.NDArray[np.int64]]:
        """Return the origin of the rows of `load(record, max_patches)`: slide name -> rows of its file, in their order.

        Raises:
            DataError: as `load`.
        """
        chosen = self._chosen(record, max_patches, None)
        slides = {self.files[slide]: slide for slide in record.slides if slide in self.files}
        return {slides[path]: slide_order(path, self.declared.dataset)[places] for path, places in chosen}

    def _width_source(self) -> str:
        return "data.features.width" if self.declared.width is not None else str(self.width_source)

    def _chosen(
        self, record: PatientRecord, max_patches: int | None, rng: np.random.Generator | None
    ) -> list[tuple[Path, npt.NDArray[np.int64]]]:
        """Return the files with at least one patch to keep, and the positions of these patches in slide order."""
        facts = self.inspect(record)
        ends = np.cumsum([fact.num_patches for fact in facts.values()], dtype=np.int64)
        rows = choose_rows(int(ends[-1]) if len(ends) else 0, max_patches, rng)
        starts = ends - [fact.num_patches for fact in facts.values()]
        kept = [
            rows[np.searchsorted(rows, a) : np.searchsorted(rows, b)] - a for a, b in zip(starts, ends, strict=True)
        ]
        return [(path, places) for path, places in zip(facts, kept, strict=True) if len(places)]


def open_patch_folder(config: FeatureFolder, root: Path) -> PatchFolder:
    """Find the files of an encoder (`find_patch_files`) and its width, without reading features.

    The width is the declared one, or that of the first readable file.

    Raises:
        DataError: no files are found, none of them is readable, or the first readable one has TRIDENT
            attributes that contradict the declared encoder or magnification.
    """
    found = find_patch_files(root / config.path, config.encoder, config.magnification)
    at = "" if config.magnification is None else f"@{config.magnification:g}x"

    def folder(width: int, source: Path, slide_level: bool | None) -> PatchFolder:
        name = f"{config.encoder}{at}"
        return PatchFolder(name, width, found.files, config, source, slide_level, found.second, found.folders)

    if config.width is not None:  # no file is opened: what a site declares depends on none
        return folder(config.width, root / config.path, None)
    damaged: DataError | None = None
    for path in found.files.values():
        try:
            facts = inspect_patch_file(path, config.dataset)
        except DataError as error:  # one bad slide must not hide the others; reading that patient raises it again
            damaged = damaged or error
            continue
        if facts.num_patches:
            _check_declared(path, facts, config)
            return folder(facts.width, path, facts.slide_level)
    raise damaged or DataError(
        f"{root / config.path}: none of the {len(found.files)} files holds a patch. Check the tissue segmentation "
        "and extract again"
    )


def _holds_no_patch(path: Path, dataset: str | None) -> bool:
    try:
        return path.stat().st_size <= LARGEST_EMPTY_FILE and not inspect_patch_file(path, dataset).num_patches
    except (DataError, OSError):  # reading the patient names the fault
        return False


def _check_declared(path: Path, facts: PatchFileFacts, declared: FeatureFolder) -> None:
    """Compare what TRIDENT or STAMP wrote into the file with site.yaml."""
    expected = declared.encoder if declared.encoder_in_files is None else declared.encoder_in_files
    if facts.encoder is not None and _spelled(facts.encoder) != _spelled(expected):
        setting = "encoder" if declared.encoder_in_files is None else "encoder_in_files"
        raise DataError(
            f"{path}: was made by encoder {facts.encoder!r}, but data.features.{setting} says "
            f"{expected!r}. Correct the setting, or point data.features.path to the other encoder's "
            "folder; if both names mean one encoder, write the name in the files as data.features.encoder_in_files"
        )
    if None not in (facts.magnification, declared.magnification) and facts.magnification != declared.magnification:
        raise DataError(
            f"{path}: was made at {facts.magnification:g}x, but data.features.magnification says "
            f"{declared.magnification:g}. Correct the setting, or point data.features.path to the other "
            "folder"
        )


def _spelled(encoder: str) -> str:
    """Return a name without case and separators: programs write `UNI-v1` and `uni_v1`."""
    return re.sub(r"[-_.\s]", "", encoder.casefold())
