"""An expert scores, sorts, scans, and pools."""

import pytest
import torch

from memamba_core.config.model import ModelConfig
from memamba_core.model.attention import GatedAttention, attention_pool
from memamba_core.model.experts import Expert

CONFIG = ModelConfig(d_model=8, d_state=4, num_layers=2)


def expert(*scans, config=CONFIG):
    torch.manual_seed(0)
    return Expert(config, config.num_layers, scans).double()


def tokens(batch=2, length=11):
    return torch.randn(batch, length, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("scans", [(), ("attention",)])
def test_attention_alone_does_not_see_the_order(scans):
    model, tokens_BLD = expert(*scans), tokens()
    shuffled_L = torch.randperm(11, generator=torch.Generator().manual_seed(2))
    plain, shuffled = model(tokens_BLD), model(tokens_BLD[:, shuffled_L])
    torch.testing.assert_close(shuffled.pooled_BD, plain.pooled_BD, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(shuffled.tokens_BLD, plain.tokens_BLD[:, shuffled_L], rtol=1e-10, atol=1e-12)


def test_conventional_scan_sees_the_order():
    model, tokens_BLD = expert("conventional"), tokens()
    assert not torch.allclose(model(tokens_BLD).pooled_BD, model(tokens_BLD.flip(1)).pooled_BD)


@pytest.mark.parametrize("order", ["ascending", "descending"])
def test_attention_scan_runs_in_the_order_of_the_scores(order):
    """The scan is causal: the last token influences only its own output."""
    model = expert("attention", config=CONFIG.model_copy(update={"attention_order": order, "num_layers": 1}))
    tokens_BLD = tokens(batch=1).requires_grad_()
    output = model(tokens_BLD)
    last = output.scores_BL[0].argmax() if order == "ascending" else output.scores_BL[0].argmin()
    others = [i for i in range(11) if i != last]
    (gradient,) = torch.autograd.grad(output.tokens_BLD[0, others].sum(), tokens_BLD)
    assert gradient[0, last].abs().max() == 0
    assert all(gradient[0, i].abs().max() > 0 for i in others)


@pytest.mark.parametrize("order", ["ascending", "descending"])
def test_ties_keep_their_places(order):
    """With equal scores the attention-based scan is the conventional one, gated."""
    model = expert("attention", config=CONFIG.model_copy(update={"attention_order": order, "num_layers": 1}))
    torch.nn.init.zeros_(model.attention.score.weight)
    tokens_BLD, layer = tokens(), model.layers[0]
    wanted = tokens_BLD + 0.5 * layer.attention(layer.norm(tokens_BLD))
    torch.testing.assert_close(model(tokens_BLD).tokens_BLD, wanted)


def test_the_gate_passes_a_gradient_to_the_scores():
    model = expert("attention")
    model(tokens()).tokens_BLD.square().sum().backward()
    assert model.attention.score.weight.grad.abs().max() > 0


def test_gated_attention_is_the_formula():
    torch.manual_seed(0)
    attention, tokens_BLD = GatedAttention(8).double(), tokens()
    (V, U), (v, u) = attention.hidden.weight.chunk(2), attention.hidden.bias.chunk(2)
    w = attention.score.weight[0]
    for b in range(2):
        for i in range(11):
            h = tokens_BLD[b, i]
            wanted = w @ (torch.tanh(V @ h + v) * torch.sigmoid(U @ h + u))
            torch.testing.assert_close(attention(tokens_BLD)[b, i], wanted)


def test_pool_is_the_weighted_mean():
    scores_BL = torch.tensor([[0.0, torch.log(torch.tensor(3.0))]])
    pooled = attention_pool(torch.tensor([[[4.0], [8.0]]]), scores_BL)
    torch.testing.assert_close(pooled, torch.tensor([[7.0]]))


def test_scores_stay_float32_under_autocast():
    attention, tokens_BLD = GatedAttention(8), tokens().float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = attention(tokens_BLD)
    assert mixed.dtype == torch.float32
    assert torch.equal(mixed, attention(tokens_BLD))


def test_recomputed_scans_keep_less_and_change_nothing():
    """Between the passes a block keeps its input; the numbers are the same to the last bit."""

    def gradients(model):
        kept = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
            loss = model(tokens().float()).pooled_BD.square().sum()
        return torch.autograd.grad(loss, list(model.parameters())), sum(kept)

    plain = expert("conventional", "attention").float()
    recomputed = Expert(CONFIG.model_copy(update={"recompute": True}), 2, ("conventional", "attention"))
    recomputed.load_state_dict(plain.state_dict())
    (wanted, all_kept), (got, some_kept) = gradients(plain), gradients(recomputed)
    assert all(torch.equal(a, b) for a, b in zip(got, wanted, strict=True))
    assert some_kept < all_kept / 2
