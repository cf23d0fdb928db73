"""Doubts about rounds: a site that outweighs the others, a loss that jumps, a site whose loss rises."""

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


def losses(number, **of_site):
    sites = {
        site: Failed(failure="x", code=0)
        if loss == "failed"
        else Trained(trained={"head": 30}, train_loss=loss, incoming=SiteMetrics())
        for site, loss in of_site.items()
    }
    return RoundRecord(server_round=number, sites=sites, seconds=1.0, bytes_sent=1, bytes_received=1)


def doubts_of(rounds):
    return [watch_round(record, rounds[:index], FedAvgConfig()) for index, record in enumerate(rounds)]


def falling(number, odd):
    return losses(number, a=1.5 - 0.03 * number, b=1.2 - 0.02 * number, odd=odd)


def test_a_site_whose_loss_rises_while_the_others_fall_is_named_once():
    said = doubts_of([falling(number, 0.8 + 0.01 * number) for number in range(1, 15)])
    assert [index for index, doubts in enumerate(said, 1) if doubts] == [10]
    ((doubt,),) = [doubts for doubts in said if doubts]
    assert doubt.startswith("odd: the training loss of this site is +10% since round 1, -15% at the other sites")
    assert "the coding of the event" in doubt


@pytest.mark.parametrize("odd", [0.8, None, "failed"], ids=["constant", "suppressed", "absent"])
def test_a_site_whose_loss_does_not_rise_is_not_named(odd):
    said = doubts_of([falling(number, odd) for number in range(1, 13)])
    assert not any("since round 1" in doubt for doubts in said for doubt in doubts)


def test_two_sites_cannot_say_which_is_odd():
    rounds = [losses(number, a=1.5 - 0.03 * number, odd=0.8 + 0.01 * number) for number in range(1, 13)]
    assert not any("since round 1" in doubt for doubts in doubts_of(rounds) for doubt in doubts)


def test_no_site_is_named_where_all_losses_rise():
    rounds = [
        losses(number, a=1 + 0.01 * number, b=1 + 0.01 * number, odd=1 + 0.02 * number) for number in range(1, 13)
    ]
    assert not any(doubts_of(rounds))
