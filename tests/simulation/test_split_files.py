"""A cohort folder whose split files miss patients: those are in no training set and in no test set."""

import numpy as np
import pandas as pd
import pytest
from fixtures.federation import Federation, tiny

import client.worker
from simulation import methods

NUM = 40
IN_THE_SPLITS = [f"P{i:02d}" for i in range(12)]
IN_NO_SPLIT = {f"P{i:02d}" for i in range(12, NUM)}


@pytest.fixture
def overrides(tmp_path):
    """Settings of a simulation of two sites; two split files name 12 of 40 patients."""
    rng = np.random.default_rng(0)
    case_ids = [f"P{i:02d}" for i in range(NUM)]
    months = rng.uniform(1, 90, NUM).round(2)
    clinical = {"case_id": case_ids, "survival_months": months, "event": np.arange(NUM) % 2}
    pd.DataFrame(clinical).to_csv(tmp_path / "clinical.csv", index=False)
    genes = pd.DataFrame(rng.normal(size=(NUM, 3)), columns=["A_rnaseq", "B_rnaseq", "C_cnv"])
    genes.assign(case_id=case_ids).to_csv(tmp_path / "genes.csv", index=False)
    (tmp_path / "splits").mkdir()
    for fold in (0, 1):
        halves = {"train": IN_THE_SPLITS[1 - fold :: 2], "val": IN_THE_SPLITS[fold::2]}
        pd.DataFrame(halves).to_csv(tmp_path / "splits" / f"splits_{fold}.csv", index=False)
    settings = tiny(
        "data.synthetic=null",
        "data.name=mine",
        f"data.root={tmp_path}",
        "data.clinical={file:clinical.csv}",
        "data.genomics={file:genes.csv}",
        "data.splits=splits",
        "partition.num_sites=2",
        "agreement.gene_groups=kind",
        "federation.num_rounds=1",
    )
    return tuple(setting for setting in settings if not setting.startswith("data.synthetic."))


def test_patients_of_no_split_file_are_neither_trained_on_nor_tested(overrides, monkeypatch):
    trained, real = set(), client.worker.train

    def train(model, dataset, **options):
        trained.update(record.case_id for record in dataset.records)
        return real(model, dataset, **options)

    monkeypatch.setattr(client.worker, "train", train)
    federation = Federation(overrides)
    assert any(warning.startswith("28 patients are in no split") for warning in federation.cohort.warnings)
    result = federation.train()
    assert trained == set(IN_THE_SPLITS[1::2])
    assert sum(fact.num_patients or 0 for fact in result.facts.values()) == 6
    assert result.evaluation.num_patients == 6


def test_pooled_and_local_training_leave_them_out_as_well(overrides, monkeypatch):
    federation = Federation(overrides)
    cohort, experiment = federation.cohort, federation.config.experiment
    agreement = federation.train().agreement
    trained, real = [], methods.train

    def train(model, dataset, **options):
        trained.append({record.case_id for record in dataset.records})
        return real(model, dataset, **options)

    monkeypatch.setattr(methods, "train", train)
    pooled = methods.train_pooled(cohort, experiment, agreement, 0, "cpu")
    methods.train_local(cohort, experiment, agreement, 0, "cpu")
    union, *alone = trained
    assert union == set().union(*alone) == set(IN_THE_SPLITS[1::2])
    assert set(pooled.predictions.case_ids) == set(IN_THE_SPLITS[0::2])


@pytest.mark.parametrize("fold", [-1, 0, 1])
def test_no_site_ever_uses_them(overrides, fold):
    for site in Federation(overrides).cohort.sites.values():
        for part in (site.training_cohort(fold, 0), site.holdout_cohort(fold, 0, 0.5), site.test_cohort(fold, 0)):
            assert not IN_NO_SPLIT & {record.case_id for record in part.records}
        assert IN_NO_SPLIT & {record.case_id for record in site.cohort.records}
