"""A federation under differential privacy: hospitals with a folder and a budget, and a request for a private round."""

import dataclasses

import pytest
from federation_fixtures import GENES_ONLY, Federation, tiny

from client.local import SiteWorker
from client.private import ledger_folder
from client.session import RefusedError
from memamba_core.config.site import SitePrivacy
from memamba_core.privacy.ledger import Ledger
from memamba_core.protocol import TrainRequest
from memamba_core.training.checkpoint import initial_model, weights_of
from server.settle import settle

DP = ("privacy=dp_sgd", "privacy.steps_per_round=2", "federation.num_rounds=2")
FEW = ("data.synthetic.num_patients=20", "data.synthetic.num_sites=2", "partition.num_sites=2")
"""Patients are trained on one by one; two hospitals are enough for one to be left out."""
PRIVATE = SitePrivacy(max_epsilon=8.0, delta=1e-5)


class PrivateFederation(Federation):
    """Hospitals with a folder and a budget."""

    def __init__(self, folder, *overrides, budget=PRIVATE, **options):
        self.folder, self.budget = folder, budget
        super().__init__(tiny(*GENES_ONLY, *FEW, *DP, *overrides), **options)

    def restart(self):
        super().restart()
        for name, worker in self.workers.items():
            config = worker.site.config.model_copy(update={"state": self.folder / name, "privacy": self.budget})
            self.workers[name] = SiteWorker(dataclasses.replace(worker.site, config=config))

    def ledger(self, site):
        return Ledger(ledger_folder(self.folder / site), site, self.budget.delta)


def a_training_request(federation, server_round=1):
    """What a coordinator would send after the settlement."""
    run = federation.run()
    agreement = settle(federation.grid(), run, federation.cohort.signatures).agreement
    return TrainRequest(
        weights=dict(weights_of(initial_model(run.experiment, agreement))),
        run_id=run.run_id,
        config_digest=run.experiment.digest(),
        agreement_digest=agreement.digest(),
        fold=run.fold,
        server_round=server_round,
    )


def refusal(work, request):
    with pytest.raises(RefusedError) as caught:
        work(request)
    return caught.value.refusal
