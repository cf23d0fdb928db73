"""Generated cohorts whose risk lies in which patches go with which genes, or in where the patches lie.

What is known of no patient: anything that genes alone, patches alone, or patches without their order could tell.
"""

from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memamba_core.config.simulation import SyntheticConfig
from memamba_core.data.synthetic.generate import SyntheticCohort, generate_cohort
from memamba_core.errors import ConfigError
from memamba_core.survival.concordance import concordance_index


@cache
def generated(risk: str, **changes: object) -> SyntheticCohort:
    values = {
        "num_patients": 2000,
        "num_genes": 18,
        "feature_width": 8,
        "patches": (20, 50),
        "rare_fraction": 0.2 if risk == "order" else 0.1,
        "missing_genes": 0,
        "missing_slides": 0,
        **changes,
    }
    return generate_cohort(SyntheticConfig.parse({"risk": risk, **values}, "test"))


def in_order(cohort: SyntheticCohort, values) -> np.ndarray:
    return np.array([values[r.case_id] for r in cohort.cohort.records])


def c_index(cohort: SyntheticCohort, risk: np.ndarray) -> float:
    records = cohort.cohort.records
    return concordance_index(risk, np.array([r.time_months for r in records]), np.array([r.event for r in records]))


def slides_by_patient(cohort: SyntheticCohort) -> list[list]:
    return [[cohort.cohort.features.slides[name] for name in r.slides] for r in cohort.cohort.records]


def counts_of_kinds(cohort: SyntheticCohort, num_kinds: int) -> np.ndarray:
    """Patches of each planted kind, by patient."""
    return np.array(
        [
            [sum(int((slide.kind_P == kind).sum()) for slide in slides) for kind in range(1, num_kinds + 1)]
            for slides in slides_by_patient(cohort)
        ]
    )


def assert_says_nothing(cohort: SyntheticCohort, **scores: np.ndarray) -> None:
    """Four standard errors, at 2,000 patients."""
    true = in_order(cohort, cohort.true_risk)
    for name, values in scores.items():
        assert abs(np.corrcoef(values, true)[0, 1]) < 0.09, name
        assert c_index(cohort, values.astype(np.float64)) == pytest.approx(0.5, abs=0.035), name


def test_correspondence_is_the_sum_of_six_products_and_no_factor_tells_anything():
    cohort = generated("correspondence")
    genes, kinds = in_order(cohort, cohort.gene_scores), in_order(cohort, cohort.patch_scores)
    assert genes.shape == kinds.shape == (2000, 6)
    true = in_order(cohort, cohort.true_risk)
    assert np.corrcoef(true, (genes * kinds).sum(axis=1))[0, 1] == pytest.approx(1)
    assert true.std() == pytest.approx(1.5)
    scores = {f"gene group {g}": genes[:, g] for g in range(6)} | {f"kind {k}": kinds[:, k] for k in range(6)}
    scores |= {"all genes": genes.sum(axis=1), "all kinds": kinds.sum(axis=1), "extremes": np.abs(genes).sum(axis=1)}
    assert_says_nothing(cohort, **scores, crossed=genes[:, 0] * kinds[:, 1])
    for g in range(6):  # each of the six products carries its part
        assert np.corrcoef(genes[:, g] * kinds[:, g], true)[0, 1] == pytest.approx(6**-0.5, abs=0.08)
    assert c_index(cohort, true) == cohort.oracle_c_index > 0.7


def test_what_corresponds_can_be_read_from_what_is_measured():
    cohort = generated("correspondence", batch_effect=2.0, num_patients=300)
    table = cohort.cohort.genes
    drivers = [table.columns.index(column) for column in cohort.driver_columns]
    assert len(drivers) == 18
    # Variance of a sum of three genes that correlate by 0.5: 3 + 6 x 0.5.
    sums = table.values_NC[:, drivers].reshape(-1, 6, 3).sum(axis=2) / np.sqrt(6)
    np.testing.assert_allclose(sums, in_order(cohort, cohort.gene_scores), atol=1e-5)
    sizes = np.array([sum(len(s.kind_P) for s in slides) for slides in slides_by_patient(cohort)])
    np.testing.assert_array_equal(counts_of_kinds(cohort, 6), np.round(0.1 * sizes)[:, None] * np.ones(6))

    slides = [slide for found in slides_by_patient(cohort) for slide in found]
    kind_P, patches_PF = (np.concatenate([getattr(s, name) for s in slides]) for name in ("kind_P", "patches_PF"))
    centres = np.array([patches_PF[kind_P == k].mean(axis=0) for k in range(7)])
    distances = np.linalg.norm(centres[1:, None] - centres[None, 1:], axis=2)
    np.testing.assert_allclose(distances[np.triu_indices(6, 1)], 6 * np.sqrt(2), rtol=0.1)

    # How active each kind looks, along the one direction that separates active from resting patches of any kind.
    looks = in_order(cohort, cohort.patch_scores)
    means = np.array(
        [
            [
                np.concatenate([s.patches_PF[s.kind_P == k] for s in found]).mean(axis=0) - centres[k]
                for k in range(1, 7)
            ]
            for found in slides_by_patient(cohort)
        ]
    )
    active = (means * looks[:, :, None]).mean(axis=(0, 1))
    along = means @ active / (active @ active)
    np.testing.assert_array_equal(np.sign(along), looks)
    for k in range(6):  # it is the same direction for each
        of_kind = (means[:, k] * looks[:, k, None]).mean(axis=0)
        assert of_kind @ active / np.linalg.norm(of_kind) / np.linalg.norm(active) > 0.95


