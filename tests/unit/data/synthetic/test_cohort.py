"""Generated cohorts: the truth is what it claims to be, and can be read from what is observed."""

from functools import cache

import numpy as np
import pytest
import torch

from memamba_core.config.simulation import SyntheticConfig
from memamba_core.data.genomics.signatures import build_gene_groups
from memamba_core.data.records import FeatureStore
from memamba_core.data.synthetic.generate import SyntheticCohort, generate_cohort
from memamba_core.data.synthetic.outcomes import draw_outcomes
from memamba_core.data.synthetic.slides import MemoryFeatures
from memamba_core.errors import ConfigError, NoComparablePairError
from memamba_core.survival.concordance import concordance_index

RISKS = ("genes", "patches", "both", "interaction")
SMALL = SyntheticConfig(num_patients=60, num_sites=4, patches=(5, 12), num_genes=12, feature_width=8)


@cache
def large(risk: str, **settings: object) -> SyntheticCohort:
    """Two thousand patients, with little of each: for claims on a distribution."""
    values = {"num_patients": 2000, "patches": (10, 20), "num_genes": 6, "feature_width": 4, **settings}
    return generate_cohort(SyntheticConfig.parse({"risk": risk, **values}, "test"))


def in_order(generated: SyntheticCohort, values) -> np.ndarray:
    """Values of all patients; the one score of each, where there is one."""
    return np.array([values[r.case_id] for r in generated.cohort.records]).squeeze()


def outcomes(generated: SyntheticCohort) -> tuple[np.ndarray, np.ndarray]:
    records = generated.cohort.records
    return np.array([r.time_months for r in records]), np.array([r.event for r in records])


def rare_patches(generated: SyntheticCohort, record) -> np.ndarray:
    """From what the generator knows of the patches; the features themselves are tested apart."""
    features = generated.cohort.features
    assert isinstance(features, MemoryFeatures)
    return np.concatenate([features.slides[slide].kind_P > 0 for slide in record.slides])


def test_the_same_settings_give_the_same_patients_whatever_the_global_state():
    np.random.seed(1)  # noqa: NPY002
    torch.manual_seed(1)
    first = generate_cohort(SMALL)
    np.random.seed(2)  # noqa: NPY002
    torch.manual_seed(2)
    second = generate_cohort(SMALL)
    assert first.cohort.records == second.cohort.records
    assert first.true_risk == second.true_risk
    np.testing.assert_array_equal(first.cohort.genes.values_NC, second.cohort.genes.values_NC)
    for record in first.cohort.records:
        one, two = first.cohort.features.load(record), second.cohort.features.load(record)
        assert (one is None) == (two is None)
        if one is not None:
            assert torch.equal(one.patches_PF, two.patches_PF)
    other = generate_cohort(SMALL.model_copy(update={"seed": 8}))
    assert other.cohort.records != first.cohort.records


def test_one_setting_does_not_disturb_what_it_has_nothing_to_do_with():
    first = generate_cohort(SMALL)
    second = generate_cohort(SMALL.model_copy(update={"censoring": 0.1, "effect": 1.0, "risk": "genes"}))
    assert first.gene_scores == second.gene_scores
    assert first.patch_scores == second.patch_scores
    np.testing.assert_array_equal(first.cohort.genes.values_NC, second.cohort.genes.values_NC)


def test_sites_are_unequal_and_none_is_below_a_handful():
    records = generate_cohort(SyntheticConfig(num_sites=12)).cohort.records
    sizes = np.unique([r.tss for r in records], return_counts=True)[1]
    assert len(sizes) == 12
    assert sizes.sum() == 480
    assert sizes.min() >= 5
    assert sizes.max() > 5 * sizes.min()
    assert all(r.tss in r.case_id and len(r.tss) == 2 and r.fold is None for r in records)


