"""Updates that are too large: what is compared, and who is named."""

import numpy as np
import pytest
from fixtures.federation import composed, tiny
from hypothesis import given
from hypothesis import strategies as st

from memamba_core.config.federation import FederationConfig
from memamba_core.training.update_norm import update_norm
from server.federation.expected_way import MOST_EXPECTED, expected_way
from server.federation.replies import Update, outlying_updates

CONFIG = FederationConfig(update_norm=None)


def named(norms, config=CONFIG, **sizes):
    """Return the sites that are left out; a size is the number of steps of a site of one step otherwise."""
    updates = {site: Update(norm, sizes.get(site, 1.0), sizes.get(site, 1.0)) for site, norm in norms.items()}
    return set(outlying_updates(updates, config))


def test_the_norm_is_over_all_parameters():
    sent = {"a": np.ones((2, 3), np.float32), "b": np.zeros(4, np.float32)}
    assert update_norm({name: array + 0.5 for name, array in sent.items()}, sent) == pytest.approx(0.5 * np.sqrt(10))
    huge = {"a": sent["a"], "b": np.full(4, 3e38, np.float32)}
    assert update_norm(huge, sent) == pytest.approx(6e38), "float32 would overflow"


@pytest.mark.parametrize(
    ("norms", "out"),
    [
        ({"a": 1, "b": 1, "c": 10.1}, {"c"}),
        ({"a": 1, "b": 1, "c": 9.9}, set()),
        ({"a": 1, "b": 1e30}, set()),  # of two, neither is the outlier
        ({"a": 1, "b": 1, "c": 100, "d": 100}, {"c", "d"}),  # the mean of the middle two would let both in
        ({"a": 1, "b": 1, "c": 1, "d": 100, "e": 100}, {"d", "e"}),
        ({"a": 1, "b": 100, "c": 100}, set()),  # a majority is believed
        ({"a": 0, "b": 0, "c": 1}, set()),  # no scale
        ({"a": 0, "b": 0, "c": 1, "d": 1, "e": 1}, set()),
    ],
)
def test_an_update_beyond_ten_times_the_median_is_named(norms, out):
    assert named(norms) == out


def test_the_rule_can_be_moved_and_switched_off():
    norms = {"a": 1, "b": 1, "c": 10.1}
    assert named(norms, FederationConfig(update_norm=None, update_norm_factor=11)) == set()
    assert named(norms, FederationConfig(update_norm=None, update_norm_factor=None)) == set()


def test_the_bound_on_the_norm_holds_for_a_single_reply():
    assert named({"a": 1.5}, FederationConfig(update_norm=1.6)) == set()
    (failure,) = outlying_updates({"a": Update(1.7)}, FederationConfig(update_norm=1.6)).values()
    assert "norm 1.7" in failure.text


def test_a_reason_names_norm_median_and_setting():
    (failure,) = outlying_updates({"a": Update(2), "b": Update(2), "c": Update(200)}, CONFIG).values()
    for words in ("norm 200", "100 times the round's median 2", "at most 20", "federation.update_norm_factor=10"):
        assert words in failure.text


def test_a_large_site_is_not_left_out_for_its_steps():
    assert named({"a": 1, "b": 1, "c": 60}, c=63) == set()
    assert named({"a": 1, "b": 1, "c": 6000}, c=63) == {"c"}


@given(
    st.lists(st.floats(1, 9), min_size=3, max_size=20),
    st.lists(st.sampled_from([0.0, 1e-9, 1e3, 1e30]), max_size=19),
)
def test_no_minority_puts_out_an_honest_site_or_gets_in_beyond_the_bound(honest, hostile):
    """Honest norms within a factor of 9: a minority moves the median between honest norms only."""
    hostile = hostile[: (len(honest) - 1)]
    norms = {f"honest-{i}": norm for i, norm in enumerate(honest)} | {f"bad-{i}": n for i, n in enumerate(hostile)}
    out = named(norms)
    assert not any(site.startswith("honest") for site in out)
    assert all(norm <= CONFIG.update_norm_factor * max(honest) for site, norm in norms.items() if site not in out)


def experiment(*overrides):
    return composed(tiny("federation.num_rounds=8", *overrides)).experiment


def test_two_steps_in_the_warm_up_are_sixty_times_the_first():
    """As measured on TCGA by tissue source site: .003 with one batch, .188 with two."""
    one, two = (expected_way(experiment(), 1, patients, 50) for patients in (64, 65))
    assert two / one == pytest.approx(63.5, rel=0.01)


def test_the_way_is_the_sum_of_the_factors_of_all_steps():
    steady = ("training.schedule=constant", "training.warmup_fraction=0", "federation.local_epochs=3")
    assert expected_way(experiment(*steady), 2, 65, 50) == 6.0
    assert expected_way(experiment(*steady), 2, 10**9, 1000) == 3 * -(-MOST_EXPECTED // 64), "no size explains all"


def test_under_differential_privacy_a_step_is_divided_by_the_band():
    private = experiment("privacy=dp_sgd", "agreement.time_bins=public", "agreement.gene_scaling=public")
    small, large = (expected_way(private, 3, 70, band) for band in (50, 500))
    assert small / large == pytest.approx(10)
