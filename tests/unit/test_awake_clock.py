"""Clock of time limits: a pause does not count, slow steps do."""

import math

import pytest

from memamba_core.io.awake_clock import AwakeClock


@pytest.fixture
def clock():
    readings = [1000.0, 5e8]
    made = AwakeClock(10.0, read=lambda: readings[0], wall=lambda: readings[1])

    def after(seconds, on_the_wall=None):
        readings[0] += seconds
        readings[1] += seconds if on_the_wall is None else on_the_wall
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


@pytest.mark.parametrize("jump", [7200, -7200])
def test_a_machine_that_slept_is_a_pause_and_a_wall_clock_that_is_corrected_costs_nothing(clock, jump):
    """The monotonic clock does not count the sleep."""
    clock.after(3)
    assert clock.after(1, on_the_wall=jump) == 4
    assert clock.pauses == (1 if jump > 0 else 0)
    assert clock.since_pause() == (0 if jump > 0 else math.inf)
