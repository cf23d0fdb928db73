"""Scale of expression values (counts, TPM, logarithms, z-scores) with the evidence, and log2(x + 1) of them."""

from typing import Literal

import numpy as np
import numpy.typing as npt

from client.importing.options import Transform
from client.importing.outcome import Imported
from memamba_core.errors import DataError

__all__ = ["ScaleName", "apply_transform", "find_scale"]

ScaleName = Literal["z-scores or ratios", "counts", "TPM", "linear values (FPKM, RSEM or the like)", "logarithms"]
_LOGARITHM_LIMIT = 30
"""A base-2 logarithm above this would be of a billion reads."""


def find_scale(values_PC: npt.NDArray[np.float32]) -> tuple[ScaleName, str]:
    """Return the scale of expression values and the evidence.

    Args:
        values_PC: one row per patient, one column per gene; NaN where not measured.
    """
    known = values_PC[np.isfinite(values_PC)].astype(np.float64)
    if not known.size:
        return "logarithms", "nothing is measured"
    low, middle, high = np.quantile(known, (0.25, 0.5, 0.75))
    top = known.max()
    text = (
        f"quartiles {low:.3g}, {middle:.3g}, {high:.3g}; largest {'over 30' if top > _LOGARITHM_LIMIT else 'up to 30'}"
    )
    sums = np.nansum(values_PC.astype(np.float64), axis=1)
    if known.min() < 0:
        return "z-scores or ratios", f"{text}; some values are negative"
    if top > _LOGARITHM_LIMIT and (known % 1 == 0).mean() > 0.99:
        return "counts", f"{text}; 99% and more are whole numbers"
    if top > _LOGARITHM_LIMIT and (np.abs(sums / 1e6 - 1) < 0.05).mean() > 0.9:
        return "TPM", f"{text}; the values of a patient add up to a million"
    if top > _LOGARITHM_LIMIT:
        return "linear values (FPKM, RSEM or the like)", text
    return "logarithms", text


def apply_transform(
    imported: Imported, file: str, values_PC: npt.NDArray[np.float32], transform: Transform | None
) -> npt.NDArray[np.float32]:
    """Return log2(x + 1) of expression values if a person asked for it, else the values as they are, and say so.

    Linear values without an answer are a question: sites with different scales do not train one model.

    Raises:
        DataError: a logarithm is asked for, and values are negative.
    """
    scale, evidence = find_scale(values_PC)
    imported.found.append(f"{file}: expression looks like {scale} ({evidence})")
    if transform == "log2p1":
        if scale == "z-scores or ratios":
            raise DataError(f"{file}: has negative values, which have no logarithm: {evidence}. Leave --transform out")
        if scale == "logarithms":
            imported.ask(
                "genomics.file", f"log2(x + 1) was taken as asked, and {file} looks like {scale} already: {evidence}."
            )
        imported.found.append(f"{file}: log2(x + 1) of all expression values is written")
        return np.log2(values_PC + 1)
    if transform is None and scale not in ("z-scores or ratios", "logarithms"):
        imported.ask(
            "genomics.file",
            f"{file} looks like {scale}: {evidence}. The values are written as they are. If the other sites hold "
            "logarithms, import again with --transform log2p1; --transform none if not. All sites need one scale.",
        )
    return values_PC
