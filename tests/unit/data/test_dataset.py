"""From a record to what the model sees: scaling, clipping, what was not measured, what is missing."""

import numpy as np
import pytest
import torch

from memamba_core.config.agreement import AgreementConfig
from memamba_core.data.agreement import Agreement
from memamba_core.data.dataset import PatientDataset
from memamba_core.data.records import Cohort, GeneTable, PatientRecord
from memamba_core.data.synthetic.slides import MemoryFeatures, SlideFeatures
from memamba_core.errors import AgreementError

CONFIG = AgreementConfig()
AGREEMENT = Agreement(
    time_bin_edges=(12.0, 24.0, 48.0),
    gene_columns=("B_cnv", "A_rnaseq"),
    gene_groups={"g": (0, 1)},
    encoder="synthetic",
    feature_width=2,
    gene_center=np.array([0.5, 0.0]),
    gene_scale=np.array([0.5, 2.0]),
)
VALUES = np.array([[0.0, 1.0, 9.0], [36_893.0, np.nan, 9.0], [-3.0, -2.0, 9.0]], dtype=np.float32)
RECORDS = (
    PatientRecord("p", 12.0, True, gene_row=1),
    PatientRecord("q", 60.0, False, slides=("s1", "s2"), gene_row=0),
    PatientRecord("r", 0.0, True, slides=("s3", "lost")),
    PatientRecord("s", 47.9, False, slides=("lost",), gene_row=2),
)


def slide(first, num):
    rows = np.arange(first, first + 2 * num, dtype=np.float32).reshape(num, 2)
    return SlideFeatures(rows, np.zeros((num, 2), dtype=np.int64), np.zeros(num, dtype=np.int64))


def cohort(features=None):
    slides = {"s1": slide(0, 3), "s2": slide(100, 2), "s3": slide(50, 1)}
    genes = GeneTable(("A_rnaseq", "B_cnv", "UNUSED_mut"), VALUES)
    return Cohort(RECORDS, genes, MemoryFeatures(2, slides) if features is None else features)


def dataset(agreement=AGREEMENT, **options):
    return PatientDataset(cohort(), agreement, CONFIG, **options)


def signed_log(x):
    return np.sign(x) * np.log1p(np.abs(x))


def test_genes_are_transformed_scaled_and_in_the_agreed_order():
    genes = dataset().load(1).genes_C
    assert genes.dtype == torch.float32
    np.testing.assert_allclose(genes, [(signed_log(1.0) - 0.5) / 0.5, 0.0], rtol=1e-6)
    np.testing.assert_allclose(dataset().load(3).genes_C, [(signed_log(-2.0) - 0.5) / 0.5, signed_log(-3.0) / 2])


def test_a_huge_value_is_clipped_and_an_unmeasured_one_is_the_mean():
    genes = dataset().load(0).genes_C
    assert genes.tolist() == [0.0, CONFIG.scaled_clip]  # NaN -> the centre; log(36,894) -> 10 -> 10 / 2 = the clip
    far = AgreementConfig(scaled_clip=1.5)
    assert PatientDataset(cohort(), AGREEMENT, far).load(0).genes_C.tolist() == [0.0, 1.5]


@pytest.mark.parametrize("value", [-1e30, 1e30])
def test_scaled_genes_stay_within_the_clip_on_both_sides(value):
    values = VALUES.copy()
    values[0, 1] = value  # B_cnv of patient q
    genes = GeneTable(("A_rnaseq", "B_cnv", "UNUSED_mut"), values)
    scaled = PatientDataset(Cohort(RECORDS, genes), AGREEMENT, CONFIG).load(1).genes_C
    assert scaled[0] == np.sign(value) * CONFIG.scaled_clip


def test_missing_modalities_are_none():
    data = dataset()
    assert [data.load(i).bag is None for i in range(4)] == [True, False, False, True]
    assert [data.load(i).genes_C is None for i in range(4)] == [False, False, True, False]


def test_slides_of_a_patient_are_joined_in_order():
    assert dataset().load(1).bag.patches_PF[:, 0].tolist() == [0.0, 2.0, 4.0, 100.0, 102.0]
    assert dataset().load(2).bag.patches_PF.tolist() == [[50.0, 51.0]]


