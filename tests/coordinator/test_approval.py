"""The coordinator waits for the operators of all sites at the same time, for a bounded time, and says for whom."""

import pytest
from rich.console import Console

from memamba_core.config.compose import compose_experiment
from memamba_core.wire.protocol import FactsReply, Phase, Refusal
from server.federation import approval
from server.federation.approval import ask_until_approved
from server.federation.exchange import Answers, SiteFailure
from server.federation.handshake import Run
from server.progress import RunProgress, read_status

PENDING = SiteFailure.of_error(Refusal.PENDING.code, "")
DECLINED = SiteFailure.of_error(Refusal.DECLINED.code, "")
OFFLINE = SiteFailure.of_error(5, "")
STOPPED = SiteFailure.of_error(Refusal.STOPPED.code, "")
MALFORMED = SiteFailure(0, "answer rejected: no")
YES = FactsReply(
    site="x",
    time_unit="months",
    event_means="happened",
    encoder="",
    feature_width=0,
    feature_columns=(),
    feature_families=(),
    gene_columns=(),
    size_band=10,
    pathology_band=0,
    genomics_band=10,
)


class Clock:
    """A clock that only `sleep` moves on."""

    def __init__(self):
        self.now, self.slept = 0.0, []

    def monotonic(self):
        return self.now

    def sleep(self, seconds):
        self.slept.append(seconds)
        self.now += seconds


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(approval, "time", clock)
    return clock


def scripted(**answers):
    """An exchange in which each site gives its answers in turn, and then the last one again and again."""
    asked = []

    def exchange(sites):
        asked.append(tuple(sites))
        given = {site: answers[site].pop(0) if len(answers[site]) > 1 else answers[site][0] for site in sites}
        replies = {site: answer for site, answer in given.items() if isinstance(answer, FactsReply)}
        return Answers(replies, {site: a for site, a in given.items() if site not in replies}, 0, 0)

    return exchange, asked


def test_only_the_sites_that_wait_are_asked_again(clock):
    exchange, asked = scripted(a=[YES], b=[PENDING, YES], c=[PENDING, PENDING, YES], d=[OFFLINE])
    shown = []
    replies, failures = ask_until_approved(exchange, ["a", "b", "c", "d"], 3600, shown.append)
    assert (list(replies), failures) == (["a", "b", "c"], {"d": OFFLINE})
    assert asked == [("a", "b", "c", "d"), ("b", "c"), ("c",)]
    assert shown == [("b", "c"), ("c",), ()]


@pytest.mark.parametrize("end", [DECLINED, MALFORMED])
def test_a_site_that_refuses_ends_its_wait(clock, end):
    exchange, asked = scripted(a=[PENDING, end])
    replies, failures = ask_until_approved(exchange, ["a"], 3600)
    assert (replies, failures, len(asked)) == ({}, {"a": end}, 2)


def test_a_client_that_is_restarted_during_the_wait_keeps_its_place(clock):
    exchange, asked = scripted(a=[PENDING, STOPPED, OFFLINE, PENDING, YES])
    replies, failures = ask_until_approved(exchange, ["a"], 3600)
    assert (list(replies), failures, len(asked)) == (["a"], {}, 5)


def test_the_wait_is_bounded_and_the_site_is_noticed_in_seconds(clock):
    exchange, asked = scripted(a=[PENDING], b=[YES])
    replies, failures = ask_until_approved(exchange, ["a", "b"], 86_400)
    assert list(replies) == ["b"]
    assert failures["a"].code == Refusal.PENDING.code
    assert "(waited 24 h, approval_wait_s)" in failures["a"].text
    assert clock.now == pytest.approx(86_400)
    assert max(clock.slept) == 20.0
    assert len(asked) < 4400  # as many lines in the egress log of the site


def test_no_wait_at_all_is_possible(clock):
    exchange, asked = scripted(a=[PENDING])
    assert list(ask_until_approved(exchange, ["a"], 0)[1]) == ["a"]
    assert (clock.slept, len(asked)) == ([], 1)


def test_ctrl_c_ends_the_wait(monkeypatch):
    def interrupted(_seconds):
        raise KeyboardInterrupt

    monkeypatch.setattr(approval.time, "sleep", interrupted)
    exchange, _ = scripted(a=[PENDING])
    with pytest.raises(KeyboardInterrupt):
        ask_until_approved(exchange, ["a"], 3600)


def test_the_status_names_the_sites_that_wait(tmp_path):
    run = Run("first", compose_experiment())
    progress = RunProgress(tmp_path, run, Console(), lambda _record: None)
    progress.know({"county": 1, "mercy": 2, "st-elsewhere": 3})
    progress.on_phase(Phase.FACTS, 0, 0)
    progress.on_asked([1, 2, 3])
    progress.on_approval(("county", "mercy"))
    for _ in range(2):
        progress.on_asked([1, 2])
        progress.on_answer(1)
        assert read_status(tmp_path)[1].startswith("Waiting for approval at county, mercy: ")
    progress.on_approval(("mercy",))
    assert read_status(tmp_path)[1].startswith("Waiting for approval at mercy: ")
    progress.on_approval(())
    assert read_status(tmp_path)[1].startswith("Handshake: ")
