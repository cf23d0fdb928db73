"""A simulation's folder: what is in it, and that it is the same twice."""

import json
import logging

import numpy as np
import pandas as pd
import pytest
import torch
from fixtures.federation import tiny
from fixtures.simulation import FAST, run

from client.session import RefusedError
from memamba_core.config.compose import compose_simulation
from memamba_core.errors import ConfigError, DataError, FederationError
from memamba_core.training.checkpoint import load_arrays, load_checkpoint
from memamba_core.wire.protocol import Refusal
from server.logs import also_log_to
from simulation import run as run_module
from simulation.cohort import prepare_cohort
from simulation.progress import ProgressReporter
from simulation.run import simulate
from simulation.summary import SimulationSummary


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """Two folds with all three methods."""
    return run(tmp_path_factory.mktemp("compared") / "out", *FAST, "compare=true", "folds=[0,1]")


@pytest.fixture(autouse=True)
def _few_figures(monkeypatch):
    """Drawing takes longer than training here; `compared`, made before this, has its figures."""
    monkeypatch.setattr(run_module, "draw_figures", lambda *_: None)


def test_the_summary_has_the_keys_of_the_contract(compared):
    summary = json.loads((compared.folder / "summary.json").read_text())
    types = {
        "cohort": str,
        "partition": str,
        "num_sites": int,
        "num_patients": int,
        "num_events": int,
        "folds": list,
        "c_index": dict,
        "oracle_c_index": float,
        "seconds": float,
        "bytes_per_round": int,
        "settings": dict,
        "digests": dict,
        "scan_backend": str,
    }
    assert {key: type(summary[key]) for key in types} == types
    assert summary["num_sites"] == 4
    assert summary["num_patients"] == 48
    assert f"scan: {summary['scan_backend']}\n" in (compared.folder / "run.log").read_text()
    for line in summary["folds"]:
        assert set(line) == {"fold", "federated", "pooled", "local"}
        assert all(0 <= line[method] <= 1 for method in ("federated", "pooled", "local"))
    assert [line["fold"] for line in summary["folds"]] == [0, 1]
    for method, stats in summary["c_index"].items():
        values = [line[method] for line in summary["folds"]]
        assert stats["mean"] == pytest.approx(np.mean(values))
        assert stats["std"] == pytest.approx(np.std(values, ddof=1))
    assert set(summary["digests"]["agreement"]) == {"0", "1"}
    assert summary == compared.summary.model_dump(mode="json")
    assert SimulationSummary.model_validate(summary) == compared.summary


def test_metrics_have_a_line_for_each_round_and_site(compared):
    lines = [json.loads(line) for line in (compared.folder / "metrics.jsonl").read_text().splitlines()]
    assert len(lines) == 2 * 2 * 4
    assert {(line["fold"], line["round"], line["site"]) for line in lines} == {
        (fold, server_round, f"site-0{i}") for fold in (0, 1) for server_round in (1, 2) for i in (1, 2, 3, 4)
    }
    assert all(line["train_loss"] > 0 and line["trained"]["head"] > 0 for line in lines)


def test_every_test_patient_is_predicted_once_per_method(compared):
    table = pd.read_csv(compared.folder / "predictions.csv")
    assert list(table) == ["method", "fold", "case_id", "site", "risk", "time_months", "event"]
    assert not table.duplicated(["method", "case_id"]).any()
    cohort = prepare_cohort(compose_simulation(tiny(*FAST)))
    records = {r.case_id: r for r in cohort.cohort.records if r.fold in (0, 1)}
    for method in ("federated", "pooled"):
        rows = table[table["method"] == method].set_index("case_id")
        assert set(rows.index) == set(records)
        for case_id, row in rows.iterrows():
            assert row["fold"] == records[case_id].fold
            assert bool(row["event"]) == records[case_id].event
            assert cohort.site_of()[case_id] == row["site"]


