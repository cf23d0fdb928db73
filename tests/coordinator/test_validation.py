"""Validation: an honest reply passes, each lie is named."""

import numpy as np
import pytest

from memamba_core.config.federation import FederationConfig
from memamba_core.errors import RejectedReplyError
from memamba_core.survival.histogram import NUM_RISK_BINS
from memamba_core.wire.protocol import FactsReply, Metrics, TrainReply
from server.federation.validation import check_facts, check_metrics, check_training_reply, max_patients

SENT = {"head.0.weight": np.ones((2, 3), np.float32), "genomics.a": np.zeros(4, np.float32)}
CELLS = 5
MOST = 1000


def facts(size_band=25):
    texts = dict.fromkeys(("site", "time_unit", "event_means", "encoder"), "x")
    lists = dict.fromkeys(("feature_columns", "feature_families", "gene_columns"), ())
    bands = {"size_band": size_band, "pathology_band": 0, "genomics_band": size_band}
    return FactsReply(**texts, **lists, **bands, feature_width=0)


def reply(weights=None, trained=None):
    return TrainReply(
        weights={name: array + 0.5 for name, array in SENT.items()} | (weights or {}),
        trained={"head": 30, "genomics": 20} if trained is None else trained,
        counts={},
    )


def objection(answer, config=None, size_band=25):
    return said(check_training_reply, answer, SENT, config or FederationConfig(update_norm=None), facts(size_band))


def said(check, *arguments):
    """Return the text of a rejection, or None."""
    try:
        check(*arguments)
    except RejectedReplyError as error:
        return str(error)
    return None


def test_an_honest_reply_passes():
    assert objection(reply()) is None
    assert objection(reply(trained={"head": 49, "genomics": 0})) is None
    assert objection(reply(trained={})) is None, "such a reply adds nothing to the average"


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (reply({"head.9": np.zeros(1, np.float32)}), ["3 weights; expected the 2", "head.9"]),
        (reply({"genomics.a": np.zeros(5, np.float32)}), ["genomics.a", "(5,)", "(4,)"]),
        (reply({"genomics.a": np.zeros((4, 1), np.float32)}), ["(4, 1)"]),
        (reply({"genomics.a": np.zeros(4, np.float64)}), ["float64"]),
        (reply({"genomics.a": np.zeros(4, np.int64)}), ["int64"]),
        (reply({"genomics.a": np.zeros(4, ">f4")}), [">f4"]),
        (reply({"genomics.a": np.array([0, np.nan, 0, 0], np.float32)}), ["genomics.a", "not finite"]),
        (reply({"genomics.a": np.array([0, -np.inf, 0, 0], np.float32)}), ["not finite"]),
        (reply(trained={"head": -1, "genomics": 20}), ["-1 patients", "head"]),
        (reply(trained={"head": 10**9}), ["1000000000", "ends at 49"]),
        (reply(trained={"head": 50}), ["50 patients", "ends at 49"]),
        (reply(trained={"head": 3, "pathology": 3}), ["pathology", "does not have"]),
    ],
    ids=[
        "extra key",
        "shape",
        "one more dimension",
        "float64",
        "int64",
        "byte order",
        "NaN",
        "infinity",
        "negative count",
        "a billion patients",
        "one above the band",
        "unknown group",
    ],
)
def test_each_lie_is_named(answer, words):
    text = objection(answer)
    assert text is not None
    for word in words:
        assert word in text


def test_a_missing_key_is_named():
    short = reply().model_copy(update={"weights": {"head.0.weight": SENT["head.0.weight"]}})
    assert "1 weights; expected the 2 that were sent. First differences: ['genomics.a']" in objection(short)


@pytest.mark.parametrize(
    ("size_band", "limit", "most"),
    [
        (0, 100_000, 0),
        (1, 100_000, 9),
        (250, 100_000, 499),
        (1000, 100_000, 9999),
        (10_000, 100_000, 100_000),
        (1000, 1200, 1200),
        (250, 300, 300),
    ],
)
def test_the_max_patients_a_band_allows(size_band, limit, most):
    assert max_patients(facts(size_band), FederationConfig(max_patients_per_site=limit)) == most


def histogram(num=4):
    counts = np.zeros((2, NUM_RISK_BINS, CELLS), np.int64)
    counts[1, 3, 2] = num
    return counts


HONEST = {
    "num_patients": 4,
    "num_events": 4,
    "loss_sum": 2.0,
    "concordant": 3,
    "discordant": 2,
    "tied_risk": 1,
    "counts": {"histogram": histogram()},
}


def test_honest_metrics_pass():
    assert said(check_metrics, Metrics(**HONEST), CELLS, MOST) is None
    assert said(check_metrics, Metrics(counts={}), CELLS, MOST) is None
    assert said(check_metrics, Metrics(num_patients=4, loss_sum=1.0, counts={}), CELLS, MOST) is None


@pytest.mark.parametrize(
    ("lie", "word"),
    [
        ({"loss_sum": float("nan")}, "loss_sum is nan"),
        ({"loss_sum": float("inf")}, "loss_sum is inf"),
        ({"loss_sum": -1.0}, "loss_sum is -1"),
        ({"loss_sum": 1e300}, "1e+300 over 4 patients"),
        ({"loss_sum": 1.0, "num_patients": None, "num_events": None}, "over 0 patients"),
        ({"num_patients": 1001}, "1001 patients; federation.max_patients_per_site is 1000"),
        ({"num_patients": -4}, "num_patients is -4"),
        ({"num_events": 5}, "5 events among 4"),
        ({"concordant": -1}, "concordant is -1"),
        ({"concordant": 10**12}, "comparable pairs among 4"),
        ({"counts": {"names": histogram()}}, "names"),
        ({"counts": {"histogram": histogram()[:, :-1]}}, "agreed form"),
        ({"counts": {"histogram": histogram().astype(np.float64)}}, "agreed form"),
        ({"counts": {"histogram": -histogram()}}, "agreed form"),
        ({"counts": {"histogram": histogram(5)}}, "does not count the 4"),
        ({"counts": {"histogram": histogram(2**62)}}, "does not count the 4"),
        ({"num_patients": None, "num_events": None, "loss_sum": None}, "pairs among 0"),
    ],
)
def test_each_lie_in_metrics_is_named(lie, word):
    assert word in said(check_metrics, Metrics(**(HONEST | lie)), CELLS, MOST)


@pytest.mark.parametrize(
    ("lie", "words"),
    [
        ({}, None),
        ({"num_patients": 30, "num_events": 8}, None),
        ({"size_band": 10**9}, "size_band is 1000000000"),
        ({"genomics_band": -3}, "genomics_band is -3"),
        ({"pathology_band": 26}, "pathology_band is 26"),
        ({"feature_width": 10**9}, "feature_width is 1000000000"),
        ({"feature_width": -1}, "feature_width is -1"),
        ({"num_patients": 10**9}, "num_patients is 1000000000"),
        ({"num_events": -1}, "num_events is -1"),
    ],
)
def test_what_a_site_declares_of_its_size(lie, words):
    """Without a limit every site would build a model of the declared width."""
    got = said(check_facts, facts().model_copy(update=lie), FederationConfig(update_norm=None))
    assert got is None if words is None else words in got
