"""Patients of a batch who are computed apart, by what they have, and put back into its order."""

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["BatchScatter", "take"]


class BatchScatter:
    """Vectors of some patients of a batch, gathered in any order and put back into the batch's."""

    def __init__(self) -> None:
        self.rows: list[int] = []
        self.values: list[Tensor] = []

    def add(self, rows: list[int], values_BD: Float[Tensor, "b D"]) -> None:
        """Notes the vectors of the patients at positions `rows` of the batch."""
        self.rows += rows
        self.values.append(values_BD)

    def join(self, batch: int, absent_D: Float[Tensor, " D"]) -> Float[Tensor, "B D"]:
        """One (batch, D) tensor, with `absent_D` for the others; it is out of the graph if there are none."""
        missing = sorted(set(range(batch)) - set(self.rows))
        values = self.values
        if missing:
            values = [*values, absent_D.expand(len(missing), -1)]
        rows = self.rows + missing
        back = sorted(range(batch), key=rows.__getitem__)
        return take(torch.cat(values), back)


def take(values_B: Float[Tensor, "B ..."], rows: list[int]) -> Float[Tensor, "b ..."]:
    """Rows of a tensor; the tensor itself if that is all of them in order."""
    if rows == list(range(len(values_B))):
        return values_B
    return values_B.index_select(0, torch.tensor(rows, device=values_B.device))
