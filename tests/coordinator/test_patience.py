"""Patience of an exchange: who is waited for, and for how long."""

import pytest
from flwr.common.constant import ErrorCode

from memamba_core.io.awake_clock import AwakeClock
from memamba_core.wire.protocol import Refusal
from server.flower.patience import Patience

NODES = (1, 2, 3)
CRASHED, LOST, OFFLINE = ErrorCode.CLIENT_APP_CRASHED, ErrorCode.MESSAGE_UNAVAILABLE, ErrorCode.NODE_UNAVAILABLE


class Scene:
    """An exchange with three nodes and a clock that a test moves; a look every 5 s."""

    def __init__(self, needed=3, timeout_s=600.0, return_wait_s=900.0):
        self.reading = 0.0
        self.clock = AwakeClock(read=lambda: self.reading)
        self.patience = Patience(NODES, timeout_s, return_wait_s, lambda some: len(some) >= needed, self.clock)

    def wait(self, seconds, connected=NODES):
        """Let time pass; return the nodes that were given up, and when."""
        given_up = {}
        for _ in range(int(seconds / 5)):
            self.reading += 5
            given_up |= dict.fromkeys(self.patience.pass_time(connected), self.reading)
        return given_up

    def pause(self, seconds):
        self.reading += seconds
        self.patience.pass_time(NODES)


def test_the_time_limit_holds_for_connected_sites():
    scene = Scene(timeout_s=60)
    assert scene.wait(55) == {}
    assert not scene.patience.is_over
    scene.wait(5)
    assert scene.patience.is_over


def test_it_is_over_when_all_have_answered():
    scene = Scene()
    for node in NODES:
        assert not scene.patience.is_over
        scene.patience.on_answer(node)
    assert scene.patience.is_over


def test_a_site_that_is_needed_is_waited_for_and_its_absence_does_not_count():
    scene = Scene(timeout_s=120)
    scene.wait(60)
    assert scene.wait(360, connected=(1, 2)) == {}, "six minutes"
    assert scene.patience.awaited_back == {3}
    assert scene.patience.left_s == 60
    assert scene.wait(30) == {}
    assert scene.patience.awaited_back == frozenset()
    assert scene.patience.left_s == 30


def test_a_site_that_does_not_return_is_given_up_after_the_return_wait():
    assert Scene(return_wait_s=900).wait(1200, connected=(1, 2)) == {3: 900}
    assert Scene(return_wait_s=0).wait(10, connected=(1, 2)) == {3: 5}


def test_absences_add_up():
    scene = Scene(return_wait_s=300, timeout_s=1e6)
    for _ in range(3):
        assert scene.wait(80, connected=(1, 2)) == {}
        scene.wait(80)
    assert list(scene.wait(80, connected=(1, 2))) == [3], "a site that comes and goes cannot hold a round for ever"


def test_a_site_that_is_not_needed_is_left_out_at_once():
    scene = Scene(needed=2)
    assert scene.wait(10, connected=(1, 2)) == {3: 5}
    assert not scene.patience.is_over, "the others have not answered yet"


def test_sites_are_waited_for_until_enough_are_back():
    scene = Scene(needed=2)
    assert scene.wait(100, connected=(1,)) == {}
    assert list(scene.wait(5, connected=(1, 2))) == [3]


def test_an_answer_counts_although_its_site_has_left():
    scene = Scene(needed=2)
    scene.patience.on_answer(1)
    scene.patience.on_answer(2)
    assert scene.wait(5, connected=()) == {3: 5}
    assert scene.patience.is_over


def test_after_a_pause_of_the_superlink_no_living_site_is_left_out():
    """Every site seems away, because the SuperLink has heard of none of them."""
    scene = Scene(needed=1, timeout_s=100)
    scene.pause(90)
    assert scene.patience.left_s >= 90, "the pause does not count"
    assert scene.wait(50, connected=()) == {}
    assert scene.wait(10, connected=(1, 2)) == {3: 90 + 60}


def test_a_coordinator_that_is_slow_all_the_time_gives_up_a_site_at_last():
    """Each pass of its loop takes so long that it looks like a pause."""
    scene, passes = Scene(needed=1), 0
    while scene.patience.awaits(3):
        scene.reading += 20
        scene.patience.pass_time((1, 2))
        passes += 1
    assert passes == 12


@pytest.mark.parametrize("needed", [1, 3])
def test_what_was_lost_on_its_way_is_repeated_three_times(needed):
    scene = Scene(needed)
    for _ in range(3):
        assert scene.patience.repeats(3, LOST)
        assert scene.patience.take_due() == [3]
        assert scene.patience.take_due() == []
    assert not scene.patience.repeats(3, LOST)
    assert not scene.patience.awaits(3)


def test_a_client_that_ended_or_stood_still_is_asked_again_if_it_is_needed():
    assert Scene(needed=3).patience.repeats(3, CRASHED)
    assert not Scene(needed=2).patience.repeats(3, CRASHED)


@pytest.mark.parametrize("refusal", [Refusal.ABSENT, Refusal.STOPPED])
def test_a_site_that_is_restarted_is_asked_again_at_growing_intervals(refusal):
    scene, asked = Scene(return_wait_s=300), []
    while scene.patience.repeats(3, refusal.code):
        while not scene.patience.take_due():
            assert scene.wait(5) in ({}, {3: scene.reading})
            if not scene.patience.awaits(3):
                break
        asked.append(scene.reading)
    assert asked == [10, 30, 70, 130, 190, 250, 300]
    assert scene.patience.left_s == 600, "the absence does not count"
    assert not Scene(needed=2).patience.repeats(3, refusal.code)


@pytest.mark.parametrize("refusal", [r for r in Refusal if r not in (Refusal.ABSENT, Refusal.STOPPED)])
def test_a_refusal_is_an_answer(refusal):
    patience = Scene().patience
    assert not patience.repeats(3, refusal.code)
    assert not patience.awaits(3)
    assert not patience.repeats(3, refusal.code), "the second answer of a hostile site"


def test_a_site_that_was_given_up_is_named_with_its_last_error():
    scene = Scene(return_wait_s=60)
    assert scene.patience.repeats(3, Refusal.ABSENT.code)
    codes = {}
    for _ in range(20):
        scene.reading += 5
        codes |= scene.patience.pass_time(NODES)
    assert codes == {3: Refusal.ABSENT.code}
    other = Scene(return_wait_s=0)
    assert other.patience.pass_time((1, 2)) == {3: OFFLINE}
