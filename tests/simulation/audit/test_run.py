"""`flower-simulate audit`: the files written, the sentences, the settings refused."""

import io
import json

import pytest
from fixtures.federation import GENES_ONLY, tiny
from rich.console import Console

pytest.importorskip("opacus", reason="differential privacy needs the extra `privacy`")

from memamba_core.config.compose import compose_audit
from memamba_core.errors import ConfigError
from simulation.audit.records import AuditReport
from simulation.audit.report import findings, table
from simulation.audit.run import audit

LEAK = {"auc": 0.9, "auc_std": 0.02, "found": 0.6, "num_patients": 40}
RIGHT = {"name": "attack", "measured": 1.0, "expected": 1.0, "p_value": 0.5}
CANARY = {
    "claimed_epsilon": 12.0,
    "epsilon": 10.5,
    "epsilon_low": 9.25,
    "epsilon_high": 11.75,
    "auc": 0.7,
    "num_canaries": 1000,
    "num_steps": 100,
    "checks": [RIGHT] * 14,
}
NO_LEAK = {"auc": 0.503, "auc_std": 0.02, "found": 0.05, "num_patients": 60}


def report(**parts):
    return AuditReport.model_validate({"cohort": "synthetic", "privacy": {}, "overrides": [], **parts})


@pytest.mark.ci_slow
def test_canary_and_inversion_write_a_report_and_a_figure(tmp_path):
    overrides = tiny(
        *GENES_ONLY,
        "attacks.names=[canary,inversion]",
        "attacks.num_canaries=100",
        "attacks.round_sizes=[1,4]",
        "privacy=dp_sgd",
    )
    steps = []
    made, folder = audit(compose_audit((*overrides, f"output_dir={tmp_path}")), overrides, steps.append)
    written = json.loads((folder / "audit.json").read_text())
    assert written == made.model_dump(mode="json")
    assert steps == ["canaries", "inversion of a round of 1", "inversion of a round of 4"]
    assert written["membership"] is None
    assert written["canary"]["passed"]
    assert [line["num_patients"] for line in written["inversion"]] == [1, 4]
    assert {path.name for path in folder.iterdir()} == {"audit.json", "inversion.png", "run.log"}
    assert len(written["findings"]) == 3
    assert table(made).row_count == 4
    log = (folder / "run.log").read_text()
    assert all(f"INFO simulation.audit.run: {step}" in log for step in steps)


def test_canaries_of_a_run_without_a_claim_are_not_run_and_a_finding_says_so(tmp_path):
    overrides = tiny(*GENES_ONLY, "attacks.names=[canary,inversion]", "attacks.round_sizes=[1]", "privacy=none")
    steps = []
    made, _ = audit(compose_audit((*overrides, f"output_dir={tmp_path / 'out'}")), overrides, steps.append)
    assert steps == ["inversion of a round of 1"]
    assert made.canary is None
    assert "Canaries: not run. privacy=none claims no epsilon" in made.findings[-1]


def test_an_audit_of_no_claim_alone_is_refused():
    with pytest.raises(ConfigError, match=r"privacy=none claims none; set privacy=dp_sgd"):
        compose_audit(["attacks=canary"])
    assert compose_audit(["attacks=canary", "privacy=dp_sgd"]).attacks.names == ("canary",)


@pytest.mark.slow
def test_membership_of_a_private_run_writes_a_report_and_a_figure(tmp_path):
    overrides = tiny(*GENES_ONLY, "attacks=membership", "attacks.num_models=8", "privacy=dp_sgd")
    made, folder = audit(compose_audit((*overrides, f"output_dir={tmp_path / 'out'}")), overrides)
    assert {path.name for path in folder.iterdir()} == {"audit.json", "membership.png", "run.log"}
    assert made.privacy["epsilon"] == 8.0
    for attack in (made.membership.loss, made.membership.lira):
        assert set(attack) == {"all", "event", "censored"}
    assert len(made.findings) == 3


def test_the_table_has_each_number_on_a_line_of_80_columns():
    groups = dict.fromkeys(("all", "event", "censored"), LEAK)
    line = {"num_patients": 1500, "recovered": 1.0, "recovered_by_chance": 0.0, "correlation": 0.99}
    shown = table(
        report(membership={"num_models": 16, "loss": groups, "lira": groups}, canary=CANARY, inversion=[line])
    )
    console = Console(file=io.StringIO(), width=80)
    console.print(shown)
    lines = console.file.getvalue().splitlines()
    assert len(lines) == shown.row_count + 4  # its frame and head
    assert sum("AUC 0.900 ± 0.020, 60% found" in line for line in lines) == 6


def test_an_interrupted_audit_leaves_no_empty_folder(tmp_path):
    def interrupt(step):
        raise KeyboardInterrupt

    overrides = tiny(*GENES_ONLY, "attacks=membership", "attacks.num_models=8", f"output_dir={tmp_path / 'out'}")
    with pytest.raises(KeyboardInterrupt):
        audit(compose_audit(overrides), overrides, interrupt)
    assert not list(tmp_path.iterdir())


def test_a_leak_is_called_one_and_a_coin_a_coin():
    sentences = findings(
        report(
            membership={"num_models": 16, "loss": {"event": NO_LEAK, "censored": NO_LEAK}, "lira": {"event": LEAK}},
            canary={**CANARY, "checks": [RIGHT, {**RIGHT, "name": "noise of a step", "measured": 0.5, "p_value": 0.0}]},
        )
    )
    assert "finds 60% of the patients who were trained on" in sentences[0]
    assert "no better than a coin" in sentences[1]
    assert "epsilon of 10.50 (95 % confidence: 9.25 to 11.75) where 12.00 is claimed" in sentences[2]
    assert sentences[2].endswith("1 of 2 checks of the step passed.")
    assert "CONTRADICT the claim: the value of 'noise of a step' is 0.5, that of right code 1" in sentences[3]


@pytest.mark.parametrize("override", ["compare=true", "folds=[1]", "workers=2", "methods=[pooled]", "resume=somewhere"])
def test_what_an_audit_has_no_use_for_is_refused(override):
    with pytest.raises(ConfigError, match="an audit has no use for"):
        compose_audit([override])


@pytest.mark.parametrize(
    "override", ["attacks.num_models=9", "attacks.round_sizes=[0]", "attacks.names=[guess]", "attacks.names=[]"]
)
def test_settings_out_of_range_are_refused(override):
    with pytest.raises(ConfigError, match="attacks"):
        compose_audit([override])
