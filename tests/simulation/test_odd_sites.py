"""A simulation with odd sites: without an event, of one patient, strict, or a test fold without an event."""

import dataclasses
import io
import json
import re

import pandas as pd
import pytest
from fixtures.simulation import FAST, run
from rich.console import Console

from simulation import run as run_module
from simulation.cohort import prepare_cohort
from simulation.figures.draw import draw_figures
from simulation.progress import ProgressReporter


@pytest.fixture(autouse=True)
def _few_figures(monkeypatch):
    """Drawing takes longer than training here."""
    monkeypatch.setattr(run_module, "draw_figures", lambda *_: None)


def with_records(monkeypatch, change):
    """Simulations of a cohort whose records were changed after the cut into sites."""

    def changed(config):
        cohort = prepare_cohort(config)
        sites = {name: change(name, site) for name, site in cohort.sites.items()}
        records = tuple(r for site in sites.values() for r in site.cohort.records)
        return dataclasses.replace(cohort, sites=sites, cohort=dataclasses.replace(cohort.cohort, records=records))

    monkeypatch.setattr(run_module, "prepare_cohort", changed)


def replaced(site, records):
    return dataclasses.replace(site, cohort=dataclasses.replace(site.cohort, records=tuple(records)))


def test_sites_without_an_event_or_with_one_patient_take_part(tmp_path, monkeypatch):
    """One has no event, one a single patient to train on, one a single patient to test on."""

    def odd(name, site):
        records = site.cohort.records
        match name:
            case "site-02":
                return replaced(site, (dataclasses.replace(r, event=False) for r in records))
            case "site-03":
                return replaced(site, [r for r in records if r.fold != 0][:1])
            case "site-04":
                return replaced(site, [r for r in records if r.fold == 0][:1])
        return site

    with_records(monkeypatch, odd)
    result = run(tmp_path / "out", *FAST, "compare=true")
    summary = result.summary
    assert [summary.sites[site].num_patients for site in ("site-03", "site-04")] == [1, 1]
    assert summary.details[0].federated.loss is not None
    alone = summary.details[0].local.sites
    assert alone["site-02"].not_trained == "no event among its training patients"
    assert alone["site-04"].not_trained == "no training patient"
    lines = [json.loads(line) for line in (result.folder / "metrics.jsonl").read_text().splitlines()]
    assert {line["site"] for line in lines if "trained" in line} == {"site-01", "site-02", "site-03"}


def test_sites_that_refuse_are_told_in_the_warnings(tmp_path):
    summary = run(
        tmp_path / "out",
        *FAST,
        "partition=dirichlet",
        "partition.alpha=1",
        "disclosure.min_round_patients=10",
        "federation.min_results=1",
    ).summary
    small = [name for name, site in summary.sites.items() if site.num_patients < 10]
    assert small
    (sentence,) = [w for w in summary.warnings if "policy" in w]
    assert "missed 2 of 2 rounds" in sentence
    assert all(name in sentence for name in small)


@pytest.mark.ci_slow
def test_a_test_fold_without_an_event_has_no_index_and_its_figures_all_the_same(tmp_path, monkeypatch):
    with_records(
        monkeypatch,
        lambda _, site: replaced(
            site, (dataclasses.replace(r, event=r.event and r.fold != 0) for r in site.cohort.records)
        ),
    )
    summary = run(tmp_path / "out", *FAST, "methods=[federated,pooled]").summary
    assert summary.c_index.model_dump(mode="json") == {"federated": None, "pooled": None, "local": None}
    draw_figures(tmp_path, summary, pd.read_csv(tmp_path / "out" / "predictions.csv"), [])
    assert {path.name for path in (tmp_path / "figures").iterdir()} == {
        "comparison.png",
        "kaplan_meier.png",
        "sites.png",
    }
    console = Console(file=io.StringIO(), width=200)
    ProgressReporter(console).finish(summary, tmp_path)
    assert re.search(r"Federated *│ *-", console.file.getvalue())