def test_figures_and_models_are_there(compared):
    figures = {path.name for path in (compared.folder / "figures").iterdir()}
    assert figures == {"comparison.png", "kaplan_meier.png", "learning_curves.png", "sites.png"}
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in (compared.folder / "figures").iterdir())
    top = load_checkpoint(compared.folder)
    for name, array in load_checkpoint(compared.folder / "fold-0").weights.items():
        np.testing.assert_array_equal(top.weights[name], array)
    assert load_checkpoint(compared.folder / "fold-1", "pooled").server_round == 2


def test_a_saved_model_gives_the_predictions_in_the_table(compared):
    from simulation.methods import predict_weights

    checkpoint = load_checkpoint(compared.folder / "fold-1")
    cohort = prepare_cohort(compose_simulation(tiny(*FAST)))
    again = predict_weights(
        checkpoint.weights, cohort.test_cohort(1), checkpoint.experiment, checkpoint.agreement, "cpu"
    )
    table = pd.read_csv(compared.folder / "predictions.csv").query("method == 'federated' and fold == 1")
    np.testing.assert_allclose(again.risk, table.set_index("case_id").loc[list(again.case_ids), "risk"], rtol=1e-5)


def test_what_was_not_run_is_null(tmp_path):
    result = run(tmp_path / "out", *FAST, "methods=[pooled]")
    summary = result.summary
    (line,) = summary.folds
    assert (line.federated, line.local) == (None, None)
    assert line.pooled is not None
    assert summary.c_index.federated is summary.c_index.local is summary.bytes_per_round is None
    assert summary.c_index.pooled.std is None
    assert (result.folder / "metrics.jsonl").read_text() == ""


@pytest.mark.ci_slow
def test_the_same_seed_gives_the_same_numbers_and_another_does_not(tmp_path):
    one, two, other = (
        run(tmp_path / name, *FAST, f"seed={seed}", "fold_source=cohort")
        for name, seed in (("a", 3), ("b", 3), ("c", 4))
    )
    first, second, third = (load_arrays(r.folder / "model.safetensors") for r in (one, two, other))
    assert first.keys() == second.keys()
    for name, array in first.items():
        np.testing.assert_array_equal(array, second[name])
    assert any(not np.array_equal(array, third[name]) for name, array in first.items())
    timeless = [
        [without_times(r.summary.model_dump(mode="json")[part]) for part in ("folds", "details", "digests")]
        for r in (one, two)
    ]
    assert timeless[0] == timeless[1]
    assert (one.folder / "predictions.csv").read_bytes() == (two.folder / "predictions.csv").read_bytes()


def without_times(value):
    if isinstance(value, dict):
        return {key: without_times(v) for key, v in value.items() if key != "seconds"}
    return [without_times(v) for v in value] if isinstance(value, list) else value


def test_a_folder_in_use_is_refused_before_anything_is_computed(tmp_path, monkeypatch):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "diary.txt").write_text("mine")
    monkeypatch.setattr(run_module, "_run_fold", lambda *_: pytest.fail("a fold was begun"))
    with pytest.raises(ConfigError, match=r"out is not empty; name a new folder, or .* resume="):
        run(tmp_path / "out", *FAST)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["diary.txt"]


def test_a_cohort_that_does_not_fit_leaves_no_folder(tmp_path):
    with pytest.raises(ConfigError, match=r"folds=\[7\]"):
        run(tmp_path / "out", *FAST, "folds=[7]")
    assert not (tmp_path / "out").exists()


def test_a_run_that_fails_leaves_its_folder_only_if_it_can_be_resumed(tmp_path, monkeypatch):
    def fail(*_):
        raise error

    monkeypatch.setattr(run_module, "_run_fold", fail)
    error = DataError("a table is damaged")
    with pytest.raises(DataError, match="damaged"):
        run(tmp_path / "out", *FAST)
    assert not (tmp_path / "out").exists()
    error = FederationError("too few answers")
    with pytest.raises(FederationError, match=r"too few answers.*run\.log"):
        run(tmp_path / "out", *FAST)
    assert (tmp_path / "out" / "run.log").is_file()


