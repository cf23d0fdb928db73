"""After approval nothing that leaves a strict site depends on whether one patient's data can be read."""

import dataclasses
import math

import numpy as np
import pytest
from fixtures.federation import BLOCKS, Federation, tiny

from client.block_answers import DECIMALS
from client.worker import SiteWorker
from memamba_core.errors import DataError, ProtocolError
from memamba_core.model import parameter_group
from memamba_core.training.batches import batches_of, num_batches
from memamba_core.training.checkpoint import initial_model, weights_of
from memamba_core.wire.protocol import (
    EvaluateReply,
    EvaluateRequest,
    FactsReply,
    StatisticsReply,
    TrainReply,
    TrainRequest,
    check_leaves,
)
from server.federation.handshake import perform_handshake

LOWER = ("data.synthetic.num_patients=96", "data.synthetic.num_sites=2", "partition.num_sites=2")


@dataclasses.dataclass
class Ready:
    """A strict site that is ready for round 1, and the requests for it."""

    worker: SiteWorker
    train: TrainRequest
    evaluate: EvaluateRequest

    def break_patients(self, monkeypatch, how):
        """Damage the data of one patient of the site."""
        load = type(self.worker.site.cohort.features).load
        victim = self.worker.site.cohort.records[0].case_id

        def broken(store, record, *arguments, **options):
            return (
                how(load(store, record, *arguments, **options))
                if record.case_id == victim
                else load(store, record, *arguments, **options)
            )

        monkeypatch.setattr(type(self.worker.site.cohort.features), "load", broken)


@pytest.fixture
def ready():
    federation = Federation(
        tiny(*BLOCKS, *LOWER, "data.synthetic.missing_slides=0.2", "disclosure.min_round_patients=8")
    )
    run = federation.run(fold=0)
    agreement = perform_handshake(federation.grid(), run, federation.cohort.signatures).agreement
    about = {
        "weights": dict(weights_of(initial_model(run.experiment, agreement))),
        "run_id": run.run_id,
        "config_digest": run.experiment.digest(),
        "agreement_digest": agreement.digest(),
        "fold": run.fold,
    }
    return Ready(federation.workers["site-01"], TrainRequest(**about, server_round=1), EvaluateRequest(**about))


def raise_data_error(_bag):
    raise DataError("slide of patient P-1 cannot be read")


def raise_program_error(_bag):
    raise ZeroDivisionError


def make_nan(bag):
    return dataclasses.replace(bag, patches_PF=bag.patches_PF * math.nan)


def make_huge(bag):
    return dataclasses.replace(bag, patches_PF=bag.patches_PF * 1e38)


@pytest.mark.parametrize("damage", [raise_data_error, raise_program_error])
def test_trouble_with_a_patient_is_answered_without_training(ready, damage, monkeypatch):
    ready.break_patients(monkeypatch, damage)
    reply = ready.worker.train(ready.train)
    assert reply.trained == {}
    assert reply.train_loss is None
    for name, array in reply.weights.items():
        np.testing.assert_array_equal(array, ready.train.weights[name])


@pytest.mark.parametrize("damage", [make_nan, make_huge])
def test_values_that_are_not_finite_are_answered_like_any_others(ready, damage, monkeypatch):
    ready.break_patients(monkeypatch, damage)
    reply = ready.worker.train(ready.train)
    assert all(np.isfinite(array).all() for array in reply.weights.values())
    assert reply.train_loss is None or math.isfinite(reply.train_loss)


@pytest.mark.parametrize("damage", [raise_data_error, make_nan])
def test_trouble_in_the_evaluation_is_answered_without_a_number(ready, damage, monkeypatch):
    assert ready.worker.train(ready.train).trained
    victims = {record.case_id for record in ready.worker.site.test_cohort(0, 0).records}
    load = type(ready.worker.site.cohort.features).load

    def broken(store, record, *arguments, **options):
        bag = load(store, record, *arguments, **options)
        return bag if bag is None or record.case_id not in victims else damage(bag)

    monkeypatch.setattr(type(ready.worker.site.cohort.features), "load", broken)
    reply = ready.worker.evaluate(ready.evaluate)
    assert reply.num_patients is None
    assert reply.loss_sum is None


