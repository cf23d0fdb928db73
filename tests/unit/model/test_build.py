"""The whole model: experts that are built, seeds, precision, and one number that must not change."""

import pytest
import torch

from memamba_core.config.model import ModelConfig
from memamba_core.errors import ConfigError
from memamba_core.model import build_model
from memamba_core.patient import Bag, InputSpec, PatientInputs, SurvivalTarget

GENES = {"num_genes": 6, "gene_groups": {"a": (0, 1, 2), "b": (2, 3), "c": (4, 5)}}
SPEC = InputSpec(num_bins=3, feature_width=7, **GENES)
SMALL = ModelConfig(d_model=8, d_state=2, group_hidden=5)


def patients():
    """Fixed inputs that need no generator."""
    patches_PF = torch.sin(torch.arange(35.0)).view(5, 7)
    genes_C = torch.cos(torch.arange(6.0))
    target = SurvivalTarget(10.0, True, 1)
    return [
        PatientInputs(target, Bag(patches_PF), genes_C),
        PatientInputs(target, Bag(patches_PF.flip(0)[:4])),
        PatientInputs(target, genes_C=-genes_C),
    ]


def test_golden_output():
    """If this number changes, models of two versions cannot be averaged: say so in the changelog."""
    output = build_model(SMALL, SPEC, seed=0).eval()(patients())
    assert output.logits_BK.tolist() == [pytest.approx(row, abs=2e-4) for row in GOLDEN_LOGITS]
    assert output.mmd.item() == pytest.approx(GOLDEN_MMD, abs=2e-4)


GOLDEN_LOGITS = [[-1.4319, -1.4965, -1.6020], [-1.5102, -1.4631, -1.5195], [-1.5180, -1.5550, -1.5871]]
GOLDEN_MMD = 0.6343


def test_a_function_of_the_seed_alone():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = build_model(SMALL, SPEC, seed=3).state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    second, other = (build_model(SMALL, SPEC, seed=seed).state_dict() for seed in (3, 4))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["head.0.weight"], other["head.0.weight"])


def test_the_state_holds_float32_parameters_only():
    model = build_model(SMALL, SPEC, seed=0)
    assert set(model.state_dict()) == {name for name, _ in model.named_parameters()}
    assert {tensor.dtype for tensor in model.state_dict().values()} == {torch.float32}


def test_marks_for_the_optimizer():
    parameters = dict(build_model(SMALL, SPEC, seed=0).named_parameters())
    assert [n for n, p in parameters.items() if hasattr(p, "_skip_weight_decay")] == ["genomics.linear_skip.weight"]
    free = {n.rpartition(".")[2] for n, p in parameters.items() if getattr(p, "_no_weight_decay", False)}
    assert free == {"A_log", "D", "bias", "second_bias"}


def test_an_expert_without_inputs_is_not_built():
    genes_only = build_model(SMALL, InputSpec(num_bins=3, **GENES), seed=0)
    assert genes_only.pathology is None
    assert genes_only.synergistic is None
    assert genes_only([patients()[2]]).logits_BK.shape == (1, 3)
    slides_only = build_model(SMALL, InputSpec(num_bins=3, feature_width=7), seed=0)
    assert slides_only.genomics is None
    assert slides_only([patients()[1]]).logits_BK.shape == (1, 3)
    with pytest.raises(ConfigError, match=r"\['pathology'\], and the sites agreed on 0 slide features"):
        build_model(ModelConfig(experts=("pathology",)), InputSpec(num_bins=3, **GENES), seed=0)


@pytest.mark.parametrize("experts", [("pathology",), ("genomics",), ("pathology", "genomics")])
def test_every_ablation_predicts_for_everybody(experts):
    model = build_model(SMALL.model_copy(update={"experts": experts}), SPEC, seed=0)
    assert model(patients()).logits_BK.isfinite().all()


def test_linear_skip_shifts_all_logits_of_those_with_genes():
    model = build_model(SMALL, SPEC, seed=0).eval()
    before = model(patients()).logits_BK
    torch.nn.init.constant_(model.genomics.linear_skip.weight, 0.1)
    shift = 15 / 6**0.5 * 0.1 * torch.cos(torch.arange(6.0)).sum()
    wanted = torch.stack([shift, torch.tensor(0.0), -shift])[:, None].expand(3, 3)
    torch.testing.assert_close(model(patients()).logits_BK - before, wanted, rtol=1e-4, atol=1e-5)
    plain = build_model(SMALL.model_copy(update={"linear_skip": False}), SPEC, seed=0)
    assert "genomics.linear_skip.weight" not in plain.state_dict()


