"""`--multirun`: one table over seeds and settings, folders named by what differs, a failure stops nothing else."""

import io
import json

import pytest
from fixtures.command_line import call
from fixtures.federation import GENES_ONLY, tiny
from rich.console import Console

from memamba_core.config.compose import compose_simulation, expand_sweep
from memamba_core.errors import ConfigError
from simulation.multirun import Multirun, folder_names, group_by_seed, table
from simulation.summary import MultirunLine, MultirunSummary


def line(c_index, **settings):
    scores = {"federated": c_index, "pooled": None, "local": None}
    return MultirunLine(folder="x", settings=settings, c_index=scores, seconds=2.0)


def test_every_combination_is_a_run_and_the_last_sweep_varies_fastest():
    runs = expand_sweep(["seed=range(1,3)", "strategy=fedavg,fedprox", "model=genomics", "folds=[0,1]"])
    assert [swept for swept, _ in runs] == [
        {"seed": seed, "strategy": strategy} for seed in ("1", "2") for strategy in ("fedavg", "fedprox")
    ]
    assert runs[1][1] == ["seed=1", "strategy=fedprox", "model=genomics", "folds=[0,1]"]
    configs = [compose_simulation(words) for _, words in runs]
    assert [(c.experiment.seed, c.experiment.strategy.name) for c in configs][1] == (1, "fedprox")


def test_lists_quoted_texts_and_globs_are_swept_as_hydra_reads_them():
    swept = [swept for swept, _ in expand_sweep(["model.scans=[conventional],[attention]", "strategy=glob(fedav*)"])]
    assert swept[0] == {"model.scans": "[conventional]", "strategy": "fedavg"}
    assert swept[-1] == {"model.scans": "[attention]", "strategy": "fedavgm"}
    assert [s for s, _ in expand_sweep(["data.name='a,b',c"])] == [{"data.name": "a,b"}, {"data.name": "c"}]
    with pytest.raises(ConfigError, match="no setting has several values"):
        expand_sweep(["data.name='a,b'"])


def test_folders_are_named_by_what_differs_and_no_name_comes_twice():
    assert folder_names([{"seed": "1", "strategy": "fedprox"}]) == ["seed=1,strategy=fedprox"]
    assert folder_names([{"data.root": "/a/b c"}, {"data.root": "/a/b c"}]) == [
        "data.root=-a-b-c",
        "data.root=-a-b-c-2",
    ]
    assert len(folder_names([{"x": "y" * 400}])[0]) <= 120


def test_runs_that_differ_in_the_seed_only_have_a_mean_and_a_deviation():
    lines = [line(0.6, seed="1", strategy="a"), line(0.5, seed="1", strategy="b"), line(0.7, seed="2", strategy="a")]
    (group,) = group_by_seed(lines)
    assert (group.settings, group.seeds) == ({"strategy": "a"}, ["1", "2"])
    assert group.c_index.federated.mean == pytest.approx(0.65)
    assert group.c_index.federated.std == pytest.approx(0.0707, abs=1e-4)
    assert group.c_index.pooled is None
    assert group_by_seed([line(0.6, strategy="a"), line(0.6, strategy="a")]) == []
    console = Console(file=io.StringIO(), width=100)
    console.print(table(MultirunSummary(runs=lines, over_seeds=[group])))
    shown = console.file.getvalue()
    assert "0.650 ± 0.071" in shown
    assert "2 seeds" in shown
    assert "pooled" not in shown


def test_a_multirun_of_which_nothing_finished_leaves_no_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    multirun = Multirun.begin([{"seed": "1"}])
    multirun.show(Console(file=io.StringIO()))
    assert not list((tmp_path / "outputs").iterdir())


@pytest.mark.ci_slow
def test_a_multirun_writes_one_table_and_goes_past_a_run_that_fails(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("simulation.run.draw_figures", lambda *_: None)
    words = tiny(*GENES_ONLY, "data.synthetic.censoring=0.2", "seed=1,2", "partition.num_sites=4,49")
    assert call(monkeypatch, "--multirun", *words) == 2
    shown = capsys.readouterr()
    assert shown.err.count("error: ") == 2
    assert "partition.num_sites=49, but the cohort has 48 patients" in shown.err
    (folder,) = (tmp_path / "outputs").iterdir()
    assert folder.name.startswith("multirun-")
    names = {f"partition.num_sites=4,seed={seed}" for seed in (1, 2)}
    assert {path.name for path in folder.iterdir()} == {*names, "multirun.json"}
    written = MultirunSummary.model_validate_json((folder / "multirun.json").read_text())
    assert {run.folder for run in written.runs} == names
    (group,) = written.over_seeds
    assert f"{group.c_index.federated.mean:.3f} ± {group.c_index.federated.std:.3f}" in shown.out
    first = folder / written.runs[0].folder
    summary = json.loads((first / "summary.json").read_text())
    assert summary["c_index"]["federated"]["mean"] == written.runs[0].c_index["federated"]
    assert "output_dir" not in summary["command"]
    relative = first.relative_to(tmp_path)
    assert call(monkeypatch, f"resume={relative}") == 0  # a folder whose name holds = and , can be resumed