@pytest.mark.parametrize(("num_patients", "num_sites"), [(20, 20), (21, 20), (200, 200), (20, 1)])
def test_few_patients_for_many_sites(num_patients, num_sites):
    config = SMALL.model_copy(update={"num_patients": num_patients, "num_sites": num_sites})
    records = generate_cohort(config).cohort.records
    assert len(records) == num_patients
    assert len({r.tss for r in records}) == num_sites


def test_impossible_settings_are_refused():
    with pytest.raises(ConfigError, match=r"num_sites is 61; expected at most num_patients=60, .* Lower num_sites"):
        generate_cohort(SMALL.model_copy(update={"num_sites": 61}))
    with pytest.raises(ConfigError, match=r"add up to more than 1.*lower one"):
        generate_cohort(SMALL.model_copy(update={"missing_genes": 0.6, "missing_slides": 0.5}))


@pytest.mark.parametrize(("genes", "slides"), [(0.0, 0.0), (0.2, 0.3), (0.5, 0.5), (0.99, 0.0)])
def test_modalities_are_missing_as_often_as_asked_and_no_patient_lacks_both(genes, slides):
    config = SMALL.model_copy(update={"num_patients": 100, "missing_genes": genes, "missing_slides": slides})
    cohort = generate_cohort(config).cohort
    assert sum(not cohort.has_genes(r) for r in cohort.records) == round(100 * genes)
    assert sum(not cohort.has_slides(r) for r in cohort.records) == round(100 * slides)
    assert all(cohort.has_genes(r) or cohort.has_slides(r) for r in cohort.records)
    assert [r.gene_row for r in cohort.records if cohort.has_genes(r)] == list(range(100 - round(100 * genes)))


def test_gene_groups_catch_every_column_and_the_drivers_are_in_one():
    for num_genes in (6, 7, 60):
        generated = generate_cohort(SMALL.model_copy(update={"num_genes": num_genes}))
        columns = generated.cohort.genes.columns
        assert {c.rpartition("_")[2] for c in columns} == {"rnaseq", "cnv", "mut"}
        assert len(generated.signatures) == 6
        groups = build_gene_groups(columns, generated.signatures, by="signatures")
        assert len(groups) == 6
        assert {i for members in groups.values() for i in members} == set(range(len(columns)))
        drivers = {columns.index(c) for c in generated.driver_columns}
        holding = [name for name, members in groups.items() if drivers & set(members)]
        assert holding == ["Pathway 1"]


def test_the_store_keeps_the_protocol():
    cohort = generate_cohort(SMALL).cohort
    store = cohort.features
    assert isinstance(store, FeatureStore)
    record = max((r for r in cohort.records if r.slides), key=lambda r: len(r.slides))
    assert len(record.slides) == 2
    bag = store.load(record)
    assert bag.patches_PF.dtype == torch.float32
    assert bag.coords_P2.dtype == torch.int64
    assert bag.patches_PF.shape == (len(bag.coords_P2), store.width)
    even, again = store.load(record, 3), store.load(record, 3)
    assert len(even.patches_PF) == 3
    assert torch.equal(even.patches_PF, again.patches_PF)
    some = store.load(record, 3, np.random.default_rng(0))
    rows = [int((bag.patches_PF == row).all(dim=1).nonzero()) for row in some.patches_PF]
    assert rows == sorted(set(rows))
    without = next(r for r in cohort.records if not r.slides)
    assert not store.has(without)
    assert store.load(without) is None


def test_rare_patches_lie_together_on_the_grid_and_stand_out():
    generated = generate_cohort(SyntheticConfig(num_patients=60, rare_fraction=0.2))
    for slide in generated.cohort.features.slides.values():
        grid = slide.coords_P2 // 512
        assert np.array_equal(np.lexsort((grid[:, 0], grid[:, 1])), np.arange(len(grid)))  # row by row
        rare = slide.kind_P > 0
        if rare.sum() < 4:
            continue
        spread = grid[rare].std(axis=0).mean()
        assert spread < 1.2 * np.sqrt(rare.sum()) / 2
        if rare.sum() < len(rare):
            between = slide.patches_PF[rare].mean(axis=0) - slide.patches_PF[~rare].mean(axis=0)
            assert np.linalg.norm(between) > 4


