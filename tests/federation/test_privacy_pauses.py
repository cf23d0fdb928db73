"""Private round whose task is lost in a pause: it is finished, stored, charged once, and sent when it is asked for."""

import numpy as np
import pytest
from fixtures.private_federation import PrivateFederation, a_training_request

from memamba_core.training import dp_training

pytest.importorskip("opacus")


def test_a_round_that_was_charged_is_finished_although_its_task_is_lost(tmp_path, monkeypatch, interrupts):
    federation = PrivateFederation(tmp_path)
    request = a_training_request(federation)
    real, trained = dp_training.train_dp_round, []

    def train_dp_round(*arguments, **options):
        trained.append(1)
        interrupts.lose()
        sum(range(100_000))
        return real(*arguments, **options)

    monkeypatch.setattr(dp_training, "train_dp_round", train_dp_round)
    worker = federation.workers["site-01"]
    with interrupts.breakable():
        first = worker.train(request)
    with interrupts.breakable():
        again = worker.train(request)
    assert trained == [1]
    assert len(federation.ledger("site-01").charges()) == 1
    for name, values in first.weights.items():
        np.testing.assert_array_equal(again.weights[name], values)
