"""Command line of a site: fast start, one sentence for a mistake, documented exit codes."""

import json
import logging
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

import pytest
import yaml

from client import cli
from client.egress_listing import egress_listing
from client.exit_codes import ExitCode
from memamba_core.privacy.egress import EgressLog, describe_answer
from memamba_core.wire.message import Payload
from memamba_core.wire.protocol import FactsReply

PROGRAM = Path(sysconfig.get_path("scripts")) / "flower-client"
SITE = {
    "name": "st-elsewhere",
    "data": {"root": "data", "clinical": {"file": "clinical.csv"}, "genomics": {"file": "genes.csv"}},
    "state": "state",
    "coordinator": {"address": "localhost:1"},
    "approve": "automatic",
}


@pytest.fixture
def site(tmp_path):
    """Write a site.yaml with changes at its top level; None removes a key."""

    def write(**changes):
        values = {key: value for key, value in {**SITE, **changes}.items() if value is not None}
        path = tmp_path / "site.yaml"
        path.write_text(yaml.safe_dump(values))
        return str(path)

    return write


@pytest.fixture
def run(capsys, monkeypatch):
    """Call a command without setting up logs; return its exit code, standard output and standard error."""
    monkeypatch.setattr(cli, "open_logs", lambda *_arguments: None)

    def call(*arguments):
        with pytest.raises(SystemExit) as end:
            cli.main(list(arguments))
        out, err = capsys.readouterr()
        return end.value.code, out, err

    return call


def test_help_is_quick_and_tells_the_exit_codes():
    started = time.process_time()
    shown = subprocess.run([PROGRAM, "--help"], capture_output=True, text=True, check=True).stdout
    assert time.process_time() - started < 2
    assert all(code.meaning in " ".join(shown.split()) for code in ExitCode)
    imported = "import sys, client.cli; print(sorted({'torch', 'flwr', 'pandas'} & set(sys.modules)))"
    loaded = subprocess.run([sys.executable, "-c", imported], capture_output=True, text=True, check=True).stdout
    assert loaded.strip() == "[]"


def test_keygen_says_what_to_do_with_what(run, tmp_path):
    code, out, _ = run("keygen", str(tmp_path / "keys"))
    assert code == ExitCode.DONE
    assert "SHA256:" in out
    assert "never leaves" in out
    code, _, err = run("keygen", str(tmp_path / "keys"))
    assert code == ExitCode.MISTAKE
    assert "exists already" in err


@pytest.mark.parametrize("command", ["run", "connect", "train", "doctor", "egress", "ledger"])
def test_a_file_that_is_not_there(run, tmp_path, command):
    code, out, err = run(command, str(tmp_path / "nowhere.yaml"))
    assert code == (ExitCode.PROBLEM if command == "doctor" else ExitCode.MISTAKE)
    assert "no such file" in out + err


@pytest.mark.parametrize(
    ("command", "changes", "options", "word"),
    [
        ("run", {"state": None}, (), "names no state"),
        ("train", {"state": None}, (), "names no state"),
        ("run", {"coordinator": None}, (), "no section coordinator"),
        ("connect", {"coordinator": None}, (), "no section coordinator"),
        ("run", {"coordinator": {"address": "https://x"}}, (), "coordinator.address"),
        ("run", {"limits": {"minutes_per_round": 0}}, (), "limits.minutes_per_round"),
        ("connect", {}, ("--runtime", "9094"), "expected HOST:PORT"),
        ("train", {}, ("--runtime", "x:99999"), "expected HOST:PORT"),
    ],
)
def test_a_mistake_is_one_sentence_and_nothing_is_started(run, site, caplog, command, changes, options, word):
    caplog.set_level(logging.INFO)
    code, _, err = run(command, site(**changes), *options)
    assert code == ExitCode.MISTAKE
    assert word in err + caplog.text
    assert "Traceback" not in err + caplog.text


def test_a_private_log_that_cannot_be_written(site, tmp_path, capsys):
    (tmp_path / "state" / "site.log").mkdir(parents=True)
    with pytest.raises(SystemExit) as end:
        cli.main(["run", site()])
    assert end.value.code == ExitCode.MISTAKE
    assert "the private log cannot be written" in capsys.readouterr().err


def test_without_keys_nothing_is_started(run, site, caplog):
    code, _, _ = run("run", site())
    assert code == ExitCode.MISTAKE
    assert "flower-client keygen" in caplog.text


def test_what_is_wrong_with_the_data_stays_off_the_support_log(run, site, caplog, tmp_path):
    run("keygen", str(tmp_path / "keys"))
    (tmp_path / "data").mkdir()
    code, _, err = run("run", site())
    assert code == ExitCode.MISTAKE
    support = [r.getMessage() for r in caplog.records if r.name == "flower-client"]
    assert support == ["the data could not be read; run `flower-client doctor` to see the reason on this site's screen"]
    assert "clinical.csv" in caplog.text
    assert err == ""