def test_batch_effects_shift_sites_but_not_the_planted_directions():
    config = SyntheticConfig(num_patients=400, num_sites=4, batch_effect=2.0, missing_genes=0, missing_slides=0)
    generated = generate_cohort(config)
    records, genes = generated.cohort.records, generated.cohort.genes
    drivers = [genes.columns.index(column) for column in generated.driver_columns]
    assert len(drivers) == 3
    # Variance of a sum of three genes that correlate by 0.5: 3 + 6 x 0.5.
    read_off = genes.values_NC[:, drivers].sum(axis=1) / np.sqrt(6)
    np.testing.assert_allclose(read_off, in_order(generated, generated.gene_scores), atol=1e-5)

    patches = {r.case_id: generated.cohort.features.load(r).patches_PF.numpy() for r in records}
    rare = {r.case_id: rare_patches(generated, r) for r in records}
    here = [(patches[c][rare[c]].mean(axis=0) - patches[c][~rare[c]].mean(axis=0)) for c in patches if rare[c].any()]
    direction = np.mean(here, axis=0) / np.linalg.norm(np.mean(here, axis=0))
    along = {c: p @ direction for c, p in patches.items()}
    tss = np.array([r.tss for r in records])
    for code in np.unique(tss):
        at_site = [r.case_id for r in records if r.tss == code]
        assert abs(np.concatenate([along[c][~rare[c]] for c in at_site]).mean()) < 0.5
        assert np.concatenate([along[c][rare[c]] for c in at_site]).mean() == pytest.approx(6, abs=0.5)
    rna = [i for i, column in enumerate(genes.columns) if column.endswith("_rnaseq")]
    means = np.array([genes.values_NC[tss == code][:, rna].mean(axis=0) for code in np.unique(tss)])
    assert means.std(axis=0).mean() > 1


@pytest.mark.parametrize("risk", RISKS)
def test_the_true_risk_is_the_one_configured(risk):
    generated = large(risk, missing_genes=0.3, missing_slides=0.3)
    gene, patch = in_order(generated, generated.gene_scores), in_order(generated, generated.patch_scores)
    true = in_order(generated, generated.true_risk)
    assert true.std() == pytest.approx(1.5, rel=1e-3 if risk == "interaction" else 1e-9)
    assert gene.std() == pytest.approx(1, abs=0.05)
    assert patch.std() == pytest.approx(1)
    assert abs(np.corrcoef(gene, patch)[0, 1]) < 0.06
    expected = {
        "genes": gene,
        "patches": patch,
        "both": gene + patch,
        "interaction": np.sign(gene) * np.sign(share_above(generated)),
    }[risk]
    assert np.corrcoef(true, expected)[0, 1] == pytest.approx(1)


def share_above(generated: SyntheticCohort) -> np.ndarray:
    """Planted share of rare patches less `rare_fraction` (0.1); score and share are the same up to scale."""
    records = generated.cohort.records
    with_slides = [i for i, r in enumerate(records) if r.slides]
    share = np.array([rare_patches(generated, records[i]).mean() for i in with_slides])
    score = in_order(generated, generated.patch_scores)
    slope, offset = np.polyfit(score[with_slides], share, 1)
    return slope * score + offset - 0.1


def test_the_patch_score_is_the_share_of_rare_patches():
    generated = large("patches", missing_genes=0.3, missing_slides=0.3)
    records = [r for r in generated.cohort.records if r.slides]
    share = np.array([rare_patches(generated, r).mean() for r in records])
    score = np.array([generated.patch_scores[r.case_id][0] for r in records])
    assert np.corrcoef(share, score)[0, 1] == pytest.approx(1)
    assert share.mean() == pytest.approx(0.1, abs=0.01)


