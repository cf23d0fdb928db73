"""Inputs of the model: specifications that no model can be built for, and a patient on another device."""

import pytest
import torch

from memamba_core.errors import ConfigError
from memamba_core.patient import Bag, InputSpec, PatientInputs, SurvivalTarget


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"num_bins": 1, "feature_width": 3}, "num_bins is 1"),
        ({"num_bins": 4}, "no gene groups and no slide features"),
        ({"num_bins": 4, "num_genes": 2, "gene_groups": {"a": ()}}, "gene group 'a' is empty"),
        (
            {"num_bins": 4, "num_genes": 2, "gene_groups": {"a": (0, 2)}},
            "'a' has columns 0 to 2; expected columns within the 2 agreed",
        ),
        ({"num_bins": 4, "num_genes": 2, "gene_groups": {"a": (-1, 0)}}, "'a' has columns -1 to 0"),
        (
            {"num_bins": 4, "feature_width": 3, "feature_groups": {"f": (3,)}},
            "feature group 'f' has columns 3 to 3; .* the 3 agreed",
        ),
    ],
)
def test_a_specification_without_a_model_is_refused(spec, words):
    with pytest.raises(ConfigError, match=words):
        InputSpec(**spec)


@pytest.mark.parametrize("with_coords", [True, False])
def test_a_patient_moves_to_a_device_with_all_tensors(with_coords):
    bag = Bag(torch.zeros(3, 2), torch.zeros(3, 2, dtype=torch.int64) if with_coords else None)
    patient = PatientInputs(SurvivalTarget(1.0, True, 0), bag, torch.zeros(4)).to(torch.device("meta"))
    assert patient.bag is not None
    assert patient.bag.patches_PF.is_meta
    assert patient.genes_C is not None
    assert patient.genes_C.is_meta
    assert (patient.bag.coords_P2 is not None) == with_coords
    assert patient.bag.coords_P2 is None or patient.bag.coords_P2.is_meta
    assert patient.target == SurvivalTarget(1.0, True, 0)


def test_missing_modalities_stay_missing_on_another_device():
    patient = PatientInputs(SurvivalTarget(1.0, False, 2)).to(torch.device("meta"))
    assert (patient.bag, patient.genes_C) == (None, None)
