"""Logs: the support log holds fixed sentences; text that names a patient reaches the private log only."""

import json
import logging
import stat
import sys
import threading
import warnings

import pytest

from client.logs import code_location, open_logs, support_log

PATIENT = "TCGA-2F-A9KO"


@pytest.fixture
def logs(tmp_path, monkeypatch, capsys):
    """Set up both logs for one test, and restore the previous configuration afterwards."""
    root, names = logging.getLogger(), ("flwr", "httpx")
    before = root.handlers[:], root.level, support_log.handlers[:], [logging.getLogger(n).level for n in names]
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)

    def opened(log_format="text", state=tmp_path):
        open_logs(log_format, state)
        return lambda: (capsys.readouterr().err, (tmp_path / "site.log").read_text(encoding="utf-8") if state else "")

    yield opened
    for handler in root.handlers:
        handler.close()
    logging.captureWarnings(False)
    root.handlers, support_log.handlers = before[0], before[2]
    root.setLevel(before[1])
    for name, level in zip(names, before[3], strict=True):
        logging.getLogger(name).setLevel(level)


def test_text_of_another_machine_neither_moves_the_cursor_nor_begins_a_line(logs):
    """The version of a request, for example, stands in the private log as the coordinator wrote it."""
    read, text = logs(), "0.3.0\n2026-11-28 15:00:00,000 INFO    run demo is approved\x1b]0;owned\x07\u202e"
    logging.getLogger("client").error("the coordinator runs version %s", text)
    try:
        raise ValueError(text)
    except ValueError:
        logging.getLogger("client").exception("caught")
    _, private = read()
    assert "version 0.3.0\\n2026-11-28" in private
    assert "\\x1b]0;owned\\x07\\u202e" in private
    assert all(line.isprintable() for line in private.splitlines())
    assert "raise ValueError(text)\n" in private, "a traceback keeps its lines"


def test_what_the_program_says_reaches_both(logs):
    read = logs()
    support_log.info("round %d answered", 3)
    support, private = read()
    assert "round 3 answered" in support
    assert "round 3 answered" in private


@pytest.mark.parametrize("name", ["memamba_core.data.manifest", "client.app", "flwr", "any.library"])
def test_what_else_is_logged_stays(logs, name):
    read = logs()
    logging.getLogger(name).error("%s has no slide", PATIENT)
    support, private = read()
    assert support == ""
    assert PATIENT in private


def test_a_warning_of_a_library_stays(logs):
    read = logs()
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(True)
        warnings.warn(PATIENT, UserWarning, stacklevel=1)
    support, private = read()
    assert support == ""
    assert PATIENT in private


def test_an_uncaught_error_is_logged_by_its_class_and_place(logs):
    read = logs()
    try:
        raise ValueError(PATIENT)
    except ValueError as error:
        sys.excepthook(ValueError, error, error.__traceback__)
    support, private = read()
    assert "ValueError at site/test_logs.py:" in support
    assert PATIENT not in support
    assert PATIENT in private


def test_so_is_one_of_another_thread(logs):
    read = logs()

    def fail():
        raise KeyError(PATIENT)

    thread = threading.Thread(target=fail)
    thread.start()
    thread.join()
    support, private = read()
    assert "KeyError at site/test_logs.py:" in support
    assert PATIENT not in support
    assert PATIENT in private


def test_json_is_one_object_per_line(logs):
    read = logs("json")
    support_log.info("one")
    support_log.warning("two\nlines")
    lines = [json.loads(line) for line in read()[0].splitlines()]
    assert [(line["level"], line["message"]) for line in lines] == [("info", "one"), ("warning", "two\nlines")]
    assert all(line["time"].endswith("+00:00") for line in lines)


def test_the_private_log_is_for_its_owner_alone(logs, tmp_path):
    logs()
    assert stat.S_IMODE((tmp_path / "site.log").stat().st_mode) == 0o600


def test_without_a_state_folder_there_is_no_private_log(logs, tmp_path):
    read = logs(state=None)
    logging.getLogger("any.library").error(PATIENT)
    support_log.info("connector")
    support, _ = read()
    assert PATIENT not in support
    assert "connector" in support
    assert not list(tmp_path.iterdir())


def test_an_error_that_was_never_raised_has_no_place():
    assert code_location(ValueError()) == "unknown location"
