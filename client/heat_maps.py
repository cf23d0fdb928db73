"""Attention of the pathology expert: one file per patient, from which a viewer draws a heat map over the slides."""

import io
from pathlib import Path
from urllib.parse import quote

import h5py
import numpy as np

from memamba_core.data.dataset import PatientDataset
from memamba_core.data.features import PatchFolder
from memamba_core.io.atomic import write_secret
from memamba_core.model import MEMamba

__all__ = ["write_heat_map"]


def write_heat_map(folder: Path, model: MEMamba, dataset: PatientDataset, index: int) -> None:
    """Write `PATIENT.h5`, readable by its owner only.

    The file holds a value per patch that was read: `attention` (float32, sums to 1), `slide` (index into the names in
    `slides`), `row` (of that slide's features file), and `coords` where all files of the patient have coordinates.
    Slides are in the order of the clinical table, and the patches of a slide in the order of its file.

    Args:
        folder: of the file. Characters of a case id that a file name cannot have are escaped, as in `%2F`.
        model: in evaluation mode.
        dataset: of the patient; its features are patch features.
        index: of the patient in `dataset`; the patient has a bag.

    Raises:
        DataError: the features can no longer be read.
        OSError: the file cannot be written.
    """
    record, store = dataset.records[index], dataset.cohort.features
    assert isinstance(store, PatchFolder)
    patient = dataset.load(index)
    assert patient.bag is not None
    device = next(model.parameters()).device
    rows = store.rows_of(record, dataset.max_patches)
    row = np.concatenate(list(rows.values()))
    slide = np.repeat(np.arange(len(rows), dtype=np.int32), [len(part) for part in rows.values()])
    attention_P = model.patch_attention(patient.to(device)).float().cpu().numpy()
    assert len(row) == len(attention_P)
    order = np.lexsort((row, slide))
    content = io.BytesIO()
    with h5py.File(content, "w") as file:
        file["attention"] = attention_P[order]
        file["slide"] = slide[order]
        file["row"] = row[order]
        file["slides"] = list(rows)
        if patient.bag.coords_P2 is not None:
            file["coords"] = patient.bag.coords_P2.numpy()[order]
    write_secret(folder / f"{quote(record.case_id, safe='')}.h5", content.getvalue())