def test_the_interaction_has_no_marginal_effect():
    generated = large("interaction", missing_genes=0, missing_slides=0)
    time, event = outcomes(generated)
    true = in_order(generated, generated.true_risk)
    gene, patch = in_order(generated, generated.gene_scores), in_order(generated, generated.patch_scores)
    for marginal in (gene, -gene, patch, -patch, gene + patch, np.abs(gene), np.abs(patch)):
        assert abs(np.corrcoef(marginal, true)[0, 1]) < 0.1  # four standard errors at this size
        assert concordance_index(marginal, time, event) == pytest.approx(0.5, abs=0.03)
    assert concordance_index(gene * patch, time, event) > 0.65


@pytest.mark.parametrize("risk", RISKS)
def test_what_is_observed_of_the_risk(risk):
    generated = large(risk, missing_genes=0.3, missing_slides=0.3)
    cohort = generated.cohort
    for record in cohort.records:
        true, known = generated.true_risk[record.case_id], generated.observed_risk[record.case_id]
        lost = {
            "genes": not cohort.has_genes(record),
            "patches": not cohort.has_slides(record),
            "both": False,
            "interaction": not (cohort.has_genes(record) and cohort.has_slides(record)),
        }[risk]
        if lost:
            assert known == 0
        elif cohort.has_genes(record) and cohort.has_slides(record):
            assert known == true
    # A calibrated expectation: no multiple of it, and no shift, is closer to the truth.
    true, known = in_order(generated, generated.true_risk), in_order(generated, generated.observed_risk)
    assert np.polyfit(known, true, 1) == pytest.approx([1, 0], abs=0.1)


@pytest.mark.parametrize("risk", RISKS)
def test_the_oracle(risk):
    generated = large(risk, missing_genes=0.3, missing_slides=0.3)
    time, event = outcomes(generated)
    oracle = generated.oracle_c_index
    assert oracle == concordance_index(in_order(generated, generated.observed_risk), time, event)
    assert 0.65 < oracle < concordance_index(in_order(generated, generated.true_risk), time, event) < 0.9
    rng = np.random.default_rng(0)
    noise = rng.standard_normal(len(time))
    assert concordance_index(in_order(generated, generated.observed_risk) + noise, time, event) < oracle
    some = [r.case_id for r in generated.cohort.records[::3]]
    assert generated.oracle_c_index_of(some) == pytest.approx(oracle, abs=0.05)
    assert generated.oracle_c_index_of(some[::-1]) == generated.oracle_c_index_of(some)
    with pytest.raises(NoComparablePairError):
        generated.oracle_c_index_of(some[:1])


def test_without_effect_the_oracle_guesses():
    assert generate_cohort(SMALL.model_copy(update={"effect": 0.0})).oracle_c_index == 0.5


@pytest.mark.parametrize("share", [0.0, 0.2, 0.4, 0.8])
@pytest.mark.parametrize("effect", [0.5, 2.0])
def test_as_many_are_censored_as_asked(share, effect):
    rng = np.random.default_rng(0)
    config = SMALL.model_copy(update={"num_patients": 2000, "censoring": share})
    _, event = draw_outcomes(config, effect * rng.standard_normal(2000), rng)
    assert 1 - event.mean() == pytest.approx(share, abs=0.04)


def test_the_share_of_the_censored_is_that_of_the_settings():
    generated = large("genes", missing_genes=0.3, missing_slides=0.3)
    assert 1 - generated.cohort.num_events / 2000 == pytest.approx(SyntheticConfig().censoring, abs=0.04)


def test_times_have_the_configured_median_and_proportional_hazards():
    generated = large("genes", censoring=0.0, effect=1.0, median_months=20)
    time, _ = outcomes(generated)
    # Under the model, time x hazard is exponential with mean 1 whatever the risk.
    scaled = time * np.log(2) / 20 * np.exp(in_order(generated, generated.true_risk))
    assert scaled.mean() == pytest.approx(1, abs=0.08)
    assert np.median(scaled) == pytest.approx(np.log(2), abs=0.06)
    low = in_order(generated, generated.true_risk) < 0
    assert scaled[low].mean() == pytest.approx(scaled[~low].mean(), abs=0.15)
