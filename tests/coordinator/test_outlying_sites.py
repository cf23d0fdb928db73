"""A wrong unit or event coding shows in sums: a warning with its evidence, never a refusal."""

import numpy as np
import pytest

from memamba_core.config.agreement import AgreementConfig
from memamba_core.config.compose import compose_simulation
from memamba_core.data.statistics import count_events
from memamba_core.wire.protocol import FactsReply, StatisticsReply
from server.federation.outliers import find_outlying_sites
from simulation.cohort import prepare_cohort

CONFIG = AgreementConfig()
EMPTY = {"count": np.zeros(0), "mean": np.zeros(0), "m2": np.zeros(0)}


def sums(seed, num=60, *, factor=1.0, flip=False, rate=0.3, median=30.0, end=None):
    """Sums of a site; with `end` the patients who live that long are censored there, in the order of a real study."""
    rng = np.random.default_rng(seed)
    times = rng.exponential(median / np.log(2), num) * factor
    events = (rng.random(num) < rate) != flip
    if end is not None:
        recruited = rng.uniform(0.5 * end, end, num)
        events = (times < recruited) != flip
        times = np.minimum(times, recruited)
    return StatisticsReply(genes=EMPTY, features=EMPTY, events=count_events(times.tolist(), events.tolist(), CONFIG))


def facts(site, unit="months", means="happened"):
    lists = dict.fromkeys(("feature_columns", "feature_families", "gene_columns"), ())
    numbers = dict.fromkeys(("feature_width", "size_band", "pathology_band", "genomics_band"), 0)
    return FactsReply(site=site, time_unit=unit, event_means=means, encoder="", **lists, **numbers)


def warnings(outlying, **declared):
    replies = {"a": sums(1), "b": sums(2), "c": sums(3), "odd": outlying}
    declarations = {site: facts(site) for site in replies} | {"odd": facts("odd", **declared)}
    return find_outlying_sites(replies, declarations)


def test_ordinary_sites_are_not_warned_of():
    for seed in range(30):
        assert warnings(sums(10 + seed)) == []


def test_flipped_event_coding_is_warned_of_with_the_counts(caplog):
    (warning,) = warnings(sums(4, flip=True), means="censored")
    assert warning.startswith("odd: ")
    assert " of 60 training patients had the event, " in warning
    assert " of 180 elsewhere" in warning
    assert "'censored'" in warning
    assert "clinical.event_means" in warning
    assert warning in caplog.text


@pytest.mark.parametrize(
    ("factor", "unit"),
    [(30.4, "months"), (1 / 30.4, "days")],
    ids=["days declared as months", "months declared as days"],
)
def test_a_wrong_unit_is_warned_of(factor, unit):
    for seed in range(10):
        (warning,) = warnings(sums(20 + seed, factor=factor), unit=unit)
        assert warning.startswith("odd: median follow-up lies in cell")
        assert f"the site declares {unit!r}. Check clinical.time_unit" in warning


def find_two(own, other):
    return find_outlying_sites({"a": other, "b": own}, {"a": facts("a"), "b": facts("b")})


def test_a_reversed_coding_of_one_of_two_sites_shows_in_the_order_of_events_and_censored_patients():
    """Half of the patients have the event: the share alone says nothing."""
    for seed in range(20):
        ordinary, reverse = sums(seed, 100, end=40.0), sums(50 + seed, 100, end=40.0, flip=True)
        assert find_two(sums(50 + seed, 100, end=40.0), ordinary) == []
        warning = find_two(reverse, ordinary)[-1]
        assert warning.startswith("b: ")
        assert "the share of events differs much between sites" in warning
        assert "and events come after censored patients, before them elsewhere" in warning
        assert "The coding of events may be reversed at one site" in warning


def table(times, events):
    return StatisticsReply(genes=EMPTY, features=EMPTY, events=count_events(times, events, CONFIG))


def test_a_small_site_whose_events_all_come_late_is_warned_of():
    """Five events of 23 patients, as in a hospital that writes 1 for the censored: the share differs little."""
    ordinary = table([6.0 + i for i in range(10)] + [20.0 + 4 * i for i in range(11)], [True] * 10 + [False] * 11)
    late = table([6.0 + i for i in range(18)] + [80.0 + 9 * i for i in range(5)], [False] * 18 + [True] * 5)
    (warning,) = find_two(late, ordinary)
    assert warning.startswith("b: 5 of 23 training patients had the event, 10 of 21 elsewhere: the share of events ")
    assert "(22% and 48%)" in warning


def test_few_events_have_no_order():
    few = table([6.0 + i for i in range(20)] + [80.0, 90.0], [False] * 20 + [True] * 2)
    ordinary = table([6.0 + i for i in range(10)] + [20.0 + 4 * i for i in range(11)], [True] * 10 + [False] * 11)
    assert find_two(few, ordinary) == []


def test_few_patients_prove_nothing():
    assert warnings(sums(4, num=19, flip=True, factor=30.4)) == []


def test_a_site_that_told_nothing_is_not_judged():
    assert warnings(sums(4, num=0)) == []


@pytest.mark.parametrize(
    "ordinary",
    [
        {"rate": 0.83, "median": 12.0},  # sicker patients: more events, and sooner
        {"rate": 0.8, "median": 60.0},  # recruited earlier: more events, because follow-up is longer
        {"rate": 0.05, "num": 200},  # fewer events, and far too many with the coding swapped
    ],
    ids=["short follow-up", "long follow-up", "few events"],
)
def test_a_share_of_events_that_is_no_swap_is_not_warned_of(ordinary):
    for seed in range(10):
        assert warnings(sums(40 + seed, **ordinary)) == []


@pytest.mark.real_data
@pytest.mark.ci_slow
@pytest.mark.parametrize("partition", ["tss", "tss_merged", "iid"])
@pytest.mark.parametrize("name", ["tcga_blca", "tcga_brca", "tcga_gbmlgg", "tcga_luad", "tcga_ucec"])
def test_no_ordinary_cohort_is_warned_of(data_root, monkeypatch, name, partition):
    monkeypatch.setenv("MEMAMBA_DATA", str(data_root))
    cohort = prepare_cohort(compose_simulation([f"data={name}", f"partition={partition}"]))
    for fold in (*range(5), -1):
        replies = {}
        for site, own in cohort.sites.items():
            records = own.training_cohort(fold, 0, 0.0).records
            events = count_events([r.time_months for r in records], [r.event for r in records], CONFIG)
            replies[site] = StatisticsReply(genes=EMPTY, features=EMPTY, events=events)
        assert find_outlying_sites(replies, {site: facts(site) for site in replies}) == []
