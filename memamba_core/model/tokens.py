"""Tokens of one width from measurements: patches, slide vectors, gene groups."""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from memamba_core.config.model import ModelConfig

__all__ = ["FeatureGroupTokens", "GeneGroupTokens", "GroupLinear", "PatchTokens"]


class GroupLinear(nn.Module):
    """One linear map per group of columns, each to the same width. Groups may overlap and differ in size.

    `weight` holds the groups' weights one below the other, in the order of the mapping. Initial weights are
    LeCun-normal (variance 1 / size of the group), as self-normalising networks require (Klambauer et al. 2017);
    initial biases are zero.

    Args:
        groups: name -> indices of its columns.
        width: output width H.
    """

    columns: Tensor

    def __init__(self, groups: Mapping[str, Sequence[int]], width: int) -> None:
        super().__init__()
        self._sizes = [len(columns) for columns in groups.values()]
        flat = [column for columns in groups.values() for column in columns]
        self.register_buffer("columns", torch.tensor(flat), persistent=False)
        self.weight = nn.Parameter(torch.cat([torch.randn(size, width) * size**-0.5 for size in self._sizes]))
        self.bias = nn.Parameter(torch.zeros(len(groups), width))
        # This is a bias, although it has two dimensions.
        self.bias._no_weight_decay = True  # type: ignore[attr-defined]

    def forward(self, values_BC: Float[Tensor, "*B C"]) -> Float[Tensor, "*B G H"]:
        """Return the groups' outputs, in the order of the mapping."""
        gathered = values_BC.index_select(-1, self.columns).split_with_sizes(self._sizes, dim=-1)
        weights = self.weight.split_with_sizes(self._sizes)
        outputs = [values @ weight for values, weight in zip(gathered, weights, strict=True)]
        return torch.stack(outputs, dim=-2) + self.bias


class PatchTokens(nn.Module):
    """One token per row of a bag: Linear(F -> D), ReLU, dropout."""

    def __init__(self, feature_width: int, config: ModelConfig) -> None:
        super().__init__()
        self.linear = nn.Linear(feature_width, config.d_model)
        self.dropout = nn.Dropout(config.dropout)
        self.tokens_per_row = 1

    def forward(self, patches_BPF: Float[Tensor, "B P F"]) -> Float[Tensor, "B P D"]:
        """Return the tokens in the order of the rows."""
        tokens_BPD: Tensor = self.dropout(self.linear(patches_BPF).relu())
        return tokens_BPD


class FeatureGroupTokens(nn.Module):
    """One token per row of a bag and feature group: the group's own Linear, ReLU, dropout.

    This project's own: it turns slide-level vectors, whose columns form families, into a sequence for a scan.
    """

    def __init__(self, feature_groups: Mapping[str, Sequence[int]], config: ModelConfig) -> None:
        super().__init__()
        self.linear = GroupLinear(feature_groups, config.d_model)
        self.dropout = nn.Dropout(config.dropout)
        self.tokens_per_row = len(feature_groups)

    def forward(self, patches_BPF: Float[Tensor, "B P F"]) -> Float[Tensor, "B L D"]:
        """Return L = P x groups tokens: all groups of the first row, then all of the second, and so on."""
        tokens_BPGD: Tensor = self.dropout(self.linear(patches_BPF).relu())
        return tokens_BPGD.flatten(1, 2)


class GeneGroupTokens(nn.Module):
    """One self-normalising network per gene group, two layers deep (Klambauer et al. 2017, arXiv 1706.02515).

    Each layer is Linear, SELU, dropout. The settings offer plain dropout and ELU, which depart from the recipe of
    self-normalising networks, and give the reasons.
    """

    def __init__(self, gene_groups: Mapping[str, Sequence[int]], config: ModelConfig) -> None:
        super().__init__()
        groups, hidden, d_model = len(gene_groups), config.group_hidden, config.d_model
        self.first = GroupLinear(gene_groups, hidden)
        self.second_weight = nn.Parameter(torch.randn(groups, hidden, d_model) * hidden**-0.5)
        self.second_bias = nn.Parameter(torch.zeros(groups, d_model))
        # This is a bias, although it has two dimensions.
        self.second_bias._no_weight_decay = True  # type: ignore[attr-defined]
        self._activation = {"selu": nn.SELU, "elu": nn.ELU}[config.gene_activation]()
        self.dropout = {"plain": nn.Dropout, "alpha": nn.AlphaDropout}[config.gene_dropout](config.dropout)

    def forward(self, genes_BC: Float[Tensor, "B C"]) -> Float[Tensor, "B G D"]:
        """Return one token per group, in the order of the groups."""
        hidden_BGH = self.dropout(self._activation(self.first(genes_BC)))
        mixed_GBD = torch.bmm(hidden_BGH.transpose(0, 1), self.second_weight)
        tokens_BGD: Tensor = self.dropout(self._activation(mixed_GBD.transpose(0, 1) + self.second_bias))
        return tokens_BGD
