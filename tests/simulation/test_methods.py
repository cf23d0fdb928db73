"""Pooled and local training: which patients, how many epochs, and how the figures of a site are made."""

import numpy as np
import pytest
from fixtures.federation import GENES_ONLY, Federation, tiny
from fixtures.simulation import FAST, run

from memamba_core.survival.concordance import concordance_index
from memamba_core.training.trainer import Predictions
from server.federation.handshake import perform_handshake
from simulation import methods
from simulation import run as run_module
from simulation.methods import MIN_PAIRS, train_local, train_pooled

LARGE = (*GENES_ONLY, "data.synthetic.num_patients=90", "data.synthetic.censoring=0", "num_folds=3")
"""Two sites with enough test patients each for a C-index of their own."""


class Prepared:
    """A federation whose agreement is made, and the arguments of the other two methods."""

    def __init__(self, *overrides):
        federation = Federation(tiny(*overrides))
        self.cohort, self.experiment = federation.cohort, federation.config.experiment
        run, signatures = federation.run(), federation.cohort.signatures
        self.agreement = perform_handshake(federation.grid(), run, signatures).agreement

    def arguments(self):
        return self.cohort, self.experiment, self.agreement, 0, "cpu"


@pytest.fixture
def datasets(monkeypatch):
    """Case ids of each training set, and the spans, of the trainings of `simulation.methods`."""
    seen, real = [], methods.train

    def train(model, dataset, *, span, **options):
        seen.append(({record.case_id for record in dataset.records}, (span.first, span.num, span.total)))
        return real(model, dataset, span=span, **options)

    monkeypatch.setattr(methods, "train", train)
    return seen


def test_no_method_trains_on_the_test_fold(datasets):
    prepared = Prepared(*GENES_ONLY, "federation.num_rounds=1")
    test = {record.case_id for record in prepared.cohort.test_cohort(0).records}
    others = {record.case_id for record in prepared.cohort.cohort.records} - test
    pooled = train_pooled(*prepared.arguments())
    train_local(*prepared.arguments())
    (union, _), *alone = datasets
    assert test
    assert set(pooled.predictions.case_ids) == test
    assert union == others
    assert [case_ids for case_ids, _ in alone] == [
        {record.case_id for record in site.cohort.records} - test for site in prepared.cohort.sites.values()
    ]


def test_every_method_trains_for_as_many_epochs_as_a_site_of_the_federation(datasets):
    prepared = Prepared(*GENES_ONLY, "federation.num_rounds=3", "federation.local_epochs=2")
    epochs = []
    train_pooled(*prepared.arguments(), on_epoch=lambda epoch, _loss: epochs.append(epoch))
    train_local(*prepared.arguments())
    assert epochs == [1, 2, 3, 4, 5, 6]
    assert [span for _, span in datasets] == [(0, 6, 6)] * 5  # pooled and four sites


def test_epochs_of_a_round_count_like_rounds():
    """Pooled training knows no rounds: one round of two epochs and two rounds of one give the same weights."""
    settings = {"a": (1, 2), "b": (2, 1), "c": (1, 1)}
    weights = {
        name: train_pooled(
            *Prepared(*GENES_ONLY, f"federation.num_rounds={rounds}", f"federation.local_epochs={epochs}").arguments()
        ).weights
        for name, (rounds, epochs) in settings.items()
    }
    for name, array in weights["a"].items():
        np.testing.assert_array_equal(array, weights["b"][name])
    assert any(not np.array_equal(array, weights["c"][name]) for name, array in weights["a"].items())


def test_the_own_c_index_of_a_site_is_over_its_own_test_patients(monkeypatch):
    """The prediction is perfect for the patients of one site and turned around for those of the other."""
    prepared = Prepared(*LARGE, "partition.num_sites=2", "federation.num_rounds=1")
    first, second = prepared.cohort.sites
    site_of = prepared.cohort.site_of()

    def predict_fold(model, cohort, experiment, agreement, device="auto"):
        times = np.array([record.time_months for record in cohort.records])
        sign = np.array([-1.0 if site_of[record.case_id] == first else 1.0 for record in cohort.records])
        num = len(times)
        return Predictions(
            risk=sign * times,
            hazards_NK=np.ones((num, 2)),
            survival_NK=np.zeros((num, 2)),
            loss=np.zeros(num),
            time_months=times,
            event=np.array([record.event for record in cohort.records]),
            groups=(frozenset(),) * num,
            case_ids=tuple(record.case_id for record in cohort.records),
        )

    monkeypatch.setattr(methods, "predict_fold", predict_fold)
    outcome = train_local(*prepared.arguments())
    union = predict_fold(None, prepared.cohort.test_cohort(0), None, None)
    everybody = concordance_index(union.risk, union.time_months, union.event)
    assert 0.2 < everybody < 0.8
    assert {name: line.own_c_index for name, line in outcome.sites.items()} == {first: 1.0, second: 0.0}
    assert [line.c_index for line in outcome.sites.values()] == [everybody] * 2


def test_a_site_with_few_comparable_pairs_has_no_c_index_of_its_own():
    outcome = train_local(*Prepared(*GENES_ONLY, "federation.num_rounds=1").arguments())
    assert MIN_PAIRS == 50
    assert [line.own_c_index for line in outcome.sites.values()] == [None] * 4  # three test patients each
    assert all(line.c_index is not None for line in outcome.sites.values())


def test_the_mean_over_sites_is_weighted_by_their_training_patients():
    unequal = ("partition=dirichlet", "partition.alpha=0.5", "data.synthetic.num_patients=80")
    long = ("federation.num_rounds=4", "training.optimizer.learning_rate=0.05")
    outcome = train_local(*Prepared(*GENES_ONLY, *unequal, *long).arguments())
    lines = [line for line in outcome.sites.values() if line.c_index is not None]
    sizes = [line.num_patients for line in lines]
    plain = np.mean([line.c_index for line in lines])
    weighted = sum(line.num_patients * line.c_index for line in lines) / sum(sizes)
    assert abs(weighted - plain) > 1e-3, "the weights matter in this cohort"
    assert outcome.c_index == pytest.approx(weighted, abs=1e-12)


def test_censoring_weights_of_a_fold_come_from_its_training_patients(tmp_path, monkeypatch):
    """AUC and Brier score estimate censoring on the training patients, for each method and through the whole run."""
    seen, real = [], run_module.evaluate_predictions

    def evaluate_predictions(predictions, training, agreement):
        seen.append((set(predictions.case_ids), {record.case_id for record in training.records}))
        return real(predictions, training, agreement)

    monkeypatch.setattr(run_module, "evaluate_predictions", evaluate_predictions)
    monkeypatch.setattr(run_module, "draw_figures", lambda *_: None)
    run(tmp_path / "out", *FAST, "methods=[federated,pooled]", "folds=[0,1]")
    assert len(seen) == 4
    assert all(len(tested | trained) == 48 and not tested & trained for tested, trained in seen)
    assert seen[0] == seen[1]
    assert seen[2] == seen[3]
    assert not seen[0][0] & seen[2][0]
