"""Atomic writes: a file or folder is complete or absent."""

import pytest

from memamba_core.io.atomic import fill_atomically, write_atomically, write_secret

pytestmark = pytest.mark.durable


def test_the_file_appears_only_when_it_is_whole(tmp_path):
    path = tmp_path / "a.json"
    with write_atomically(path) as partial:
        partial.write_text("new")
        assert not path.exists()
    assert path.read_text() == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


@pytest.mark.parametrize("interruption", [ValueError, KeyboardInterrupt])
def test_an_interruption_leaves_the_old_file_and_nothing_else(tmp_path, interruption):
    path = tmp_path / "a.json"
    path.write_text("old")

    def write_and_stop():
        with write_atomically(path) as partial:
            partial.write_text("ne")
            raise interruption

    with pytest.raises(interruption):
        write_and_stop()
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_a_folder_appears_only_when_it_is_full(tmp_path):
    folder = tmp_path / "new" / "a"
    with fill_atomically(folder, mode=0o700) as partial:
        (partial / "one").write_text("1")
        assert not folder.exists()
    assert [p.name for p in folder.parent.iterdir()] == ["a"]
    assert (folder / "one").read_text() == "1"
    assert folder.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("interruption", [ValueError, KeyboardInterrupt])
def test_an_interruption_leaves_no_folder(tmp_path, interruption):
    def fill_and_stop():
        with fill_atomically(tmp_path / "a") as partial:
            (partial / "one").write_text("1")
            raise interruption

    with pytest.raises(interruption):
        fill_and_stop()
    assert not list(tmp_path.iterdir())


def test_what_a_kill_left_is_not_in_the_way(tmp_path):
    """In a container the next process after a kill often has the same process id."""
    folder, file = fill_atomically(tmp_path / "a"), write_atomically(tmp_path / "b")
    folder.__enter__()  # and never exit
    file.__enter__().write_text("half")
    with fill_atomically(tmp_path / "a") as partial:
        (partial / "one").touch()
    write_secret(tmp_path / "b", b"whole")
    assert (tmp_path / "a" / "one").exists()
    assert (tmp_path / "b").read_bytes() == b"whole"


def test_a_folder_that_holds_something_is_left_alone(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "mine").touch()
    with pytest.raises(OSError, match="not empty"), fill_atomically(tmp_path / "a"):
        pass
    assert [p.name for p in tmp_path.rglob("*")] == ["a", "mine"]
