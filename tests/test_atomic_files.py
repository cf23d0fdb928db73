"""A file is whole or not there."""

import pytest

from memamba_core.atomic import write_atomically


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
