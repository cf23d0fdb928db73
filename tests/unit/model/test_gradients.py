"""Parameters that a patient trains: a missing modality gives its expert no gradient."""

import pytest
import torch

from memamba_core.config.model import ModelConfig
from memamba_core.model import PARAMETER_GROUPS, build_model, parameter_group
from memamba_core.model.synergistic import SynergisticExpert
from memamba_core.model.transport import cosine_cost, transport_plan
from memamba_core.patient import Bag, InputSpec, PatientInputs, SurvivalTarget

SPEC = InputSpec(num_bins=3, num_genes=6, gene_groups={"a": (0, 1, 2), "b": (2, 3), "c": (4, 5)}, feature_width=7)


def patient(modalities, seed=0):
    generator = torch.Generator().manual_seed(seed)
    patches_PF, genes_C = torch.randn(5, 7, generator=generator), torch.randn(6, generator=generator)
    return PatientInputs(
        SurvivalTarget(10.0, True, 1),
        Bag(patches_PF) if "patches" in modalities else None,
        genes_C if "genes" in modalities else None,
    )


def learners(model, patients):
    """Return the groups with a gradient; every parameter of such a group must have one."""
    model.zero_grad()
    model(patients).logits_BK.square().sum().backward()
    got, left = set(), set()
    for name, parameter in model.named_parameters():
        (left if parameter.grad is None else got).add(parameter_group(name))
    assert not got & left
    return got


ALL = ("pathology", "genomics", "synergistic")
CASES = [
    (ALL, "patches genes", "pathology genomics synergistic"),
    (ALL, "patches", "pathology absent_genomics absent_synergistic"),
    (ALL, "genes", "absent_pathology genomics absent_synergistic"),
    (ALL, "", "absent_pathology absent_genomics absent_synergistic"),
    (ALL[:2], "patches genes", "pathology genomics"),
    (ALL[:2], "patches", "pathology absent_genomics"),
    (ALL[:2], "genes", "absent_pathology genomics"),
    (ALL[:1], "patches genes", "pathology"),
    (ALL[:1], "genes", "absent_pathology"),
    (ALL[1:2], "patches genes", "genomics"),
    (ALL[1:2], "patches", "absent_genomics"),
]


@pytest.mark.parametrize(("experts", "modalities", "groups"), CASES)
def test_groups_that_learn(experts, modalities, groups):
    model = build_model(ModelConfig(d_model=8, d_state=2, experts=experts), SPEC, seed=0)
    wanted = {*groups.split(), "head"}
    assert learners(model, [patient(modalities)]) == wanted
    assert model.groups_of(patient(modalities)) == wanted


@pytest.mark.parametrize("scans", [(), ("conventional",), ("attention",)])
@pytest.mark.parametrize("transport", ["relaxed", "exact"])
def test_settings_do_not_change_the_groups(scans, transport):
    config = ModelConfig(d_model=8, d_state=2, scans=scans, transport=transport, linear_skip=False, anchor="patches")
    model = build_model(config, SPEC, seed=0)
    for modalities in ("patches genes", "patches", "genes"):
        assert learners(model, [patient(modalities)]) == model.groups_of(patient(modalities))


def test_a_batch_teaches_what_its_patients_teach():
    model = build_model(ModelConfig(d_model=8, d_state=2), SPEC, seed=0)
    patients = [patient("genes"), patient("patches genes", seed=1)]
    assert learners(model, patients) == model.groups_of(patients[0]) | model.groups_of(patients[1])


def test_own_heads_belong_to_their_experts():
    model = build_model(ModelConfig(d_model=8, d_state=2), SPEC, seed=0, expert_heads=True)
    output = model([patient("genes")])
    assert set(output.expert_logits) == {"genomics"}
    output.expert_logits["genomics"][1].sum().backward()
    got = {name for name, p in model.named_parameters() if p.grad is not None}
    assert {"genomics.head.weight", "genomics.head.bias"} < got
    assert {parameter_group(name) for name in got} == {"genomics"}


def test_auxiliary_losses_reach_both_token_networks_and_no_head():
    model = build_model(ModelConfig(d_model=8, d_state=2), SPEC, seed=0)
    for term in ("mmd", "transport_cost"):
        model.zero_grad()
        getattr(model([patient("patches genes")]), term).backward()
        got = {parameter_group(name) for name, p in model.named_parameters() if p.grad is not None}
        assert got == {"pathology", "genomics"}


def test_the_transport_term_passes_gradient_where_the_plan_does_not():
    model = build_model(ModelConfig(d_model=8, d_state=2, transport="sinkhorn"), SPEC, seed=0)
    model([patient("patches genes")]).transport_cost.backward()
    assert model.pathology.tokens.linear.weight.grad.abs().max() > 0


def test_the_transport_term_holds_the_plan_fixed():
    """The relaxed plan, which could pass a gradient, is fixed too: the term must lower costs, not move mass away."""
    generator = torch.Generator().manual_seed(0)
    patches_BPD, genes_BGD = torch.randn(1, 5, 8, generator=generator), torch.randn(1, 3, 8, generator=generator)
    patches_BPD.requires_grad_()
    config = ModelConfig(d_model=8, d_state=2)
    cost_BPG = cosine_cost(patches_BPD, genes_BGD)
    plan_BPG = transport_plan(cost_BPG, config).detach()
    (wanted,) = torch.autograd.grad((plan_BPG * cost_BPG).sum(), patches_BPD)
    (got,) = torch.autograd.grad(SynergisticExpert(config)(patches_BPD, genes_BGD).transport_cost_B.sum(), patches_BPD)
    torch.testing.assert_close(got, wanted)


def test_parameter_group():
    assert parameter_group("genomics.linear_skip.weight") == "genomics"
    assert parameter_group("absent_synergistic") == "absent_synergistic"
    assert len(set(PARAMETER_GROUPS)) == 7
    with pytest.raises(ValueError, match=r"'genome\.weight' is in no group; expected one of pathology"):
        parameter_group("genome.weight")
