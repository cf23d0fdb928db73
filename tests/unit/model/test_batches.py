"""Independence of a patient's prediction from the batch, and from the modalities of other patients."""

import pytest
import torch

from memamba_core.config.model import ModelConfig
from memamba_core.model import build_model
from memamba_core.patient import Bag, InputSpec, PatientInputs, SurvivalTarget

SPEC = InputSpec(
    num_bins=3,
    num_genes=6,
    gene_groups={"a": (0, 1, 2), "b": (2, 3), "c": (4, 5)},
    feature_width=4,
    feature_groups={"x": (0, 1), "y": (2, 3)},
)


def patient(seed, num_patches=3, genes=True):
    generator = torch.Generator().manual_seed(seed)
    patches_PF = torch.randn(num_patches, 4, generator=generator)
    return PatientInputs(
        SurvivalTarget(10.0, True, 1),
        Bag(patches_PF) if num_patches else None,
        torch.randn(6, generator=generator) if genes else None,
    )


def cohort():
    """Bags of three sizes, either modality missing, in no particular order."""
    sizes = [3, 1, 0, 3, 5, 1, 0, 3, 1]
    return [patient(seed, size, genes=seed not in (1, 3, 4)) for seed, size in enumerate(sizes)]


@pytest.fixture(params=["relaxed", "sinkhorn"])
def model(request):
    config = ModelConfig(d_model=8, d_state=2, transport=request.param, mmd_max_tokens=4)
    model = build_model(config, SPEC, seed=0, expert_heads=True).double().eval()
    torch.nn.init.normal_(model.genomics.linear_skip.weight, generator=torch.Generator().manual_seed(0))
    for absent in (model.absent_pathology, model.absent_genomics, model.absent_synergistic):
        torch.nn.init.normal_(absent, generator=torch.Generator().manual_seed(1))
    return model


def test_batch_equals_one_by_one(model):
    patients = cohort()
    together, alone = model(patients), [model([one]) for one in patients]
    torch.testing.assert_close(together.logits_BK, torch.cat([output.logits_BK for output in alone]))
    for term in ("mmd", "transport_cost"):
        torch.testing.assert_close(getattr(together, term), sum(getattr(output, term) for output in alone) / 9)
    for name, (rows, logits_bK) in together.expert_logits.items():
        assert sorted(rows.tolist()) == [i for i, output in enumerate(alone) if name in output.expert_logits]
        for row, logits_K in zip(rows.tolist(), logits_bK, strict=True):
            torch.testing.assert_close(logits_K, alone[row].expert_logits[name][1][0])


def test_gradients_add_up(model):
    patients = cohort()
    model(patients).logits_BK.square().sum().backward()
    together = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    for one in patients:
        model([one]).logits_BK.square().sum().backward()
    for name, gradient in together.items():
        torch.testing.assert_close(dict(model.named_parameters())[name].grad, gradient)


def test_order_of_the_patients(model):
    patients = cohort()
    torch.testing.assert_close(model(patients[::-1]).logits_BK, model(patients).logits_BK.flip(0))


def test_fusion_loss_counts_patients_without_both_modalities_as_zero(model):
    both, genes_only = patient(0), patient(2, num_patches=0)
    torch.testing.assert_close(model([both, genes_only]).mmd, model([both]).mmd / 2)
    output = model([genes_only])
    assert output.mmd == output.transport_cost == 0


def test_absent_vectors_stand_in(model):
    """Without genes there is no shift; two patients who lack both modalities have equal predictions."""
    bare = patient(0, num_patches=0, genes=False)
    absent = torch.cat([model.absent_pathology, model.absent_genomics, model.absent_synergistic])
    torch.testing.assert_close(model([bare, bare]).logits_BK, model.head(absent).expand(2, 3))


def test_empty_batch_and_empty_bag_and_wrong_widths(model):
    target = SurvivalTarget(10.0, True, 1)
    for patients, words in (
        ([], "a batch has 0 patients"),
        ([PatientInputs(target, Bag(torch.zeros(0, 4)))], "expected None for a missing modality"),
        ([PatientInputs(target, Bag(torch.zeros(2, 5)))], "a bag has 5 features; expected the 4 agreed ones"),
        ([PatientInputs(target, genes_C=torch.zeros(5))], "expected the 6 agreed columns"),
    ):
        with pytest.raises(AssertionError, match=words):
            model(patients)


def test_patch_attention_is_the_share_in_the_pooled_vector(model):
    one = patient(0, num_patches=5)
    shares_P = model.patch_attention(one)
    assert shares_P.shape == (5,)
    assert not shares_P.requires_grad
    torch.testing.assert_close(shares_P.sum(), torch.tensor(1.0, dtype=torch.float64))
    scores_BL = model.pathology(one.bag.patches_PF.double()[None]).scores_BL
    torch.testing.assert_close(shares_P, scores_BL.softmax(1).view(5, 2).sum(1))
    with pytest.raises(ValueError, match="the patient has no bag"):
        model.patch_attention(patient(0, num_patches=0))