def test_times_fall_into_the_agreed_bins():
    assert [dataset().load(i).target.time_bin for i in range(4)] == [1, 3, 0, 2]
    assert dataset().load(0).target.event is True


def test_the_smaller_of_two_limits_on_patches_holds():
    assert len(dataset(max_patches=4).load(1).bag.patches_PF) == 4
    assert len(dataset(max_patches=4).load(1, max_patches=2).bag.patches_PF) == 2
    assert len(dataset(max_patches=2).load(1, max_patches=4).bag.patches_PF) == 2
    assert len(dataset().load(1, max_patches=9).bag.patches_PF) == 5


def test_sampled_patches_are_a_function_of_the_generator():
    def drawn(seed):
        bag = dataset().load(1, max_patches=2, rng=np.random.default_rng(seed)).bag
        return tuple(bag.patches_PF[:, 0].tolist())

    assert drawn(0) == drawn(0)
    assert len({drawn(seed) for seed in range(20)}) > 1
    evenly = dataset().load(1, max_patches=2).bag.patches_PF
    torch.testing.assert_close(evenly, dataset().load(1, max_patches=2).bag.patches_PF)


def test_slide_level_features_are_scaled_clipped_and_filled():
    rows = np.array([[1e8, np.nan], [1.0, 0.0]], dtype=np.float32)
    table = MemoryFeatures(
        2, {"s3": SlideFeatures(rows, np.zeros((2, 2), np.int64), np.zeros(2, np.int64))}, columns=("p", "q")
    )
    scaled = Agreement(
        time_bin_edges=(12.0,),
        feature_width=2,
        feature_columns=("p", "q"),
        feature_center=np.array([0.0, 1.0]),
        feature_scale=np.array([2.0, 1.0]),
    )
    bag = PatientDataset(cohort(table), scaled, CONFIG).load(2).bag
    np.testing.assert_allclose(bag.patches_PF, [[5.0, 0.0], [np.log(2.0) / 2, -1.0]], rtol=1e-6)
    unscaled = Agreement(time_bin_edges=(12.0,), feature_width=2, feature_columns=("p", "q"))
    assert PatientDataset(cohort(table), unscaled, CONFIG).load(2).bag.patches_PF[0].tolist() == [1e8, 0.0]


def test_patch_features_are_passed_as_they_are():
    np.testing.assert_array_equal(dataset().load(2).bag.patches_PF, [[50.0, 51.0]])


def test_an_agreement_without_genes_or_slides_leaves_them_unread():
    genes_only = Agreement(
        time_bin_edges=(12.0,),
        gene_columns=("A_rnaseq",),
        gene_groups={"g": (0,)},
        gene_center=np.zeros(1),
        gene_scale=np.ones(1),
    )
    slides_only = Agreement(time_bin_edges=(12.0,), feature_width=2)
    assert dataset(genes_only).load(1).bag is None
    assert dataset(genes_only).load(1).genes_C is not None
    assert dataset(slides_only).load(1).genes_C is None


def test_an_agreed_column_that_is_gone_is_named():
    with pytest.raises(AgreementError, match=r"1 of 2 agreed gene columns .* example B_cnv"):
        PatientDataset(Cohort(RECORDS, GeneTable(("A_rnaseq",), VALUES[:, :1]), cohort().features), AGREEMENT, CONFIG)


def test_features_of_another_width_are_refused():
    with pytest.raises(AgreementError, match="width 3; expected 2, as agreed"):
        PatientDataset(cohort(MemoryFeatures(3, {})), AGREEMENT, CONFIG)


def test_a_table_whose_columns_changed_places_is_refused():
    agreed = Agreement(time_bin_edges=(12.0,), feature_width=2, feature_columns=("p", "q"))
    with pytest.raises(AgreementError, match="or their order"):
        PatientDataset(cohort(MemoryFeatures(2, {}, columns=("q", "p"))), agreed, CONFIG)


def test_no_patients_are_an_empty_data_set():
    empty = PatientDataset(cohort().subset([]), AGREEMENT, CONFIG)
    assert len(empty) == 0
    assert empty.times.shape == empty.events.shape == (0,)
