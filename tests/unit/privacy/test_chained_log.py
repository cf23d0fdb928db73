"""A chain of tags: every line vouches for the lines before it, also against lines with valid tags of another log."""

import pytest

from memamba_core.errors import TamperedLogError
from memamba_core.privacy.chained_log import ChainedLog

pytestmark = pytest.mark.durable

KEY = b"k" * 32


def write(path, values, key=KEY):
    """Write a log with one line for each value."""
    log = ChainedLog(path, key)
    with log.open() as opened:
        for value in values:
            opened.append({"value": value})
    return log


def lines_of(log):
    return log.path.read_bytes().splitlines(keepends=True)


@pytest.mark.parametrize("number", [0, 1])
def test_a_line_of_another_log_with_the_same_key_is_noticed(tmp_path, number):
    """The spliced line has a valid tag and the right number; only the line after it shows that it does not belong."""
    log, other = write(tmp_path / "log", [1, 2, 3]), write(tmp_path / "other", [9, 8, 7])
    lines = lines_of(log)
    lines[number] = lines_of(other)[number]
    log.path.write_bytes(b"".join(lines))
    with pytest.raises(TamperedLogError, match=r"line [12] was edited, or lines before it are missing, added or moved"):
        log.read()


def test_the_end_of_another_log_is_noticed(tmp_path):
    """Head and last line are those of the other log, which has as many lines."""
    log, other = write(tmp_path / "log", [1, 2, 3]), write(tmp_path / "other", [9, 8, 7])
    log.path.write_bytes(b"".join([*lines_of(log)[:2], lines_of(other)[2]]))
    head = log.path.with_name("log.head")
    head.write_bytes(other.path.with_name("other.head").read_bytes())
    with pytest.raises(TamperedLogError, match="line 3"):
        log.read()


@pytest.mark.parametrize("change", ["value", "order", "removed", "added"])
def test_an_edited_chain_is_noticed(tmp_path, change):
    log = write(tmp_path / "log", [1, 2, 3])
    lines = lines_of(log)
    if change == "value":
        lines[1] = lines[1].replace(b'"value": 2', b'"value": 5')
    elif change == "order":
        lines[0], lines[1] = lines[1], lines[0]
    elif change == "removed":
        del lines[1]
    else:
        lines.insert(1, lines[0])
    log.path.write_bytes(b"".join(lines))
    with pytest.raises(TamperedLogError):
        log.read()


def test_equal_records_have_different_tags(tmp_path):
    """A line could be repeated or moved otherwise."""
    tags = [line.partition(b'"tag": ')[2] for line in lines_of(write(tmp_path / "log", [1, 1, 1]))]
    assert len(set(tags)) == 3


def test_another_key_does_not_verify(tmp_path):
    log = write(tmp_path / "log", [1, 2])
    with pytest.raises(TamperedLogError, match="line 1"):
        ChainedLog(log.path, b"x" * 32).read()
    assert [record["value"] for record in log.read()] == [1, 2]
