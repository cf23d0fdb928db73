"""Tokens: each group reads its own columns, and networks start self-normalising."""

import pytest
import torch
from torch.nn import functional as F

from memamba_core.config.model import ModelConfig
from memamba_core.model.tokens import FeatureGroupTokens, GeneGroupTokens, GroupLinear, PatchTokens

GROUPS = {"a": (0, 2, 5), "b": (1, 2), "c": (4,)}


def test_group_linear_is_one_linear_per_group():
    torch.manual_seed(0)
    layer, values_BC = GroupLinear(GROUPS, 4), torch.randn(3, 6)
    start = 0
    for g, columns in enumerate(GROUPS.values()):
        weight = layer.weight[start : start + len(columns)]
        torch.testing.assert_close(layer(values_BC)[:, g], values_BC[:, list(columns)] @ weight + layer.bias[g])
        start += len(columns)


def test_gene_network_is_two_layers_per_group():
    config = ModelConfig(d_model=4, group_hidden=5)
    torch.manual_seed(0)
    model, genes_BC = GeneGroupTokens(GROUPS, config).eval(), torch.randn(3, 6)
    hidden_BGH = F.selu(model.first(genes_BC))
    for g in range(3):
        wanted = F.selu(hidden_BGH[:, g] @ model.second_weight[g] + model.second_bias[g])
        torch.testing.assert_close(model(genes_BC)[:, g], wanted)


@pytest.mark.parametrize("dropout", ["plain", "alpha"])
def test_self_normalising(dropout):
    """Standardised genes give tokens of mean about 0 and variance about 1 (Klambauer et al. 2017)."""
    config = ModelConfig(d_model=64, group_hidden=64, gene_dropout=dropout, dropout=0.1)
    torch.manual_seed(0)
    model = GeneGroupTokens({str(g): tuple(range(100 * g, 100 * g + 100)) for g in range(5)}, config)
    tokens_BGD = (model.eval() if dropout == "plain" else model.train())(torch.randn(400, 500))
    assert abs(tokens_BGD.mean()) < 0.1
    assert abs(tokens_BGD.var() - 1) < 0.2


def test_each_option_changes_something():
    torch.manual_seed(0)
    genes_BC = torch.randn(3, 6)
    options = ({}, {"gene_activation": "elu"}, {"gene_dropout": "alpha"})
    outputs = []
    for option in options:
        torch.manual_seed(1)
        outputs.append(GeneGroupTokens(GROUPS, ModelConfig(d_model=4, **option)).train()(genes_BC))
    assert not torch.equal(outputs[0], outputs[1])
    assert not torch.equal(outputs[0], outputs[2])


def test_patch_tokens():
    torch.manual_seed(0)
    model, patches_BPF = PatchTokens(6, ModelConfig(d_model=4)).eval(), torch.randn(2, 3, 6)
    wanted = (patches_BPF @ model.linear.weight.T + model.linear.bias).clamp_min(0)
    torch.testing.assert_close(model(patches_BPF), wanted)


def test_feature_groups_give_a_token_per_row_and_group():
    torch.manual_seed(0)
    model, patches_BPF = FeatureGroupTokens(GROUPS, ModelConfig(d_model=4)).eval(), torch.randn(2, 5, 6)
    tokens_BLD = model(patches_BPF)
    assert tokens_BLD.shape == (2, 15, 4)
    for row in range(5):
        wanted = model.linear(patches_BPF[:, row]).relu()
        torch.testing.assert_close(tokens_BLD[:, 3 * row : 3 * row + 3], wanted)
