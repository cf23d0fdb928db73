"""Clock of time limits: a pause does not count, slow steps do."""

import math

import pytest

from memamba_core.io.awake_clock import AwakeClock


@pytest.fixture
def clock():
    readings = [1000.0]
    made = AwakeClock(10.0, read=lambda: readings[0])

    def after(seconds):
        readings[0] += seconds
        return made.now()

    made.after = after
    return made


def test_time_passes(clock):
    assert clock.now() == 0
    assert clock.after(3) == 3
    assert clock.after(10) == 13
    assert (clock.pauses, clock.since_pause()) == (0, math.inf)


def test_a_pause_counts_as_the_longest_step(clock):
    clock.after(3)
    assert clock.after(90) == 13
    assert (clock.pauses, clock.paused_s, clock.since_pause()) == (1, 90, 0)
    assert clock.after(4) == 17
    assert clock.since_pause() == 4


def test_time_passes_although_every_step_is_slow(clock):
    for _ in range(10):
        clock.after(60)
    assert clock.now() == 100


def test_a_clock_that_is_set_back_stands_still(clock):
    clock.after(3)
    assert clock.after(-50) == 3
    assert clock.after(1) == 4