def test_a_file_that_cannot_be_read_is_one_sentence(run, site, caplog, tmp_path):
    """The screen shows the path of the file, the support log does not."""
    run("keygen", str(tmp_path / "keys"))
    (tmp_path / "state" / "egress.jsonl").mkdir(parents=True)
    for command in ("egress", "doctor"):
        code, _, err = run(command, site())
        assert code == ExitCode.MISTAKE
        assert err.startswith("error: ")
        assert "egress.jsonl" in err
    code, _, err = run("run", site())
    support = [r.getMessage() for r in caplog.records if r.name == "flower-client"]
    assert (code, err) == (ExitCode.MISTAKE, "")
    assert support == ["stopped by a system error (Is a directory); state/site.log names the file"]
    assert "egress.jsonl" in caplog.text


def fill(state):
    log = EgressLog(state)
    for number in (1, 2):
        about = {"run_id": "run-1", "phase": "train", "server_round": number, "kind": "TrainReply"}
        log.append(describe_answer(Payload({"train-loss": 0.5}), **about))
    return log


def test_egress_lists_what_left(run, site, tmp_path):
    fill(tmp_path / "state")
    code, out, _ = run("egress", site())
    assert code == ExitCode.DONE
    lines = out.splitlines()
    assert len(lines) == 4
    assert "TrainReply: train-loss" in lines[1]
    assert lines[-1].startswith("2 answers, ")


def test_egress_on_a_terminal_keeps_to_its_width_and_breaks_no_word(tmp_path):
    about = {"run_id": "run-1", "phase": "facts", "server_round": 0, "kind": "FactsReply"}
    log = EgressLog(tmp_path)
    log.append(describe_answer(Payload(dict.fromkeys(FactsReply.model_fields, 1)), **about))
    (record,) = log.read()
    heading, line, *content = egress_listing([record], 80)
    assert max(map(len, (heading, line, *content))) <= 80
    assert " ".join(" ".join(content).split()) == f"FactsReply: {', '.join(record.fields)}"
    assert len(list(egress_listing([record], None))) == 2


def test_egress_of_a_log_that_was_edited(run, site, tmp_path):
    log = fill(tmp_path / "state")
    first, second = log.path.read_text().splitlines(keepends=True)
    record = json.loads(first)
    record["num_bytes"] = 1
    log.path.write_text(json.dumps(record) + "\n" + second)
    code, out, err = run("egress", site())
    assert code == ExitCode.TAMPERED
    assert "line 1 was edited" in err
    assert out == ""


def test_egress_before_anything_ran(run, site):
    code, _, err = run("egress", site())
    assert code == ExitCode.MISTAKE
    assert "No run has taken place yet" in err


def test_ledger_before_anything_was_charged(run, site, tmp_path):
    (tmp_path / "state").mkdir()
    code, out, _ = run("ledger", site())
    assert code == ExitCode.DONE
    assert "no charge so far" in out
    assert list((tmp_path / "state").iterdir()) == []


def test_ledger_by_run_in_all_and_for_two_sites(run, site, tmp_path):
    pytest.importorskip("opacus", reason="differential privacy needs the extra `privacy`")
    from client.private_round import ledger_folder
    from memamba_core.privacy.accounting import NoisyStep
    from memamba_core.privacy.ledger import Ledger

    step = NoisyStep(noise_multiplier=2.0, sampling_rate=0.1)
    ledger = Ledger(ledger_folder(tmp_path / "state"), "st-elsewhere", 1e-5)
    ledger.charge("first", 1, step, 10, 8.0)
    ledger.charge("second", 1, step, 5, 8.0)
    code, out, _ = run("ledger", site(privacy={"bands": {"patients": 100, "pathology": 0, "genomics": 100}}))
    assert code == ExitCode.DONE
    rows = {line.split("  ")[0]: line.split() for line in out.splitlines()}
    assert rows["first"][1:3] == ["1", "10"]
    assert rows["second"][1:3] == ["1", "5"]
    assert float(rows["total"][-1]) == pytest.approx(ledger.epsilon(), abs=5e-4)
    assert float(rows["first"][-1]) == pytest.approx(ledger.epsilon("first"), abs=5e-4)
    (two_sites,) = [line for line in out.splitlines() if "at two such sites" in line]
    assert float(two_sites.split("has spent ")[1].split()[0]) > ledger.epsilon()
    code, _, err = run("ledger", site())
    assert code == ExitCode.MISTAKE
    assert "no section privacy" in err
