"""Results of parts of a batch, put back into the order of the batch.

Patients are computed in groups, by the modalities that they have.
"""

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["BatchScatter", "take"]


class BatchScatter:
    """Vectors of some patients of a batch, collected in any order and joined in the order of the batch."""

    def __init__(self) -> None:
        self.rows: list[int] = []
        self.values: list[Tensor] = []

    def add(self, rows: list[int], values_BD: Float[Tensor, "b D"]) -> None:
        """Add the vectors of the patients at positions `rows` of the batch."""
        self.rows += rows
        self.values.append(values_BD)

    def join(self, batch: int, absent_D: Float[Tensor, " D"]) -> Float[Tensor, "B D"]:
        """Return one (batch, D) tensor with `absent_D` for patients without a vector.

        If every patient has a vector, `absent_D` is not part of the graph.
        """
        missing = sorted(set(range(batch)) - set(self.rows))
        values = self.values
        if missing:
            values = [*values, absent_D.expand(len(missing), -1)]
        rows = self.rows + missing
        back = sorted(range(batch), key=rows.__getitem__)
        return take(torch.cat(values), back)


def take(values_B: Float[Tensor, "B ..."], rows: list[int]) -> Float[Tensor, "b ..."]:
    """Return rows of a tensor; the tensor itself if `rows` names all of them in order."""
    if rows == list(range(len(values_B))):
        return values_B
    return values_B.index_select(0, torch.tensor(rows, device=values_B.device))
