"""Waiting for hospitals to connect: who greets and goes again is not there yet."""

from types import SimpleNamespace

import pytest

from memamba_core.errors import FederationError
from server import deployment

NODES = {"north": 1, "south": 2}


@pytest.fixture
def wait(monkeypatch):
    """Waits a minute at most, by a clock that only sleeping moves; a function of its time says who is connected."""

    def go(online_at, min_sites=2):
        now = [0.0]
        clock = SimpleNamespace(monotonic=lambda: now[0], sleep=lambda s: now.__setitem__(0, now[0] + s))
        monkeypatch.setattr(deployment, "time", clock)
        grid = SimpleNamespace(online=lambda: online_at(now[0]))
        plan = SimpleNamespace(sites=tuple(NODES), min_sites=min_sites, wait_s=60.0)
        progress = SimpleNamespace(on_connected=lambda *_: None)
        return deployment._wait_for_sites(grid, plan, NODES, progress), now[0]

    return go


def test_a_greeting_is_no_connection(wait):
    present, seconds = wait(lambda now: {1, 2} if now < 1 or now >= 20 else {1})
    assert present == NODES
    assert seconds >= 20


def test_a_run_begins_soon_when_all_are_there(wait):
    _, seconds = wait(lambda _: {1, 2})
    assert seconds <= 4


def test_it_begins_without_the_rest_only_if_it_may(wait):
    assert wait(lambda _: {1}, min_sites=1)[0] == {"north": 1}
    with pytest.raises(FederationError, match="not connected: south"):
        wait(lambda _: {1})