def test_linear_skip_of_slide_level_vectors_is_of_the_mean_of_a_patients_rows():
    families = {"x": (0, 1, 2), "y": (3, 4, 5, 6)}
    spec = InputSpec(num_bins=3, feature_width=7, feature_groups=families, **GENES)
    model = build_model(SMALL.model_copy(update={"slide_skip": True}), spec, seed=0).eval()
    before = model(patients()).logits_BK
    torch.nn.init.constant_(model.pathology.linear_skip.weight, 0.1)
    shifts = [0.0 if p.bag is None else 15 / 7**0.5 * 0.1 * p.bag.patches_PF.mean(dim=0).sum() for p in patients()]
    wanted = torch.tensor(shifts)[:, None].expand(3, 3)
    torch.testing.assert_close(model(patients()).logits_BK - before, wanted, rtol=1e-4, atol=1e-5)
    assert build_model(SMALL, spec, seed=0).pathology.linear_skip is None
    with pytest.raises(ConfigError, match=r"slide_skip is true; expected false.*Set slide_skip=false"):
        build_model(SMALL.model_copy(update={"slide_skip": True}), SPEC, seed=0)  # patches of an encoder


def test_last_layers_are_the_linear_skips_and_the_end_of_the_head():
    spec = InputSpec(num_bins=3, feature_width=7, feature_groups={"x": (0, 1, 2), "y": (3, 4, 5, 6)}, **GENES)
    model = build_model(SMALL.model_copy(update={"slide_skip": True}), spec, seed=0)
    chosen = {id(parameter) for parameter in model.last_layers()}
    names = {name for name, parameter in model.named_parameters() if id(parameter) in chosen}
    assert names == {"head.3.weight", "head.3.bias", "genomics.linear_skip.weight", "pathology.linear_skip.weight"}
    assert len(build_model(SMALL, SPEC, seed=0).last_layers()) == 3


def test_hazards_start_low():
    model = build_model(SMALL, SPEC, seed=0)
    assert torch.equal(model.head[-1].bias, torch.full((3,), -1.5))


def test_double_precision_agrees_with_single():
    single, double = (build_model(SMALL, SPEC, seed=0).eval() for _ in range(2))
    wanted = double.double()(patients()).logits_BK
    assert wanted.dtype == torch.float64
    torch.testing.assert_close(single(patients()).logits_BK.double(), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("transport", ["relaxed", "sinkhorn"])
def test_bfloat16_autocast(transport):
    model = build_model(SMALL.model_copy(update={"transport": transport}), SPEC, seed=0).eval()
    wanted = model(patients())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = model(patients())
        (output.logits_BK.sum() + output.mmd + output.transport_cost).backward()
    assert output.logits_BK.dtype == output.mmd.dtype == torch.float32
    torch.testing.assert_close(output.logits_BK, wanted.logits_BK, rtol=0.05, atol=0.05)
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_half_precision_bags_are_read():
    model = build_model(SMALL, SPEC, seed=0).eval()
    one = patients()[0]
    half = PatientInputs(one.target, Bag(one.bag.patches_PF.half()), one.genes_C)
    torch.testing.assert_close(model([half]).logits_BK, model([one]).logits_BK, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("options", [{"anchor": "patches"}, {"mmd_tokens": "plan"}, {"transport": "unbalanced"}])
def test_synergistic_options_change_something(options):
    plain, other = (build_model(SMALL.model_copy(update=o), SPEC, seed=0).eval()(patients()) for o in ({}, options))
    assert not torch.equal(plain.logits_BK, other.logits_BK) or not torch.equal(plain.mmd, other.mmd)


def test_backends_agree_in_the_whole_model():
    outputs = [
        build_model(SMALL.model_copy(update={"scan_backend": name}), SPEC, seed=0).double().eval()(patients())
        for name in ("reference", "chunked")
    ]
    torch.testing.assert_close(outputs[0].logits_BK, outputs[1].logits_BK)


def test_describe():
    text = build_model(SMALL, SPEC, seed=0).describe()
    assert text.startswith("ME-Mamba, ")
    assert "absent_synergistic 8" in text
    assert text.endswith("scan: cpu")
