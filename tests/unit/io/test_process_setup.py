"""Process set-up: the setting of the C library's allocator, and the memory that goes back to the system."""

import os
import subprocess
import sys

import pytest

from memamba_core.io import process_setup

_GLIBC_VARIABLES = ("GLIBC_TUNABLES", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_")
_M_MMAP_THRESHOLD, _M_TRIM_THRESHOLD = -3, -1  # malloc.h
_REUSED = """
import resource
from memamba_core.io.process_setup import keep_freed_memory

was_set = keep_freed_memory()
import torch

faults = []
for _ in range(8):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones({numbers})
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(int(was_set), min(faults))
"""
_MALLOC = """
import ctypes, resource
from memamba_core.io.process_setup import keep_freed_memory

libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
libc.memset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]

def fewest_faults():
    faults = []
    for _ in range(4):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        memory = libc.malloc(48 * 2**20)
        libc.memset(memory, 1, 48 * 2**20)
        faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
        libc.free(memory)
    return min(faults)

default = fewest_faults()
keep_freed_memory()
print(default, fewest_faults())
"""


def _is_glibc():
    try:
        return "glibc" in (os.confstr("CS_GNU_LIBC_VERSION") or "")
    except (AttributeError, ValueError, OSError):
        return False


pytestmark = pytest.mark.skipif(not _is_glibc(), reason="a setting of glibc's allocator")


def _run(numbers, **environment):
    """Return whether the setting was made, and the fewest page faults of an allocation, of eight."""
    inherited = {key: value for key, value in os.environ.items() if key not in _GLIBC_VARIABLES}
    command = [sys.executable, "-c", _REUSED.format(numbers=numbers)]
    done = subprocess.run(command, env=inherited | environment, capture_output=True, text=True, check=True, timeout=60)
    return tuple(map(int, done.stdout.split()))


def test_freed_memory_is_kept():
    """By default glibc maps 48 MiB each time, and returns them when they are freed."""
    command = [sys.executable, "-c", _MALLOC]
    inherited = {key: value for key, value in os.environ.items() if key not in _GLIBC_VARIABLES}
    done = subprocess.run(command, env=inherited, capture_output=True, text=True, check=True, timeout=60)
    default, kept = map(int, done.stdout.split())
    assert default >= 24
    assert kept == 0


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
        return int(parameter != _M_MMAP_THRESHOLD or value <= 2**25)

    monkeypatch.setattr(process_setup.ctypes, "CDLL", lambda _: type("Libc", (), {"mallopt": staticmethod(mallopt)}))
    for name in _GLIBC_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    assert process_setup.keep_freed_memory()
    assert asked[-2:] == [(_M_MMAP_THRESHOLD, 2**25), (_M_TRIM_THRESHOLD, 2**30)]
