"""Process settings: every command makes them before torch is imported, and importing the packages makes none."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

_ROOT = Path(__file__).resolve().parents[2]
_SET = ("GOMP_SPINCOUNT", "THP_MEM_ALLOC_ENABLE")
_AT_TORCH = """
import importlib.abc, os, sys

class AtTorch(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            print(*(os.environ.get(key) for key in {keys}))
            sys.stdout.flush()
            os._exit(0)

sys.meta_path.insert(0, AtTorch())
"""
_COMMAND = (
    _AT_TORCH
    + """
sys.argv = [{package!r}, "--help"]
from {package}.__main__ import main
try:
    main()
except SystemExit:
    pass
import torch
"""
)
_LIBRARY = (
    _AT_TORCH
    + """
from memamba_core.io.process_setup import set_up_process
set_up_process()
import torch
"""
)
_IMPORTS = """
import ctypes, os, resource
before = dict(os.environ)
import memamba_core, client.app, server.app, simulation, simulation.run
import torch
from memamba_core.model.scan.cpu.loading import load_kernels

threads = torch.get_num_threads()
load_kernels()
x = torch.ones(1, 2, 40)
from memamba_core.model.scan import selective_scan
selective_scan(x, x, -torch.ones(2, 2), x, x, backend="cpu")
before["GRPC_VERBOSITY"] = os.environ["GRPC_VERBOSITY"]  # Flower's own, set at its import
made = {key: value for key, value in os.environ.items() if before.get(key) != value}
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
libc.memset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
faults = []
for _ in range(4):
    count = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    memory = libc.malloc(48 * 2**20)
    libc.memset(memory, 1, 48 * 2**20)
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - count)
    libc.free(memory)
print(made, torch.get_num_threads() == threads, min(faults))
"""
_HUGE_PAGES = """
from memamba_core.io.process_setup import set_up_process
set_up_process()
import torch

def huge():
    lines = open("/proc/self/smaps_rollup").read().splitlines()
    return int(next(line for line in lines if line.startswith("AnonHugePages")).split()[1])

before = huge()
kept = torch.ones(2**24)
print(huge() - before)
"""
_WORKER = """
import os, sys
from pathlib import Path
from simulation.grid import build

called = []
build.set_up_process = lambda: called.append(True)
build.torch.set_num_threads = lambda count: (print(called, count), sys.stdout.flush(), os._exit(0))
build.build_worker_app({}, Path())
"""


def _run(program: str, **environment: str) -> str:
    inherited = {key: value for key, value in os.environ.items() if key not in (*_SET, "OMP_WAIT_POLICY")}
    command = [sys.executable, "-c", program]
    done = subprocess.run(
        command, env=inherited | environment, cwd=_ROOT, capture_output=True, text=True, check=True, timeout=60
    )
    return done.stdout.strip().splitlines()[-1]


@pytest.mark.parametrize("package", ["client", "server", "simulation"])
def test_commands_make_settings_before_torch_is_imported(package):
    assert _run(_COMMAND.format(keys=_SET, package=package)) == "2000 1"


def test_a_library_user_can_make_them_before_torch_is_imported():
    """Neither `memamba_core` nor the module of the set-up imports torch."""
    assert _run(_LIBRARY.format(keys=_SET)) == "2000 1"


@pytest.mark.ci_slow
def test_worker_processes_make_them():
    assert _run(_WORKER) == "[True] 1"


@pytest.mark.parametrize(
    ("chosen", "found"),
    [
        ({"GOMP_SPINCOUNT": "5", "THP_MEM_ALLOC_ENABLE": "0"}, "5 0"),
        ({"OMP_WAIT_POLICY": "active"}, "None 1"),
    ],
)
def test_what_a_person_has_set_stays(chosen, found):
    assert _run(_COMMAND.format(keys=_SET, package="client"), **chosen) == found


@pytest.mark.ci_slow
def test_imports_and_scans_change_nothing_of_the_process():
    """No environment variable, no thread setting; freed 48 MiB go back to the system, as by default."""
    made, threads, faults = _run(_IMPORTS).rsplit(" ", 2)
    assert made == "{}"
    assert threads == "True"
    assert int(faults) >= 24


@pytest.mark.ci_slow
def test_large_tensors_lie_in_huge_pages():
    choice = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    if not choice.is_file() or "[never]" in choice.read_text(encoding="ascii"):
        pytest.skip("this system has no huge pages to hand out")
    if "[always]" in choice.read_text(encoding="ascii"):
        pytest.skip("this system uses huge pages by default")
    assert int(_run(_HUGE_PAGES)) > 2**15  # half of the tensor's 64 MiB, in KiB
