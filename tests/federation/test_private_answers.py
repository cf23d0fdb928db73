"""Attacks on private sites by their answers: nothing that leaves depends on a patient, except through the noise."""

import dataclasses
import time

import numpy as np
import pytest
import torch
from fixtures.private_answers import THREE_EXPERTS, OneSite, without_values
from fixtures.private_federation import BANDS, PRIVATE, PrivateFederation, a_training_request, refusal
from fixtures.requests import facts_request

pytest.importorskip("opacus", reason="differential privacy needs the extra `privacy`")

from client.private_round import ledger_folder
from client.worker import SiteWorker
from memamba_core.config.compose import compose_experiment
from memamba_core.data.dataset import PatientDataset
from memamba_core.errors import ConfigError, DataError
from memamba_core.privacy.ledger import Ledger
from memamba_core.training.trainer import training_loss
from memamba_core.wire.protocol import Refusal

SETTINGS = (*THREE_EXPERTS, "privacy.trained=all", "training.max_patches=null")


def run(folder, change=None, num_rounds=1):
    """Return everything that leaves a site whose cohort was changed."""
    return OneSite(folder, *SETTINGS, f"federation.num_rounds={num_rounds}", change=change).everything()


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    """Patients of the unchanged site."""
    (site,) = OneSite(tmp_path_factory.mktemp("cohort"), *SETTINGS).cohort.sites.values()
    return site.cohort


@pytest.fixture(scope="module")
def healthy(tmp_path_factory):
    """Return everything that leaves the site if all is well."""
    return run(tmp_path_factory.mktemp("healthy"))


@pytest.fixture(scope="module")
def victim(cohort):
    """Return the patient whom most tests give trouble."""
    return patients_of(cohort)[2]


@pytest.fixture(scope="module")
def without_victim(tmp_path_factory, victim):
    """Return everything that leaves the site if this patient is not there."""
    return run(tmp_path_factory.mktemp("absent"), without(victim))


def patients_of(cohort):
    return [r.case_id for r in cohort.records]


def without(*case_ids):
    return lambda cohort: cohort.subset([r.case_id for r in cohort.records if r.case_id not in case_ids])


def trouble_with(monkeypatch, trouble_of):
    """Replace what loading these patients' records does."""
    load = PatientDataset.load

    def loaded(dataset, index, **options):
        patient = load(dataset, index, **options)
        return trouble_of.get(dataset.records[index].case_id, lambda same: same)(patient)

    monkeypatch.setattr(PatientDataset, "load", loaded)


def unreadable(_patient):
    raise DataError("/data/features/TCGA-00.h5: truncated file")


def vanished(_patient):
    raise FileNotFoundError("TCGA-00.h5")


def too_large(_patient):
    raise MemoryError


def too_large_for_torch(_patient):
    raise RuntimeError("[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory")


def not_finite(patient):
    return dataclasses.replace(patient, genes_C=torch.full_like(patient.genes_C, torch.nan))


def of_another_width(patient):
    return dataclasses.replace(patient, genes_C=torch.ones(len(patient.genes_C) + 3))


def endless(patient):
    time.sleep(20)
    return patient


TROUBLES = (unreadable, vanished, too_large, too_large_for_torch, of_another_width, not_finite)


def test_a_patient_less_changes_the_bits_of_weights_alone(healthy, without_victim):
    """Otherwise the comparisons of this file would hold for a site whose answers show nothing."""
    assert healthy != without_victim
    assert without_values(healthy) == without_values(without_victim)


def test_trouble_with_patients_leaves_what_a_site_without_them_leaves(tmp_path, monkeypatch, cohort, caplog):
    """A refusal, another count, one bit of a weight: each would say that the patient is there."""
    victims = dict(zip(patients_of(cohort), TROUBLES, strict=False))
    absent = run(tmp_path / "absent", without(*victims), num_rounds=2)
    assert [phase for phase, *_ in absent] == ["query.facts", "query.agreement", "train", "train", "evaluate"]
    trouble_with(monkeypatch, victims)
    caplog.clear()
    assert run(tmp_path / "troubled", num_rounds=2) == absent
    for victim, trouble in victims.items():
        assert victim in caplog.text or trouble is not_finite
    assert "gradients were not finite" in caplog.text


@pytest.mark.ci_slow
@pytest.mark.parametrize("trouble", TROUBLES)
def test_trouble_with_one_patient(trouble, tmp_path, monkeypatch, victim, without_victim):
    trouble_with(monkeypatch, {victim: trouble})
    assert run(tmp_path) == without_victim