def test_the_mean_patch_and_the_genes_tell_a_linear_model_nothing_of_what_corresponds():
    cohort = generated("correspondence")
    mean_NF = np.array([np.concatenate([s.patches_PF for s in slides]).mean(0) for slides in slides_by_patient(cohort)])
    rows = np.array([r.gene_row for r in cohort.cohort.records])
    values_NC = np.concatenate([mean_NF, cohort.cohort.genes.values_NC[rows]], axis=1)
    values_NC = (values_NC - values_NC.mean(axis=0)) / values_NC.std(axis=0)
    true = in_order(cohort, cohort.true_risk)
    weights = np.linalg.lstsq(values_NC[:1000], true[:1000], rcond=None)[0]
    assert abs(np.corrcoef(values_NC[1000:] @ weights, true[1000:])[0, 1]) < 0.13  # four standard errors
    assert_says_nothing(cohort, **{f"mean patch {f}": mean_NF[:, f] for f in range(8)})


def neighbours(slide) -> np.ndarray:
    """Planted neighbours of each planted patch, looked up one by one."""
    cells = {tuple(cell) for cell in (slide.coords_P2[slide.kind_P > 0] // 512).tolist()}
    steps = ((0, 1), (1, 0), (0, -1), (-1, 0))
    return np.array([sum((x + dx, y + dy) in cells for dx, dy in steps) for x, y in cells])


def test_order_is_the_share_of_planted_patches_that_touch_another():
    cohort = generated("order")
    shares = []
    for slides in slides_by_patient(cohort):
        touching = np.concatenate([neighbours(slide) for slide in slides if (slide.kind_P > 0).any()]) > 0
        shares.append(touching.mean())
    assert {0.0, 1.0} < set(shares)
    score = in_order(cohort, cohort.patch_scores)[:, 0]
    assert np.corrcoef(shares, score)[0, 1] == pytest.approx(1)
    assert np.corrcoef(in_order(cohort, cohort.true_risk), score)[0, 1] == pytest.approx(1)
    assert np.mean(shares) == pytest.approx(0.5, abs=0.02)
    assert cohort.oracle_c_index > 0.7


def test_patches_out_of_their_order_tell_nothing_of_the_order_risk():
    cohort = generated("order")
    counts = counts_of_kinds(cohort, 1)[:, 0]
    sizes = np.array([sum(len(s.kind_P) for s in slides) for slides in slides_by_patient(cohort)])
    np.testing.assert_array_equal(counts, np.round(0.2 * sizes))  # the same share in all patients
    patches = [np.concatenate([s.patches_PF for s in slides]) for slides in slides_by_patient(cohort)]
    mean_NF = np.array([p.mean(axis=0) for p in patches])
    spread_NF = np.array([p.std(axis=0) for p in patches])
    scores = {f"mean {f}": mean_NF[:, f] for f in range(8)} | {f"spread {f}": spread_NF[:, f] for f in range(8)}
    assert_says_nothing(cohort, **scores, size=sizes, count=counts, slides=in_order(cohort, num_slides(cohort)))


def num_slides(cohort: SyntheticCohort) -> dict[str, int]:
    return {r.case_id: len(r.slides) for r in cohort.cohort.records}


@settings(max_examples=15, deadline=None)
@given(
    fewest=st.integers(20, 80),
    more=st.integers(0, 60),
    share=st.sampled_from([0.2, 0.25, 0.3]),
    seed=st.integers(0, 1000),
)
def test_no_planted_patch_is_lost_whatever_the_size_of_the_bags(fewest, more, share, seed):
    share = min(share, 0.2)
    cohort = generated.__wrapped__(
        "order", num_patients=20, num_sites=2, patches=(fewest, fewest + more), rare_fraction=share, seed=seed
    )
    for slides in slides_by_patient(cohort):
        size = sum(len(s.kind_P) for s in slides)
        assert sum(int((s.kind_P > 0).sum()) for s in slides) == round(share * size)


@pytest.mark.parametrize("risk", ["correspondence", "order"])
def test_a_patient_without_what_carries_the_risk_is_of_average_risk_to_any_model(risk):
    cohort = generated(risk, missing_genes=0.3, missing_slides=0.3, num_patients=400)
    for record in cohort.cohort.records:
        true, known = cohort.true_risk[record.case_id], cohort.observed_risk[record.case_id]
        has_both = cohort.cohort.has_genes(record) and cohort.cohort.has_slides(record)
        is_known = has_both if risk == "correspondence" else cohort.cohort.has_slides(record)
        assert known == (true if is_known else 0)


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({"risk": "correspondence", "feature_width": 6}, "feature_width > 6"),
        ({"risk": "correspondence", "rare_fraction": 0.2}, r"rare_fraction <= 0\.1"),
        ({"risk": "correspondence", "patches": (2, 4)}, "6 x 1 patches, more than a patient with 4 has"),
        ({"risk": "correspondence", "patches": (10, 10), "rare_fraction": 0.16}, "6 x 2 patches"),
        ({"risk": "order", "rare_fraction": 0.3}, r"rare_fraction <= 0\.2"),
        ({"risk": "order", "rare_fraction": 0.1, "patches": (20, 50)}, "take more patches"),
    ],
)
def test_settings_that_leave_no_room_are_refused(changes, wanted):
    config = SyntheticConfig.parse({"num_patients": 20, "num_sites": 2, **changes}, "test")
    with pytest.raises(ConfigError, match=wanted):
        generate_cohort(config)
