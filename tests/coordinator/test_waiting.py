"""Waiting for sites: before a run until they connect, within a run until a broken connection is back."""

from types import SimpleNamespace

import pytest
from fixtures.federation import GENES_ONLY, Federation, tiny
from flwr.app import Error, Message

from memamba_core.errors import FederationError
from server import deployment
from server.federation import exchange
from server.federation.rounds import run_federation
from server.flower.grid import RuntimeGrid

NODES = {"north": 1, "south": 2}


@pytest.fixture
def wait(monkeypatch):
    """Wait a minute at most, by a clock that only sleeping moves; a function of its time gives the connected sites."""

    def go(online_at, min_sites=2):
        now = [0.0]
        clock = SimpleNamespace(monotonic=lambda: now[0], sleep=lambda s: now.__setitem__(0, now[0] + s))
        monkeypatch.setattr(deployment, "time", clock)
        grid = SimpleNamespace(online=lambda _begun: online_at(now[0]))
        plan = SimpleNamespace(sites=tuple(NODES), min_sites=min_sites, wait_s=60.0)
        progress = SimpleNamespace(on_connected=lambda *_: None)
        return deployment._wait_for_sites(grid, plan, NODES, progress, 0.0), now[0]

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
    with pytest.raises(FederationError, match="Not connected: south"):
        wait(lambda _: {1})


def test_who_was_connected_before_the_superlink_started_is_not_connected(monkeypatch):
    """Its database says so for a minute; a heartbeat every 30 s, with a patience of two, says when each was heard."""

    def heard_at(second):
        return SimpleNamespace(node_id=second, heartbeat_interval=30.0, online_until=second + 60.0)

    grid = RuntimeGrid.__new__(RuntimeGrid)
    monkeypatch.setattr(grid, "get_nodes", lambda: [heard_at(100), heard_at(129), heard_at(131)])
    assert grid.online(since=130) == {131}


@pytest.fixture
def wait_for_return(monkeypatch):
    """Seconds until two of three nodes are connected again."""

    def go(online_at, least=2):
        now = [0.0]
        clock = SimpleNamespace(monotonic=lambda: now[0], sleep=lambda s: now.__setitem__(0, now[0] + s))
        monkeypatch.setattr(exchange, "time", clock)
        exchange.wait_for_return(SimpleNamespace(get_node_ids=lambda: online_at(now[0])), [1, 2, 3], least)
        return now[0]

    return go


def test_a_round_is_repeated_when_enough_sites_are_back(wait_for_return):
    assert wait_for_return(lambda _: [1, 2, 3]) == 0
    assert 30 <= wait_for_return(lambda now: [3] if now < 30 else [3, 1]) <= 32
    assert wait_for_return(lambda _: [3, 4, 5]) >= 60
    assert wait_for_return(lambda _: [1, 2, 3], least=9) == 0


def test_a_site_whose_line_broke_is_in_the_repeated_round():
    """Between the two attempts the coordinator waits for it; without that the run would end."""
    away = []

    def breaks_once(request, reply):
        if request.metadata.message_type == "train" and not away:
            away.append(request.metadata.dst_node_id)
            return Message(Error(1, "Node Unavailable"), reply_to=request)
        if away and away[0] is not None:
            return Message(Error(1, "Node Unavailable"), reply_to=request)
        return reply

    federation = Federation(
        tiny(*GENES_ONLY, "agreement.gene_groups=kind", "federation.min_results=4"), faults={"site-01": breaks_once}
    )
    grid = federation.grid()
    nodes = list(grid.get_node_ids())
    asked = []

    def get_node_ids():
        asked.append(len(asked))
        if away and len(asked) > 1:
            away[0] = None  # back again
            return nodes
        return [node for node in nodes if node not in away]

    grid.get_node_ids = get_node_ids
    result = run_federation(grid, federation.run())
    assert len(result.rounds) == 2
    assert not any(record.failed for record in result.rounds)
