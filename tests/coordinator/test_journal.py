"""Journal: complete or absent, the newest three states, and never another run's."""

import dataclasses
import json

import numpy as np
import pytest

from memamba_core.data.agreement import Agreement
from memamba_core.errors import CheckpointError
from server.federation.journal import Journal, JournalEntry, RoundRecord
from server.federation.outcome import Failed, SiteMetrics, Trained

pytestmark = pytest.mark.durable

AGREEMENT = Agreement(
    time_bin_edges=(6.0, 12.0),
    gene_columns=("A_cnv",),
    gene_groups={"g": (0,)},
    gene_center=np.array([1 / 3]),
    gene_scale=np.array([2.0]),
)


def entry(num_rounds):
    rounds = tuple(
        RoundRecord(
            server_round=r,
            sites={
                "north": Trained(trained={"head": 3}, train_loss=1 / r, incoming=SiteMetrics(num_patients=r)),
                "south": Failed(failure="x", code=108),
            },
            seconds=0.1,
            bytes_sent=5,
            bytes_received=6,
        )
        for r in range(1, num_rounds + 1)
    )
    return JournalEntry(
        weights={"head.weight": np.full((2, 3), num_rounds, np.float32), "head.scalar": np.array(0.5, np.float32)},
        strategy_state={"head/m_t/head.weight": np.full((2, 3), 1 / 3, np.float64)},
        agreement=AGREEMENT,
        rounds=rounds,
        warnings=("north: check clinical.time_unit",),
        sizes={"north": 10, "south": 50},
    )


@pytest.fixture
def journal(tmp_path):
    return Journal(tmp_path / "journal", "digest", 0)


def names(tmp_path):
    return sorted(p.name for p in (tmp_path / "journal").iterdir())


def test_what_was_written_comes_back_bit_by_bit(journal):
    written = entry(3)
    journal.write(written)
    back = journal.read()
    for part in ("weights", "strategy_state"):
        arrays = getattr(written, part)
        assert getattr(back, part).keys() == arrays.keys()
        for name, array in arrays.items():
            got = getattr(back, part)[name]
            assert (got.dtype, got.shape) == (array.dtype, array.shape)
            np.testing.assert_array_equal(got, array)
    assert back.agreement.digest() == AGREEMENT.digest()
    assert back.rounds == written.rounds
    assert [type(outcome) for outcome in back.rounds[0].sites.values()] == [Trained, Failed]
    assert (back.warnings, back.sizes) == (written.warnings, written.sizes)


def test_views_are_written_as_what_they_show(journal):
    """safetensors writes the buffer of an array that is not contiguous."""
    turned = np.arange(6, dtype=np.float32).reshape(3, 2).T
    journal.write(dataclasses.replace(entry(1), weights={"w": turned}))
    np.testing.assert_array_equal(journal.read().weights["w"], turned)


def test_nothing_written_is_nothing_to_resume(journal):
    assert journal.read() is None


def test_the_newest_three_are_kept(journal, tmp_path):
    for num in range(1, 5):
        journal.write(entry(num))
    assert names(tmp_path) == [f"round-0000{number}.safetensors" for number in (2, 3, 4)]
    assert len(journal.read().rounds) == 4


def test_a_damaged_newest_falls_back_to_the_one_before(journal, tmp_path, caplog):
    for num in (1, 2):
        journal.write(entry(num))
    newest = tmp_path / "journal" / "round-00002.safetensors"
    for damaged in (newest.read_bytes()[:-3], newest.read_bytes()[:20], b""):
        newest.write_bytes(damaged)
        caplog.clear()
        assert len(journal.read().rounds) == 1
        assert "round-00002.safetensors cannot be used" in caplog.text


def test_after_damage_new_states_are_kept_and_the_damaged_ones_are_not(journal, tmp_path):
    """By number alone the damaged states are the newest, and every new state would be deleted at once."""
    for num in (6, 7):
        journal.write(entry(num))
        (tmp_path / "journal" / f"round-{num:05d}.safetensors").write_bytes(b"damaged")
    assert journal.read() is None
    journal.write(entry(1))
    assert len(journal.read().rounds) == 1
    journal.write(entry(2))
    assert names(tmp_path) == ["round-00001.safetensors", "round-00002.safetensors"]


def test_a_killed_writer_leaves_the_state_before(journal, tmp_path, monkeypatch):
    journal.write(entry(1))
    monkeypatch.setattr("os.fsync", lambda fd: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        journal.write(entry(2))
    assert names(tmp_path) == ["round-00001.safetensors"]
    assert len(journal.read().rounds) == 1


def test_what_a_killed_writer_left_half_done_is_taken_away(journal, tmp_path):
    """The partial file is as large as a model, and nothing else would ever remove it."""
    journal.write(entry(1))
    (tmp_path / "journal" / ".round-00002.safetensors.4711.partial").write_bytes(b"half")
    journal.write(entry(2))
    assert names(tmp_path) == ["round-00001.safetensors", "round-00002.safetensors"]


@pytest.mark.parametrize(("digest", "fold"), [("another", 0), ("digest", 1)])
def test_the_journal_of_another_run_is_refused(journal, tmp_path, digest, fold):
    journal.write(entry(1))
    with pytest.raises(CheckpointError, match="Resume with the settings of the interrupted run"):
        Journal(tmp_path / "journal", digest, fold).read()


def test_an_agreement_that_was_changed_is_not_gone_on_with(journal, tmp_path):
    journal.write(entry(1))
    path = tmp_path / "journal" / "round-00001.safetensors"
    blob = path.read_bytes()
    edges = json.dumps(AGREEMENT.to_json())[1:-1][:30].encode()
    assert b"[6.0,12.0]" in edges
    path.write_bytes(blob.replace(b"[6.0,12.0]", b"[6.0,13.0]"))
    assert journal.read() is None


def test_a_person_goes_back_two_rounds_by_moving_the_newest_states_away(journal, tmp_path):
    for num in range(1, 6):
        journal.write(entry(num))
    for num in (4, 5):
        (tmp_path / "journal" / f"round-{num:05d}.safetensors").rename(tmp_path / f"{num}")
    assert len(journal.read().rounds) == 3
    journal.write(entry(4))
    assert names(tmp_path) == [f"round-{number:05d}.safetensors" for number in (3, 4)]
