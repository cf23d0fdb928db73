"""Folds that cannot say what a run reports: no event to learn from, too few pairs to compare."""

import json

import numpy as np
import pandas as pd
import pytest
from fixtures.command_line import call

from memamba_core.config.compose import compose_simulation
from memamba_core.errors import DataError
from simulation.cohort import prepare_cohort
from simulation.fold_checks import can_be_ranked

FAST = ("model=genomics", "agreement.gene_groups=kind", "federation.num_rounds=1", "threads=1")


@pytest.fixture
def settings_of(tmp_path):
    """Write a cohort in which some patients had the event, and return settings that read it."""

    def write(events_of_fold, num_patients=60):
        rng = np.random.default_rng(0)
        names = [f"P{i:02d}" for i in range(num_patients)]
        fold = np.arange(num_patients) % 5
        place = np.arange(num_patients) // 5
        event = [place[i] < events_of_fold.get(fold[i], 0) for i in range(num_patients)]
        months = rng.permutation(np.linspace(5, 80, num_patients))
        months[np.array(event)] = rng.uniform(3, 4, sum(event))  # comparable with all others
        table = {"case_id": names, "survival_months": months.round(3), "event": np.array(event).astype(int)}
        pd.DataFrame(table).to_csv(tmp_path / "clinical.csv", index=False)
        genes = {"case_id": names, "A_rnaseq": rng.normal(size=num_patients), "B_mut": rng.integers(0, 2, num_patients)}
        pd.DataFrame(genes).to_csv(tmp_path / "genes.csv", index=False)
        (tmp_path / "splits").mkdir()
        for k in range(5):
            lists = {"train": [n for n, f in zip(names, fold, strict=True) if f != k]}
            lists["val"] = [n for n, f in zip(names, fold, strict=True) if f == k]
            pd.DataFrame({name: pd.Series(ids) for name, ids in lists.items()}).to_csv(
                tmp_path / "splits" / f"splits_{k}.csv"
            )
        return (
            "data.synthetic=null",
            "data.name=mine",
            f"data.root={tmp_path}",
            "data.clinical={file:clinical.csv}",
            "data.genomics={file:genes.csv}",
            "data.splits=splits",
            "fold_source=cohort",
            "partition=iid",
            "partition.num_sites=2",
            *FAST,
        )

    return write


def test_a_fold_without_an_event_to_learn_from_is_refused(settings_of):
    overrides = settings_of({0: 1})
    with pytest.raises(DataError) as raised:
        prepare_cohort(compose_simulation(overrides))
    for words in ("none of the 48 training patients of fold 0", "1 of its 12 test patients", "this test fold alone"):
        assert words in str(raised.value)


def test_another_fold_of_the_same_cohort_is_warned_of(settings_of):
    (warning,) = prepare_cohort(compose_simulation((*settings_of({0: 1}), "folds=[1]"))).warnings
    assert warning.startswith("fold 1: no C-index and no AUC: 12 test patients with 0 events form 0 comparable pairs")


@pytest.mark.parametrize(("events", "given"), [({0: 2, 1: 2}, False), ({0: 3, 1: 2}, True)])
def test_a_c_index_needs_three_events(settings_of, tmp_path, monkeypatch, capsys, events, given):
    out = tmp_path / "out"
    overrides = (*settings_of(events), "methods=[federated,pooled]", f"output_dir={out}")
    assert call(monkeypatch, *overrides) == 0
    summary = json.loads((out / "summary.json").read_text())
    shown = capsys.readouterr().out
    assert ("no C-index" in shown) is not given
    for method in ("federated", "pooled"):
        assert (summary["folds"][0][method] is not None) is given
        outcome = summary["details"][0][method]
        numbers = [outcome["c_index"], outcome["auc_mean"], *outcome["auc_at_months"].values()]
        numbers += [outcome.get("c_index_histogram"), outcome.get("c_index_within_site")]
        assert any(number is not None for number in numbers) is given
        assert outcome["loss"] is not None


@pytest.mark.parametrize(
    ("times", "event", "enough"),
    [
        ([1, 2, 3, *range(10, 20)], [1, 1, 1, *[0] * 10], True),
        ([1, 2, *range(10, 40)], [1, 1, *[0] * 30], False),  # two events
        ([1, 2, 3, 10, 11, 12], [1, 1, 1, 0, 0, 0], False),  # twelve pairs
        ([], [], False),
    ],
)
def test_few_pairs_or_events_give_no_c_index(times, event, enough):
    assert can_be_ranked(times, event) is enough