def test_krum_is_refused_where_sites_are_too_few_before_anything_is_written(tmp_path):
    krum = ("strategy=krum", "partition=iid", "partition.num_sites=7", "output_dir=out")
    with pytest.raises(ConfigError, match="needs 9 sites, but there are 7 sites; lower it to 2, or use"):
        run(tmp_path / "out", *FAST, *krum[:3], "strategy.num_malicious_sites=3")
    assert not (tmp_path / "out").exists()


def test_sites_that_do_not_answer_are_called_by_their_names(tmp_path, monkeypatch):
    def refuse(worker, request):
        raise RefusedError(Refusal.POLICY, "for a test")

    monkeypatch.setattr("client.worker.SiteWorker.facts", refuse)
    with pytest.raises(FederationError, match=r"no site gave a usable answer\. site-01: .*; site-02: "):
        run(tmp_path / "out", *FAST, "partition=iid", "partition.num_sites=2")


def test_more_answers_than_sites_are_refused_before_anything_is_written(tmp_path):
    with pytest.raises(ConfigError, match=r"min_results=5, but there are 4 sites"):
        run(tmp_path / "out", *FAST, "federation.min_results=5")
    assert not (tmp_path / "out").exists()


class Interrupt:
    """Progress that is Ctrl-C at a moment of the run."""

    def __init__(self, monkeypatch, method, call):
        self.calls = 0
        shown = getattr(ProgressReporter, method)

        def hear(reporter, *arguments):
            self.calls += 1
            if self.calls == call:
                raise KeyboardInterrupt
            return shown(reporter, *arguments)

        monkeypatch.setattr(ProgressReporter, method, hear)


@pytest.mark.ci_slow
@pytest.mark.parametrize(
    ("method", "call"),
    [
        ("on_round", 1),
        pytest.param("on_round", 4, marks=pytest.mark.ci_slow),
        ("on_epoch", 3),
        pytest.param("on_site", 2, marks=pytest.mark.ci_slow),
    ],
    ids=["first round", "last round of the last fold", "pooled in the last fold", "alone"],
)
def test_an_interrupted_simulation_goes_on_to_the_same_summary(compared, tmp_path, monkeypatch, method, call):
    changes = (*FAST, "compare=true", "folds=[0,1]")
    with monkeypatch.context() as patch:
        Interrupt(patch, method, call)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "out", *changes)
    overrides = tiny(*changes)
    resumed = simulate(compose_simulation((*overrides, f"resume={tmp_path / 'out'}")), overrides)
    for key in ("folds", "c_index", "details", "oracle_c_index", "bytes_per_round", "digests", "warnings"):
        assert without_times(resumed.summary.model_dump(mode="json")[key]) == without_times(
            compared.summary.model_dump(mode="json")[key]
        ), key
    name = "predictions.csv"
    assert (resumed.folder / name).read_bytes() == (compared.folder / name).read_bytes()


def test_the_log_is_written_and_the_loggers_are_as_before(tmp_path):
    logger = logging.getLogger("server")
    before = logger.level, logger.handlers[:]
    with also_log_to(tmp_path / "run.log"):
        logger.info("a round")
    assert "INFO server: a round" in (tmp_path / "run.log").read_text()
    assert (logger.level, logger.handlers) == before


def test_a_resume_with_other_settings_is_refused_by_name(compared):
    overrides = tiny(*FAST, "compare=true", "folds=[0,1]", "seed=9")
    with pytest.raises(ConfigError, match="other settings for experiment"):
        simulate(compose_simulation((*overrides, f"resume={compared.folder}")), overrides)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")
@pytest.mark.parametrize("wish", ["device=cuda", "model.scan_backend=cuda"])
def test_a_gpu_that_is_not_here_is_refused_before_anything_is_written(tmp_path, wish):
    with pytest.raises(ConfigError, match=r"Choose auto|Set scan_backend=auto"):
        run(tmp_path / "out", *FAST, wish)
    assert not (tmp_path / "out").exists()