def test_a_gradient_that_fails_half_way_is_forgotten(tmp_path, monkeypatch, victim, without_victim):
    """Forget what a backward pass has left of one patient: it must not be added to the gradient of the next one."""
    marked = []
    trouble_with(monkeypatch, {victim: lambda patient: marked.append(patient) or patient})

    class Broken:
        def __init__(self, loss):
            self.loss = loss

        def backward(self):
            self.loss.backward()
            raise MemoryError

    def loss_of(model, patients, config):
        loss, parts = training_loss(model, patients, config)
        return (Broken(loss) if any(patients[0] is patient for patient in marked) else loss), parts

    monkeypatch.setattr("memamba_core.training.dp_training.training_loss", loss_of)
    assert run(tmp_path) == without_victim
    assert marked


def test_a_patient_who_never_ends_costs_the_others_nothing(tmp_path, monkeypatch, victim, without_victim):
    """A limit on the whole round would take all later patients out of the sum, too."""
    trouble_with(monkeypatch, {victim: endless})
    monkeypatch.setattr("client.private_round.PATIENTS_IN_LIMIT", 3600 / 0.5)
    started = time.monotonic()
    assert run(tmp_path) == without_victim
    assert time.monotonic() - started < 60


@pytest.mark.parametrize("missing", [{"slides": ()}, {"gene_row": None}], ids=["slides", "genes"])
def test_one_patient_without_a_modality_changes_no_count(missing, tmp_path, victim, healthy):
    """Counts of the `absent_*` groups went from missing to 1."""

    def without_modality(cohort):
        records = (dataclasses.replace(r, **missing) if r.case_id == victim else r for r in cohort.records)
        return dataclasses.replace(cohort, records=tuple(records))

    changed = run(tmp_path, without_modality)
    assert changed != healthy
    assert without_values(changed) == without_values(healthy)
    fields = next(fields for phase, fields, _ in healthy if phase == "train")
    counts = {name.removeprefix("trained."): value for name, value in fields.items() if name.startswith("trained.")}
    assert {"absent_genomics", "absent_pathology", "absent_synergistic"} <= counts.keys()
    assert set(counts.values()) <= {BANDS.patients, BANDS.pathology, BANDS.genomics}


def test_facts_are_the_same_for_every_seed_fold_and_cohort(tmp_path, cohort):
    """Bands of a fold that the coordinator's seed chose gave the exact number of patients, and who is among them."""
    disclosed = set()
    for number, change in enumerate((None, without(patients_of(cohort)[2]), lambda cohort: cohort.subset([]))):
        federation = OneSite(tmp_path / str(number), change=change)
        (worker,) = federation.workers.values()
        without_folds = dataclasses.replace(worker.site.cohort, has_folds=False)
        worker = SiteWorker(dataclasses.replace(worker.site, cohort=without_folds))
        for seed in range(6):
            experiment = federation.config.experiment.model_copy(update={"seed": seed})
            for fold in range(-1, 5):
                request = facts_request(experiment, f"seed-{seed}-fold-{fold}", fold)
                disclosed.add(worker.facts(request).model_dump_json())
        assert not Ledger.exists(ledger_folder(worker.site.config.state))
    assert len(disclosed) == 1


def test_a_site_without_patients_answers_like_any_other(tmp_path, healthy):
    assert without_values(run(tmp_path, lambda cohort: cohort.subset([]))) == without_values(healthy)


@pytest.mark.parametrize("transport", ["exact", "sinkhorn", "unbalanced"])
def test_plans_that_can_fail_for_a_patient_are_no_private_settings(transport):
    """`transport=exact` with a limit was a refusal that the coordinator aimed at the largest bag."""
    with pytest.raises(ConfigError, match=r"model\.transport must be relaxed"):
        compose_experiment(["privacy=dp_sgd", f"model.transport={transport}"])


def test_a_machine_that_can_compute_nothing_says_so_before_the_charge(tmp_path, monkeypatch):
    federation = PrivateFederation(tmp_path)
    request, site = a_training_request(federation), federation.sites[0]

    def broken(*_arguments, **_options):
        raise RuntimeError("no kernel")

    monkeypatch.setattr("client.private_round.training_loss", broken)
    with pytest.raises(RuntimeError, match="no kernel"):
        federation.workers[site].train(request)
    assert federation.ledger(site).charges() == ()


def test_a_run_with_a_larger_delta_is_refused_by_settings_alone(tmp_path):
    federation = PrivateFederation(tmp_path, budget=PRIVATE.model_copy(update={"delta": 1e-6}))
    run = federation.run()
    request = facts_request(run.experiment, run.run_id, run.fold)
    assert refusal(federation.workers[federation.sites[0]].facts, request) is Refusal.POLICY


def test_an_answer_that_is_sent_again_has_the_same_bands(tmp_path, cohort):
    federation = OneSite(tmp_path, *SETTINGS)
    request, (site,) = a_training_request(federation), federation.sites
    first = federation.workers[site].train(request)
    federation.change = without(*patients_of(cohort)[:5])
    federation.restart()
    again = federation.workers[site].train(request)
    assert again.trained == first.trained
    assert all(np.array_equal(again.weights[name], first.weights[name]) for name in first.weights)
