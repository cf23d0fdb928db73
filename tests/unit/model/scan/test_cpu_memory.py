"""What is asked of the C library's allocator, and what goes back to the system."""

import os
import subprocess
import sys

import pytest

from memamba_core.model.scan.cpu import memory

_REUSED = """
import resource
import torch
from memamba_core.model.cpu.memory import keep_freed_memory

was_set = keep_freed_memory()
faults = []
for _ in range(8):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones({numbers})
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(int(was_set), min(faults))
"""

pytestmark = pytest.mark.skipif(not memory._is_glibc(), reason="a setting of glibc's allocator")


def _run(numbers, **environment):
    """Whether the setting was made, and how often an allocation, of eight, asked the system for memory at the least."""
    inherited = {key: value for key, value in os.environ.items() if key not in memory._CHOSEN_BY_A_PERSON}
    command = [sys.executable, "-c", _REUSED.format(numbers=numbers)]
    done = subprocess.run(command, env=inherited | environment, capture_output=True, text=True, check=True, timeout=60)
    return tuple(map(int, done.stdout.split()))


@pytest.mark.ci_slow
def test_memory_above_the_bound_goes_back():
    """72 MiB: kept pieces of that size would not fit together, and memory would run out."""
    was_set, faults = _run(18 * 2**20)
    assert was_set == 1
    assert faults >= 35


@pytest.mark.ci_slow
@pytest.mark.parametrize("name", ["MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_"])
def test_what_a_person_has_set_stays(name):
    was_set, faults = _run(2**24, **{name: "33554432"})
    assert was_set == 0
    assert faults >= 30


def test_an_older_glibc_takes_what_it_can(monkeypatch):
    """Before 2.35 a bound above 32 MiB is refused."""
    asked = []

    def mallopt(parameter, value):
        asked.append((parameter, value))
        return int(parameter != memory._M_MMAP_THRESHOLD or value <= 2**25)

    monkeypatch.setattr(memory.ctypes, "CDLL", lambda _: type("Libc", (), {"mallopt": staticmethod(mallopt)}))
    for name in memory._CHOSEN_BY_A_PERSON:
        monkeypatch.delenv(name, raising=False)
    assert memory.keep_freed_memory.__wrapped__()
    assert asked[-2:] == [(memory._M_MMAP_THRESHOLD, 2**25), (memory._M_TRIM_THRESHOLD, 2**30)]
