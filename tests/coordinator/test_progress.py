"""Display of a run: log lines, and the file that `flower-server status` reads."""

import io
import json
import logging

import pytest
from fixtures.federation import Federation, tiny
from rich.console import Console

from memamba_core.wire.protocol import Phase
from server.federation.journal import RoundRecord
from server.federation.outcome import Failed, SiteMetrics, Trained
from server.logs import open_log
from server.progress import RunProgress, read_status

NODES = {"county": 11, "mercy": 12, "st-elsewhere": 13}


@pytest.fixture
def rounds():
    return []


@pytest.fixture
def progress(tmp_path, rounds):
    run = Federation(tiny("federation.num_rounds=20")).run()
    with RunProgress(tmp_path, run, Console(file=io.StringIO()), rounds.append) as progress:
        progress.know(NODES)
        yield progress


def test_the_sentence_of_a_round(progress, tmp_path):
    progress.on_phase(Phase.TRAIN, 3, 7)
    progress.on_asked([13, 11, 12])
    progress.on_answer(11)
    progress.on_answer(12)
    run, sentence = read_status(tmp_path)
    assert run == "test"
    assert sentence.startswith("Round 7 of 20: 2 of 3 sites returned, waiting for st-elsewhere, ")


def test_the_wait_for_sites(progress, tmp_path, caplog):
    caplog.set_level(logging.INFO, "server.progress")
    progress.on_connected(NODES, [])
    progress.on_connected(NODES, ["mercy"])
    progress.on_connected(NODES, ["mercy"])
    assert len(caplog.messages) == 2
    assert caplog.messages[1].startswith("Waiting for sites: 1 of 3 sites connected, waiting for county, st-elsewhere")


def test_a_finished_round_is_told_with_who_was_missing(progress, rounds, caplog):
    caplog.set_level(logging.INFO, "server.progress")
    sites = {
        "county": Trained(trained={"head": 30}, train_loss=1.0, incoming=SiteMetrics()),
        "mercy": Trained(trained={"head": 5}, train_loss=None, incoming=SiteMetrics()),
        "st-elsewhere": Failed(failure="no answer within 60 s", code=0),
    }
    progress.on_round(
        RoundRecord(server_round=3, sites=sites, seconds=61.5, bytes_sent=40_000_000, bytes_received=2_000_000)
    )
    assert caplog.messages == [
        "round 3 of 20 done: 2 of 3 sites, training loss 1.000, 61.5 s, 42.0 MB, without st-elsewhere"
    ]
    assert [record.server_round for record in rounds] == [3]


def test_the_file_goes_with_the_run(tmp_path, rounds):
    run = Federation(tiny()).run()
    with RunProgress(tmp_path, run, Console(file=io.StringIO()), rounds.append):
        assert read_status(tmp_path) is not None
    assert read_status(tmp_path) is None


def test_a_damaged_file_is_no_status(tmp_path):
    (tmp_path / "status.json").write_text("{")
    assert read_status(tmp_path) is None


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_the_log(log_format):
    root, ours = logging.getLogger(), logging.getLogger("server")
    before = (root.handlers, root.level, ours.level, logging.raiseExceptions)
    console = Console(file=(written := io.StringIO()))
    try:
        open_log(log_format, console)
        logging.getLogger("server.x").info("round %d [of] 3", 1)
        logging.getLogger("other").info("not of this package")
    finally:
        root.handlers, root.level, ours.level, logging.raiseExceptions = before
    (line,) = written.getvalue().splitlines()
    if log_format == "json":
        entry = json.loads(line)
        assert (entry["level"], entry["message"]) == ("info", "round 1 [of] 3")
    else:
        assert line.endswith("INFO    round 1 [of] 3")
