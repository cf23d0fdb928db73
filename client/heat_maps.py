"""Attention of the pathology expert: one file per patient, from which a viewer draws a heat map over the slides."""

import io
from pathlib import Path
from urllib.parse import quote

import h5py

from memamba_core.inference import PatchAttention
from memamba_core.io.atomic import write_secret

__all__ = ["write_heat_map"]


def write_heat_map(folder: Path, case_id: str, attention: PatchAttention) -> None:
    """Write `PATIENT.h5`, readable by its owner only.

    The file holds a value per patch that was read: `attention` (float32, sums to 1), `slide` (index into the names in
    `slides`), `row` (of that slide's features file), and `coords` where all files of the patient have coordinates.
    Slides are in the order of the clinical table, and the patches of a slide in the order of its file.

    Args:
        folder: folder of the file.
        case_id: identifier of the patient. Characters that a file name cannot have are escaped, as in `%2F`.
        attention: attention to the patient's patches.

    Raises:
        OSError: the file cannot be written.
    """
    content = io.BytesIO()
    with h5py.File(content, "w") as file:
        file["attention"] = attention.attention_P
        file["slide"] = attention.slide_P
        file["row"] = attention.row_P
        file["slides"] = list(attention.slides)
        if attention.coords_P2 is not None:
            file["coords"] = attention.coords_P2
    write_secret(folder / f"{quote(case_id, safe='')}.h5", content.getvalue())
