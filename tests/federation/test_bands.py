"""Under differential privacy nothing that leaves a site depends on its number of patients, beyond their band.

Two sites that differ only in patients who were not drawn must send the same bits; the tests fix the random draws.
"""

import dataclasses
import logging

import numpy as np
import pytest
from fixtures.federation import Federation, tiny

pytest.importorskip("opacus", reason="differential privacy needs the extra `privacy`")

from client.site import Site
from client.worker import SiteWorker
from memamba_core.config.site import SitePrivacy
from memamba_core.errors import FederationError
from memamba_core.privacy.plan import PrivacyPlan
from memamba_core.privacy.secure_random import SecureRandom
from memamba_core.wire.protocol import size_band
from server.federation.journal import Journal
from server.federation.rounds import run_federation

ONE_SITE = tiny(
    "privacy=dp_sgd",
    "privacy.steps_per_round=2",
    "model.experts=[pathology,genomics,synergistic]",
    "data.synthetic.num_patients=60",
    "data.synthetic.num_sites=1",
    "data.synthetic.missing_genes=0",
    "data.synthetic.missing_slides=0",
    "partition.num_sites=1",
    "training.max_patches=null",
    "model.dropout=0",
)
DRAWN = 3


@pytest.fixture(autouse=True)
def the_same_patients_are_drawn(monkeypatch):
    """Patients whom both sites have, in one order."""

    def in_one_order(self, fold, _seed, _holdout=0.0):
        return self.cohort.subset([r.case_id for r in self.cohort.records if r.fold != fold])

    monkeypatch.setattr(Site, "training_cohort", in_one_order)
    monkeypatch.setattr(SecureRandom, "bernoulli", lambda _random, num, _probability: np.arange(num) < DRAWN)


def everything_disclosed(folder, num_patients, caplog):
    """Everything that a coordinator holds after a run with a site of this number of training patients."""
    federation = Federation(ONE_SITE)
    (name,) = federation.sites
    site = federation.cohort.sites[name]
    training = [r.case_id for r in site.cohort.records if r.fold != 0][:num_patients]
    assert len(training) == num_patients
    config = site.config.model_copy(update={"state": folder / name, "privacy": SitePrivacy(max_epsilon=8, delta=1e-5)})
    federation.workers[name] = SiteWorker(dataclasses.replace(site, cohort=site.cohort.subset(training), config=config))
    streams = iter(range(10**6))

    def noise_of_one_stream(_random, num):
        return np.random.default_rng(next(streams)).normal(size=num)

    with pytest.MonkeyPatch.context() as patch, caplog.at_level(logging.DEBUG):
        patch.setattr(SecureRandom, "normal", noise_of_one_stream)
        caplog.clear()
        journal = Journal(folder / "journal", federation.config.experiment.digest(), 0)
        result = run_federation(
            federation.grid(), federation.run(), signatures=federation.cohort.signatures, journal=journal
        )
    rounds = [record.model_copy(update={"seconds": 0.0}) for record in result.rounds]
    log = [r.getMessage() for r in caplog.records if r.name.startswith(("server", "client", "memamba_core"))]
    checkpoint = journal.read()
    assert checkpoint is not None
    return {
        "facts": result.facts,
        "agreement": result.agreement.digest(),
        "weights": {n: a.tobytes() for n, a in result.weights.items()},
        "checkpoint": {n: a.tobytes() for n, a in checkpoint.weights.items()},
        "rounds": rounds,
        "evaluation": result.evaluation,
        "warnings": result.warnings,
        "log": log,
    }


@pytest.mark.ci_slow
def test_a_site_of_26_patients_sends_what_one_of_40_sends(tmp_path, caplog):
    assert size_band(26) == size_band(40)
    small, large = (everything_disclosed(tmp_path / str(n), n, caplog) for n in (26, 40))
    assert small["log"]
    for part in small:
        assert small[part] == large[part], part


@pytest.mark.ci_slow
def test_another_band_is_told(tmp_path, caplog):
    """The comparison must be able to fail, and fails here."""
    small, other = (everything_disclosed(tmp_path / str(n), n, caplog) for n in (20, 40))
    assert {part for part in small if small[part] != other[part]} >= {"facts", "weights", "checkpoint", "rounds"}


@pytest.mark.ci_slow
@pytest.mark.parametrize("mutant", ["divided by how many there are", "counts disclosed exactly"])
def test_each_mutant_is_caught(mutant, tmp_path, caplog, monkeypatch):
    if mutant == "divided by how many there are":
        sizes = iter([26.0] * 2 + [40.0] * 2)  # a round each, two rounds, two sites
        monkeypatch.setattr(PrivacyPlan, "divisor", lambda plan, _band: plan.step.sampling_rate * next(sizes))
    else:
        monkeypatch.setattr("client.declared_bands.size_band", lambda count: count)
    with pytest.raises((AssertionError, FederationError)):
        test_a_site_of_26_patients_sends_what_one_of_40_sends(tmp_path, caplog)
