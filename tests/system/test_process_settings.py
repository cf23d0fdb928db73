"""What torch and libgomp read once is set before: by every package of the project, whatever is imported first."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

_ROOT = Path(__file__).resolve().parents[2]
_SET = ("GOMP_SPINCOUNT", "THP_MEM_ALLOC_ENABLE")
_WITHOUT_TORCH = """
import importlib.abc, os, sys

class AtTorch(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            print(*(os.environ.get(key) for key in {keys}))
            sys.stdout.flush()
            os._exit(0)

sys.meta_path.insert(0, AtTorch())
import {module}
import torch
"""
_HUGE_PAGES = """
import memamba_core, torch

def huge():
    lines = open("/proc/self/smaps_rollup").read().splitlines()
    return int(next(line for line in lines if line.startswith("AnonHugePages")).split()[1])

before = huge()
kept = torch.ones(2**24)
print(huge() - before)
"""


def _run(program: str, **environment: str) -> str:
    inherited = {key: value for key, value in os.environ.items() if key not in (*_SET, "OMP_WAIT_POLICY")}
    command = [sys.executable, "-c", program]
    done = subprocess.run(
        command, env=inherited | environment, cwd=_ROOT, capture_output=True, text=True, check=True, timeout=60
    )
    return done.stdout.strip()


@pytest.mark.parametrize("package", ["memamba_core", "client", "server", "simulation"])
def test_settings_are_made_before_torch_is_imported(package):
    """Whatever of a package is imported, the package itself comes first."""
    assert _run(_WITHOUT_TORCH.format(keys=_SET, module=package)) == "2000 1"


@pytest.mark.parametrize(
    ("chosen", "found"),
    [
        ({"GOMP_SPINCOUNT": "5", "THP_MEM_ALLOC_ENABLE": "0"}, "5 0"),
        ({"OMP_WAIT_POLICY": "active"}, "None 1"),
    ],
)
def test_what_a_person_has_set_stays(chosen, found):
    assert _run(_WITHOUT_TORCH.format(keys=_SET, module="client"), **chosen) == found


@pytest.mark.ci_slow
def test_large_tensors_lie_in_huge_pages():
    choice = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    if not choice.is_file() or "[never]" in choice.read_text(encoding="ascii"):
        pytest.skip("this system has no huge pages to hand out")
    if "[always]" in choice.read_text(encoding="ascii"):
        pytest.skip("this system uses huge pages unasked")
    assert int(_run(_HUGE_PAGES)) > 2**15  # half of the tensor's 64 MiB, in KiB
