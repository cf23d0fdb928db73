"""The ledger: charged before the work, by one process at a time, and no edit goes unnoticed."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import threading
from contextlib import contextmanager

import pytest

pytest.importorskip("opacus", reason="differential privacy needs the extra `privacy`")

from memamba_core.errors import BudgetError, ConfigError, TamperedLogError
from memamba_core.privacy import chained_log
from memamba_core.privacy.accounting import NoisyStep, epsilon_of
from memamba_core.privacy.ledger import Ledger, epsilon_in_sites, read_spending

pytestmark = pytest.mark.durable

STEP = NoisyStep(2.0, 0.1)
DELTA = 1e-5


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "privacy"


def ledger(folder, **changes):
    return Ledger(folder, **{"site": "st-elsewhere", "delta": DELTA, **changes})


def test_rounds_add_up_over_runs(folder):
    for run in ("a", "b"):
        for server_round in (1, 2):
            ledger(folder).charge(run, server_round, STEP, 10, max_epsilon=8)
    book = ledger(folder)
    assert book.epsilon("a") == epsilon_of([(STEP, 20)], DELTA)
    assert book.epsilon() == epsilon_of([(STEP, 40)], DELTA)
    assert book.epsilon("never") == 0.0
    assert [(c.run_id, c.server_round) for c in book.charges()] == [("a", 1), ("a", 2), ("b", 1), ("b", 2)]


def test_the_cap_is_never_passed(folder):
    book, cap = ledger(folder), epsilon_of([(STEP, 35)], DELTA)
    for server_round in (1, 2, 3):
        book.charge("run", server_round, STEP, 10, cap, 30)
    with pytest.raises(BudgetError, match=r"does not fit under privacy\.max_epsilon="):
        book.charge("run", 4, STEP, 10, cap, 30)
    assert len(book.charges()) == 3
    assert book.epsilon() == epsilon_of([(STEP, 30)], DELTA) < cap


def test_a_round_is_charged_once(folder):
    ledger(folder).charge("run", 1, STEP, 10, 8)
    with pytest.raises(BudgetError, match="charged before"):
        ledger(folder).charge("run", 1, STEP, 10, 8)
    assert len(ledger(folder).charges()) == 1


@pytest.mark.parametrize("steps", [-1, 10**9])
def test_a_hostile_plan_leaves_nothing(folder, steps):
    with pytest.raises(ConfigError):
        ledger(folder).charge("run", 1, STEP, steps, 8)
    assert ledger(folder).charges() == ()


def test_a_patient_in_two_sites_has_spent_twice():
    spent = [(STEP, 100)]
    assert epsilon_in_sites(spent, 2, DELTA) == epsilon_of([(STEP, 200)], DELTA)


def test_spending_is_reported_by_run_and_in_total(folder):
    for run, server_round in (("b", 1), ("a", 1), ("b", 2)):
        ledger(folder).charge(run, server_round, STEP, 10, max_epsilon=8)
    spending = read_spending(folder, "st-elsewhere", DELTA)
    assert list(spending.rounds.items()) == [("b", 2), ("a", 1)]
    assert spending.epsilon_of_run == {"b": epsilon_of([(STEP, 20)], DELTA), "a": epsilon_of([(STEP, 10)], DELTA)}
    assert spending.epsilon == epsilon_of([(STEP, 30)], DELTA) < sum(spending.epsilon_of_run.values())
    assert spending.epsilon_in_two_sites == epsilon_of([(STEP, 60)], DELTA)


def test_reading_makes_no_ledger(folder):
    assert read_spending(folder, "st-elsewhere", DELTA).epsilon == 0.0
    assert not folder.exists()


def test_spending_of_an_edited_ledger_is_not_reported(folder):
    edit(*filled(folder))
    with pytest.raises(TamperedLogError):
        read_spending(folder, "st-elsewhere", DELTA)


# What may happen to files ---------------------------------------------------------------------------------------------


def filled(folder, rounds=3):
    for server_round in range(1, rounds + 1):
        ledger(folder).charge("run", server_round, STEP, 10, 8)
    return folder / "ledger.jsonl", folder / "ledger.jsonl.head"


def edit(file, _head):
    file.write_text(file.read_text().replace('"steps": 10', '"steps": 1', 1))


def drop_the_last_line(file, _head):
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:-1]))


def drop_a_middle_line(file, _head):
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(lines[:2] + lines[3:]))


def swap_lines(file, _head):
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join([lines[0], lines[2], lines[1], *lines[3:]]))


def repeat_a_line(file, _head):
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join([*lines, lines[-1]]))


def add_a_refund(file, _head):
    line = json.loads(file.read_text().splitlines()[-1])
    file.write_text(file.read_text() + json.dumps({**line, "line": 4, "steps": -10}) + "\n")


def remove_the_file(file, _head):
    file.unlink()


def remove_the_head(_file, head):
    head.unlink()


def remove_the_key(file, _head):
    file.with_name("ledger.key").unlink()


def scribble(file, _head):
    file.write_text("not a ledger\n")


TAMPERING = (edit, drop_the_last_line, drop_a_middle_line, swap_lines, repeat_a_line, add_a_refund, remove_the_file)
TAMPERING += (remove_the_head, remove_the_key, scribble)


@pytest.mark.parametrize("tamper", TAMPERING, ids=lambda f: f.__name__)
def test_tampering_is_noticed(folder, tamper):
    tamper(*filled(folder))
    with pytest.raises(TamperedLogError):
        ledger(folder)


def test_a_ledger_of_another_site_or_delta_is_refused(folder):
    filled(folder)
    for other in ({"site": "elsewhere"}, {"delta": 1e-6}):
        with pytest.raises(TamperedLogError, match="expected"):
            ledger(folder, **other)


def test_a_file_taken_back_alone_is_noticed(folder):
    file, _ = filled(folder, rounds=2)
    old = file.read_bytes()
    ledger(folder).charge("run", 3, STEP, 10, 8)
    file.write_bytes(old)
    with pytest.raises(TamperedLogError, match="Lines are missing"):
        ledger(folder)


def test_half_a_line_of_a_crash_is_removed_and_nothing_is_lost(folder):
    file, _ = filled(folder)
    with file.open("a") as torn:
        torn.write('{"line": 4, "run_id": "ru')
    assert len(ledger(folder).charges()) == 3
    ledger(folder).charge("run", 4, STEP, 10, 8)
    assert len(ledger(folder).charges()) == 4


def test_a_clock_that_goes_backwards_changes_nothing(folder, monkeypatch):
    filled(folder, rounds=1)
    monkeypatch.setattr("memamba_core.privacy.ledger.time.time", lambda: 0.0)
    ledger(folder).charge("run", 2, STEP, 10, 8)
    assert ledger(folder).epsilon() == epsilon_of([(STEP, 20)], DELTA)


def test_a_full_disk_leaves_the_ledger_as_it_was(folder, monkeypatch):
    filled(folder, rounds=1)

    def full(_descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("memamba_core.privacy.chained_log.os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        ledger(folder).charge("run", 2, STEP, 10, 8)
    monkeypatch.undo()
    assert len(ledger(folder).charges()) == 1


@pytest.mark.parametrize(("fails", "counted"), [("before", 1), ("after", 2)])
def test_a_head_that_cannot_be_written_again_and_again_does_not_spoil_the_ledger(folder, monkeypatch, fails, counted):
    """A full disk takes a line into the block that the file has, and no new file; the second failure is another."""
    filled(folder, rounds=1)
    write = chained_log.write_atomically

    @contextmanager
    def full(path):
        with write(path) as partial:
            if fails == "before":
                raise OSError(28, "No space left on device")
            yield partial
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(chained_log, "write_atomically", full)
    for server_round in (2, 3):
        with pytest.raises(OSError, match="No space"):
            ledger(folder).charge("run", server_round, STEP, 10, 8)
    monkeypatch.undo()
    assert len(ledger(folder).charges()) == counted
    ledger(folder).charge("run", 4, STEP, 10, 8)
    assert len(ledger(folder).charges()) == counted + 1


def test_reading_waits_for_who_is_writing(folder):
    """Without the lock a reader may see the file of before a charge and the head of after it: no tampering."""
    filled(folder, rounds=1)
    log = chained_log.ChainedLog(folder / "other.jsonl")
    with log.open() as opened:
        opened.append({"line_of": "a test"})
    done = threading.Event()
    read = []
    reader = threading.Thread(target=lambda: (read.extend(log.read()), done.set()))
    with log.open() as opened:
        reader.start()
        assert not done.wait(0.2)
        opened.append({"line_of": "a test"})
    reader.join(10)
    assert len(read) == 2


def test_keys_and_ledgers_are_for_their_owner(folder):
    filled(folder, rounds=1)
    assert (folder / "ledger.key").stat().st_mode & 0o077 == 0
    assert (folder / "ledger.jsonl").stat().st_mode & 0o077 == 0


# Several processes ----------------------------------------------------------------------------------------------------


def _charge_many(folder, run, rounds):
    book = Ledger(folder, "st-elsewhere", DELTA)
    for server_round in range(1, rounds + 1):
        book.charge(run, server_round, STEP, 1, max_epsilon=8)


@pytest.mark.slow
def test_two_processes_lose_no_charge(folder):
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_charge_many, args=(folder, run, 20)) for run in ("a", "b")]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
        assert worker.exitcode == 0
    assert len(ledger(folder).charges()) == 40


@pytest.mark.slow
@pytest.mark.parametrize("point", ["before the line", "after the line", "after the head"])
def test_a_kill_at_any_point_counts_too_much_or_right(folder, point):
    """The process dies by SIGKILL at the point named; what was on disk is charged, and the ledger is whole."""
    filled(folder, rounds=2)
    script = textwrap.dedent(
        f"""
        import os, signal
        from contextlib import contextmanager
        from pathlib import Path
        from memamba_core.privacy import chained_log
        from memamba_core.privacy.accounting import NoisyStep
        from memamba_core.privacy.ledger import Ledger
        die = lambda *a: os.kill(os.getpid(), signal.SIGKILL)
        point, book = {point!r}, Ledger(Path({str(folder)!r}), "st-elsewhere", {DELTA})
        write, atomically = chained_log.ChainedLog._write, chained_log.write_atomically
        @contextmanager
        def die_before_the_name(path):
            with atomically(path) as partial:
                yield partial
                die()
        if point == "before the line":
            chained_log.ChainedLog._write = die
        elif point == "after the line":
            chained_log.write_atomically = die_before_the_name
        else:
            chained_log.ChainedLog._write = lambda *a: (write(*a), die())
        book.charge("run", 3, NoisyStep(2.0, 0.1), 10, 8)
        """
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", script], check=False, env={**os.environ})
    assert done.returncode == -signal.SIGKILL
    assert len(ledger(folder).charges()) == (2 if point == "before the line" else 3)
    if point != "before the line":
        with pytest.raises(BudgetError, match="charged before"):
            ledger(folder).charge("run", 3, STEP, 10, 8)
    ledger(folder).charge("run", 4, STEP, 10, 8)
