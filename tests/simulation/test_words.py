"""Texts of a simulation: numbers under their heading, warnings about the tables, how to repeat it, how to continue."""

import io
import json
import logging
import re
import shlex

import pandas as pd
import pytest
from fixtures.command_line import call
from fixtures.federation import GENES_ONLY, tiny
from rich.console import Console

from memamba_core.config.compose import compose_audit, compose_simulation
from memamba_core.errors import ConfigError
from memamba_core.wire.protocol import Phase
from server.federation.journal import Journal, RoundRecord
from server.federation.outcome import SiteMetrics, Trained
from simulation.audit.run import audit
from simulation.cohort import prepare_cohort
from simulation.progress import ProgressReporter, StepReporter
from simulation.summary import FederatedOutcome, FoldDetails, FoldSummary, MeanStd, MethodScores, SimulationSummary


def said(summary, folder):
    console = Console(file=io.StringIO(), width=200)
    ProgressReporter(console).finish(summary, folder)
    return console.file.getvalue()


def federated(**fields):
    return FederatedOutcome.model_construct(c_index=0.6, privacy=None, **fields)


@pytest.mark.parametrize("num_folds", [1, 3])
def test_best_reachable_stands_in_the_last_column(tmp_path, num_folds):
    score = MeanStd(mean=0.6, std=0.01)
    summary = SimulationSummary.model_construct(
        cohort="synthetic",
        num_gene_columns=60,
        folds=[FoldSummary(fold=k, federated=0.6, pooled=None, local=None) for k in range(num_folds)],
        details=[FoldDetails(fold=k, federated=federated(num_gene_columns=40 + k)) for k in range(num_folds)],
        c_index=MethodScores(federated=score, pooled=None, local=None),
        oracle_c_index=0.86,
        warnings=[],
        seconds=1.0,
        bytes_per_round=None,
    )
    used = "40" if num_folds == 1 else "40 to 42"
    assert f"all sites, synthetic, {used} of 60 gene columns used" in said(summary, tmp_path)
    (line,) = [line for line in said(summary, tmp_path).splitlines() if "best reachable" in line]
    cells = [cell.strip() for cell in line.strip("│").split("│")]
    assert cells[-1] == "0.860"
    assert cells[1:-1] == [""] * (len(cells) - 2)
    assert len(cells) == (2 if num_folds == 1 else num_folds + 2)


def test_without_a_terminal_each_step_is_a_line_with_the_time_and_in_the_log(caplog):
    console = Console(file=io.StringIO(), width=80)
    line = Trained(trained={"head": 3}, train_loss=0.5, incoming=SiteMetrics())
    with caplog.at_level(logging.INFO, "simulation"), ProgressReporter(console) as progress:
        progress.start_method("federated", 2)
        for server_round in (1, 2):
            progress.on_round(
                RoundRecord(
                    server_round=server_round, sites={"county": line}, seconds=1.0, bytes_sent=1, bytes_received=1
                )
            )
        progress.start_method("pooled", 1)
        progress.on_epoch(1, 0.25)
        progress.start_method("local", 1)
        progress.on_site("county")
    wanted = [
        "Federated: round 1 of 2, loss 0.500",
        "Federated: round 2 of 2, loss 0.500",
        "Pooled: epoch 1 of 1, loss 0.250",
        "Each site alone: site 1 of 1, county",
    ]
    lines = console.file.getvalue().splitlines()
    assert [text[9:] for text in lines] == wanted
    assert all(re.fullmatch(r"\d\d:\d\d:\d\d ", text[:9]) for text in lines)
    assert caplog.messages == wanted


def test_a_step_of_an_audit_is_a_line_with_the_time():
    console = Console(file=io.StringIO(), width=80)
    with StepReporter(console, "audit") as steps:
        steps.on_step("canaries")
    assert re.fullmatch(r"\d\d:\d\d:\d\d canaries\n", console.file.getvalue())


@pytest.mark.parametrize(
    ("changes", "warned"),
    [
        ((), True),
        (("training.batch_size=4",), False),
        (("federation.local_epochs=2",), False),
        (("methods=[pooled]",), False),
        (("strategy=fedavg",), False),
        (("privacy=dp_sgd",), True),
        (("privacy=dp_sgd", "privacy.steps_per_round=2"), False),
    ],
)
def test_fedprox_that_changes_nothing_is_warned_of(changes, warned):
    cohort = prepare_cohort(compose_simulation(tiny(*GENES_ONLY, "strategy=fedprox", *changes)))
    found = [warning for warning in cohort.warnings if warning.startswith("strategy=fedprox changes nothing here")]
    assert len(found) == warned
    remedy = "privacy.steps_per_round" if "privacy=dp_sgd" in changes else "federation.local_epochs or lower"
    assert all(f"raise {remedy}" in warning for warning in found)


def test_the_first_lines_say_how_many_gene_columns_are_in_a_group(tmp_path):
    config = compose_simulation(tiny(*GENES_ONLY))
    cohort = prepare_cohort(config)
    console = Console(file=io.StringIO(), width=200)
    ProgressReporter(console).start(config, cohort, tmp_path)
    columns = len(cohort.cohort.genes.columns)
    in_a_group = {
        column
        for column in cohort.cohort.genes.columns
        for s in cohort.signatures.values()
        if column.partition("_")[0] in s
    }
    assert f"{len(in_a_group)} of {columns} gene columns are in a gene group" in console.file.getvalue()


