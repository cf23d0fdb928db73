"""Doubts about rounds: a site that outweighs the others, a loss that jumps."""

import pytest

from memamba_core.config.strategy import FedAvgConfig, FedMedianConfig
from server.federation.journal import RoundRecord
from server.federation.outcome import Failed, SiteMetrics, Trained
from server.federation.watch import patient_shares, watch_round


def record(number, loss=1.0, **patients):
    sites = {
        site: Trained(trained={"head": count}, train_loss=loss, incoming=SiteMetrics())
        if count
        else Failed(failure="x", code=0)
        for site, count in patients.items()
    }
    return RoundRecord(server_round=number, sites=sites, seconds=1.0, bytes_sent=1, bytes_received=1)


def test_a_site_with_most_of_the_weight_is_named_once():
    first = record(1, county=89, mercy=40, st=35)
    (doubt,) = watch_round(first, [], FedAvgConfig())
    assert "from round 1 on county (54%) has over 40% of the weight" in doubt
    assert watch_round(record(2, county=89, mercy=40, st=35), [first], FedAvgConfig()) == []
    (again,) = watch_round(record(2, county=0, mercy=40, st=35), [first], FedAvgConfig())
    assert "mercy (53%) and st (47%) each have" in again
    assert watch_round(record(1, county=40, mercy=40, st=40), [], FedAvgConfig()) == []


def test_no_doubt_where_numbers_of_patients_do_not_count():
    assert watch_round(record(1, county=89, mercy=40, st=35), [], FedMedianConfig()) == []


@pytest.mark.parametrize(("loss", "doubts"), [(1.4, 0), (1.6, 1), (30.0, 1), (None, 0)])
def test_a_loss_that_jumps_names_the_round_before(loss, doubts):
    before = [record(1, 2.0, a=30, b=30, c=30), record(2, 1.0, a=30, b=30, c=30)]
    said = watch_round(record(3, loss, a=30, b=30, c=30), before, FedAvgConfig())
    assert len(said) == doubts
    assert all(f"round 3: the training loss is {loss:.3g}, 1 in round 2: the model of round 2" in text for text in said)


def test_shares_are_over_all_rounds():
    assert patient_shares([record(1, a=30, b=10), record(2, a=0, b=40)]) == {"a": 0.375, "b": 0.625}
    assert patient_shares([]) == {}