def test_a_group_that_few_patients_of_a_block_train_stays_as_it_was(ready):
    """Few lack slides: the vector that stands for absent slides would be learned from them alone."""
    site = ready.worker.site
    lacking = [
        sum(not site.cohort.has_slides(r) for r in site.cohort.subset(block.case_ids).records)
        for block in site.training_blocks(0)
    ]
    assert 0 < min(lacking) < 8, "the case that the test is about"
    reply = ready.worker.train(ready.train)
    assert "head" in reply.trained
    assert "absent_pathology" not in reply.trained
    changed = {parameter_group(n) for n, a in reply.weights.items() if not np.array_equal(a, ready.train.weights[n])}
    assert "genomics" in changed
    assert changed <= set(reply.trained)


@pytest.mark.parametrize(
    ("num", "size", "smallest", "sizes"),
    [
        (65, 64, 32, [33, 32]),
        (65, 64, 33, [65]),
        (33, 32, 32, [33]),
        (20, 64, 32, [20]),
        (130, 64, 32, [44, 43, 43]),
        (65, 64, 1, [64, 1]),
    ],
)
def test_no_batch_is_below_the_floor(num, size, smallest, sizes):
    batches = list(batches_of(num, size, 0, smallest))
    assert [len(batch) for batch in batches] == sizes
    assert len(batches) == num_batches(num, size, smallest)
    assert sorted(index for batch in batches for index in batch) == list(range(num))


def test_a_step_of_a_strict_site_is_never_over_fewer_patients_than_a_block_holds(ready, monkeypatch):
    """The attack: as many patients as a batch holds, and one: the second step would be this one's gradient."""
    seen = []
    monkeypatch.setattr(
        "memamba_core.training.trainer.batches_of", lambda *arguments: seen.append(arguments) or iter(())
    )
    ready.worker.train(ready.train)
    assert {arguments[3] for arguments in seen} == {8}


def test_the_loss_of_an_evaluation_is_a_rounded_mean(ready):
    reply = ready.worker.evaluate(ready.evaluate)
    mean = reply.loss_sum / reply.num_patients
    assert mean == pytest.approx(round(mean, DECIMALS), abs=1e-12)
    assert reply.num_patients == len(ready.worker.site.test_cohort(0, 0).records)
    assert (reply.num_events, reply.concordant, reply.counts) == (None, None, {})


FACTS = FactsReply(
    site="a", time_unit="months", event_means="happened", encoder="", feature_width=0, feature_columns=(),
    feature_families=(), gene_columns=(), size_band=25, pathology_band=0, genomics_band=25,
)  # fmt: skip


@pytest.mark.parametrize(
    "reply",
    [
        FACTS.model_copy(update={"num_patients": 30}),
        FACTS.model_copy(update={"num_events": 0}),
        StatisticsReply(genes={}, features={}, events={"event": np.zeros(2, dtype=np.int64)}),
        TrainReply(weights={}, trained={}, counts={}, loss_sum=1.0),
        TrainReply(weights={}, trained={}, counts={"histogram": np.zeros(1, dtype=np.int64)}),
        EvaluateReply(counts={}, num_events=3),
        EvaluateReply(counts={}, concordant=3),
        EvaluateReply(counts={"histogram": np.zeros(1, dtype=np.int64)}),
    ],
)
def test_what_only_a_simulation_discloses_is_withheld(reply):
    with pytest.raises(ProtocolError, match="does not leave a site of a deployment"):
        check_leaves(reply)


def test_what_a_deployment_discloses_leaves():
    check_leaves(FACTS)
    check_leaves(TrainReply(weights={}, trained={"head": 40}, train_loss=0.5, counts={}))
    check_leaves(EvaluateReply(counts={}, num_patients=40, loss_sum=12.0))