@pytest.mark.parametrize("loss", [0.5, None])
def test_a_bar_that_stays_does_not_say_that_something_goes_on(loss):
    console = Console(file=io.StringIO(), width=80, force_terminal=True)
    line = Trained(trained={"head": 3}, train_loss=loss, incoming=SiteMetrics())
    with ProgressReporter(console) as progress:
        progress.start_method("federated", 1)
        progress.on_round(
            RoundRecord(server_round=1, sites={"county": line}, seconds=1.0, bytes_sent=1, bytes_received=1)
        )
        progress.on_phase(Phase.EVALUATE, 1, 0)
    *_, last = [text for text in console.file.getvalue().split("Federated") if "1/1" in text]
    assert "closing evaluation" not in last
    assert ("loss 0.500" in last) is (loss is not None)


@pytest.fixture
def tables(tmp_path):
    """Overrides that read a cohort of sixty patients, two of whom have nothing to learn from."""
    names, months = [f"P{i:02d}" for i in range(60)], [10 + i * 7 % 60 for i in range(60)]
    clinical = pd.DataFrame({"case_id": names, "survival_months": months, "event": [0, 1] * 30})
    clinical.to_csv(tmp_path / "clinical.csv", index=False)
    genes = pd.DataFrame({"case_id": names[:58], "A_rnaseq": [i * 11 % 58 for i in range(58)]})
    genes.to_csv(tmp_path / "genes.csv", index=False)
    return (
        "data.synthetic=null",
        "data.name=mine",
        f"data.root={tmp_path}",
        "data.clinical={file:clinical.csv}",
        "data.genomics={file:genes.csv}",
        "partition=iid",
        "partition.num_sites=2",
    )


def test_patients_who_are_left_out_are_counted(tables):
    (warning,) = prepare_cohort(compose_simulation(tables)).warnings
    assert warning.startswith("2 patients of clinical.csv left out: neither molecular data nor")


@pytest.mark.parametrize(
    ("days_per_cell", "unit", "words"),
    [
        (
            30.4375,
            "months",
            ["up 1202 months", "read from column 'survival_months' in months", "if it holds days"],
        ),
        (1 / 30.4375, "days", ["'survival_months' of clinical.csv is read in days", "if it holds months"]),
    ],
)
def test_a_unit_of_time_that_is_hardly_right_is_doubted(tables, tmp_path, days_per_cell, unit, words):
    table = pd.read_csv(tmp_path / "clinical.csv")
    cells = table["survival_months"] * (days_per_cell if unit == "months" else 1.0)
    table.assign(survival_months=cells).to_csv(tmp_path / "clinical.csv", index=False)
    warning, _ = prepare_cohort(compose_simulation((*tables, f"data.clinical.time_unit={unit}"))).warnings
    for word in words:
        assert word in warning


@pytest.mark.ci_slow
def test_a_run_with_own_configs_says_how_to_repeat_it_and_where_to_look_twice(tables, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own" / "data").mkdir(parents=True)
    (tmp_path / "own" / "data" / "mine.yaml").write_text(
        f"name: mine\nroot: {tmp_path}\nclinical: {{file: clinical.csv}}\ngenomics: {{file: genes.csv}}\n"
    )
    settings = [o for o in tiny(*GENES_ONLY, "agreement.gene_groups=kind") if not o.startswith("data.")]
    # an option between overrides, as people type it
    assert call(monkeypatch, "data=mine", "--config-dir", "own", *settings, "output_dir=out") == 0
    assert capsys.readouterr().out.count("warning: 2 patients of clinical.csv left out") == 1
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["command"].startswith(f"flower-simulate --config-dir={tmp_path / 'own'} data=mine ")
    assert summary["warnings"][0].startswith("2 patients of clinical.csv left out")
    repeated = shlex.split(summary["command"].replace("output_dir=out", "output_dir=again"))[1:]
    assert call(monkeypatch, *repeated) == 0
    again = json.loads((tmp_path / "again" / "summary.json").read_text())
    assert again["folds"] == summary["folds"]
    assert call(monkeypatch, "--config-dir=own", "resume=out") == 0


@pytest.mark.ci_slow
def test_a_full_disk_is_a_sentence_and_how_to_go_on(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write, written = Journal.write, []

    def no_space_in_round_2(self, entry):
        written.append(entry)
        if len(written) == 2:
            raise OSError(28, "No space left on device")
        write(self, entry)

    with monkeypatch.context() as full:
        full.setattr(Journal, "write", no_space_in_round_2)
        assert call(monkeypatch, *tiny(*GENES_ONLY), "output_dir=out") == 2
    shown = capsys.readouterr().err
    assert "continue with: flower-simulate resume=out" in shown
    assert shown.splitlines()[-1] == "error: [Errno 28] No space left on device"
    assert call(monkeypatch, "resume=out") == 0


@pytest.mark.ci_slow
def test_a_resumed_run_keeps_the_settings_it_began_with(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert call(monkeypatch, *tiny(*GENES_ONLY), "output_dir=out") == 0
    path = tmp_path / "out" / "settings.json"
    before = json.loads(path.read_text())
    before["settings"]["experiment"]["federation"]["optimizer"]["learning_rate"] = 0.2  # changed by hand
    path.write_text(json.dumps(before))
    (tmp_path / "out" / "fold-0" / "outcome.json").unlink()
    assert call(monkeypatch, "resume=out") == 2
    assert "is the journal of other settings" in capsys.readouterr().err


def test_a_round_that_the_cohort_cannot_fill_is_refused_before_any_attack(tmp_path, monkeypatch):
    monkeypatch.setattr("simulation.audit.run.observe", lambda *_: pytest.fail("an attack was begun"))
    overrides = tiny(*GENES_ONLY, "attacks.names=[membership,inversion]", "attacks.round_sizes=[300]")
    with pytest.raises(ConfigError, match=r"a round of 300 and 100 patients outside .* 48 patients have genes"):
        audit(compose_audit((*overrides, f"output_dir={tmp_path / 'out'}")), overrides)
    assert not (tmp_path / "out").exists()
