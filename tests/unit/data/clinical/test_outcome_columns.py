"""Inputs that are the outcome: columns equal to the event or ordered by the follow-up, and silence on real genes."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memamba_core.config.site import ClinicalTable, FeatureFolder, GenomicsTable, SiteDataConfig
from memamba_core.data.clinical.outcome_columns import match_outcome
from memamba_core.data.manifest import load_cohort

NUM = 60


def outcome(seed=0, num=NUM, share=0.4):
    rng = np.random.default_rng(seed)
    return np.round(rng.exponential(30, num), 2), rng.random(num) < share


def swap(column, places=1):
    changed = column.copy()
    changed[:places] = 1 - changed[:places]
    return changed


LEAKS = {
    "the event": ("event", lambda t, e: e),
    "censoring": ("event", lambda t, e: ~e),
    "a scaled event": ("event", lambda t, e: e * 2.5 - 1),
    "the event but for a patient": ("event", lambda t, e: swap(e.astype(float))),
    "the event with empty cells": ("event", lambda t, e: np.where(np.arange(len(t)) % 5 == 0, np.nan, e)),
    "follow-up": ("follow-up", lambda t, e: t),
    "follow-up in days": ("follow-up", lambda t, e: t * 30.4375),
    "whole years": ("follow-up", lambda t, e: t // 12),
    "minus follow-up": ("follow-up", lambda t, e: -t),
    "log follow-up": ("follow-up", lambda t, e: np.log1p(t)),
    "ranks": ("follow-up", lambda t, e: pd.Series(t).rank().to_numpy()),
}


@pytest.mark.parametrize("name", LEAKS)
def test_a_column_that_is_the_outcome_is_found(name):
    kind, make = LEAKS[name]
    months, event = outcome()
    values = np.random.default_rng(1).normal(size=(NUM, 200)).astype(np.float32)
    values[:, 7] = make(months, event)
    found = {what: np.flatnonzero(rows).tolist() for what, rows in match_outcome(values, months, event).items()}
    assert found == {"event": [], "follow-up": []} | {kind: [7]}


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 80), st.floats(0.02, 0.98), st.integers(1, 300))
def test_columns_of_chance_are_not_found(seed, num, share, columns):
    months, event = outcome(seed, num, share)
    rng = np.random.default_rng(seed + 1)
    values = rng.normal(size=(num, columns)).astype(np.float32)
    values[:, ::2] = values[:, ::2] > 1  # mutations
    assert not any(rows.any() for rows in match_outcome(values, months, event).values())


def test_a_rare_mutation_of_the_only_event_is_chance():
    """One patient of sixty had the event: some of many rare mutations are in this patient alone."""
    event = np.arange(NUM) == 4
    values = np.zeros((NUM, 500), np.float32)
    values[np.arange(500) % NUM, np.arange(500)] = 1
    assert not match_outcome(values, outcome()[0], event)["event"].any()


def test_an_event_of_few_among_many_patients_is_found():
    months, event = outcome(num=1000, share=0.02)
    values = np.random.default_rng(1).normal(size=(1000, 50)).astype(np.float32)
    values[:, 3] = event
    assert np.flatnonzero(match_outcome(values, months, event)["event"]).tolist() == [3]


def test_twenty_thousand_columns_and_empty_ones_are_compared():
    months, event = outcome(num=100)
    values = np.full((100, 20_000), np.nan, np.float32)
    values[:, ::3] = 1.0
    assert not any(rows.any() for rows in match_outcome(values, months, event).values())


def test_the_cohort_names_the_columns_and_files(tmp_path):
    months, event = outcome()
    ids = [f"secret{i}" for i in range(NUM)]
    rng = np.random.default_rng(5)
    pd.DataFrame({"case_id": ids, "survival_months": months, "event": event.astype(int)}).to_csv(
        tmp_path / "clinical.csv", index=False
    )
    genes = {"case_id": ids, "A_rnaseq": rng.normal(size=NUM), "DSS_mut": event.astype(int), "OS_cnv": ~event * 1}
    pd.DataFrame(genes).to_csv(tmp_path / "genes.csv", index=False)
    slides = {"case_id": ids, "hif_1": rng.normal(size=NUM), "hif_2": months * 30}
    pd.DataFrame(slides).to_csv(tmp_path / "slides.csv", index=False)
    config = SiteDataConfig(
        root=tmp_path,
        clinical=ClinicalTable(file="clinical.csv"),
        genomics=GenomicsTable(file="genes.csv"),
        features=FeatureFolder(path="slides.csv", encoder="hif"),
    )
    molecular, slide = load_cohort(config).doubts
    assert molecular.check == slide.check == "outcome"
    for word in ("genes.csv", "the event", "columns 'DSS_mut', 'OS_cnv'", "data.genomics.file"):
        assert word in str(molecular)
    for word in ("slides.csv", "the follow-up", "column 'hif_2'", "data.features.path"):
        assert word in str(slide)
    assert "secret" not in f"{molecular}{slide}"


@pytest.mark.real_data
@pytest.mark.parametrize("cohort", ["blca_mcat", "brca_porpoise", "gbmlgg_porpoise", "luad_mcat", "ucec_porpoise"])
def test_no_real_gene_is_the_outcome(data_root, cohort):
    file = f"cohorts/tcga_{cohort}.csv.gz"
    clinical = ClinicalTable(file=file, slides="slide_ids", tss="tss")
    config = SiteDataConfig(root=data_root, clinical=clinical, genomics=GenomicsTable(file=file))
    assert load_cohort(config).doubts == ()


@pytest.mark.real_data
@pytest.mark.parametrize(("table", "cohort"), [("luad_mcat", "luad"), ("brca_porpoise", "brca")])
def test_no_real_feature_of_slides_is_the_outcome(data_root, table, cohort):
    clinical = ClinicalTable(file=f"cohorts/tcga_{table}.csv.gz")
    features = FeatureFolder(path=f"hif/{cohort}_hif.csv.gz", encoder="hif")
    assert load_cohort(SiteDataConfig(root=data_root, clinical=clinical, features=features)).doubts == ()
