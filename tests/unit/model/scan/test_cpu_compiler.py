"""Kernels are cached on the disk if possible, compiled again if not, and match the processor."""

import os
import platform
import subprocess
import sys

import pytest

pytest.importorskip("numba")

_DOUBLE = """
from typing import no_type_check
from memamba_core.model.scan.cpu.compiler import ROW, kernel

@kernel
@no_type_check
def double(values: ROW):
    for i in range(len(values)):
        values[i] *= 2
"""

_CALL = """
import sys
sys.path.insert(0, sys.argv[1])
import numpy as np
from double import double
values = np.ones(2, np.float32)
double(values)
print(values.tolist(), sum(double.stats.cache_hits.values()))
"""


def run(script, *arguments, **environment):
    """Run a program in a new process with its own cache folders, and return what it prints."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("NUMBA", "XDG"))}
    done = subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)],
        env=inherited | {"PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"} | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture
def module(tmp_path):
    """Make the folder of a module with a kernel."""
    (tmp_path / "double.py").write_text(_DOUBLE, encoding="utf-8")
    return tmp_path


@pytest.mark.ci_slow
def test_the_next_process_takes_the_code_from_the_disk(module):
    cache = module / "cache"
    assert run(_CALL, module, NUMBA_CACHE_DIR=str(cache)) == "[2.0, 2.0] 0"
    assert run(_CALL, module, NUMBA_CACHE_DIR=str(cache)) == "[2.0, 2.0] 1"
    assert list(cache.rglob("double.double_*.nbi"))


@pytest.mark.ci_slow
def test_without_a_folder_to_write_to(module):
    """Without a writable folder numba refuses to cache; kernels are then compiled and not kept."""
    no_folder = module / "__pycache__"
    no_folder.touch()  # a file in place of the folder, also of HOME: root may write anywhere
    assert run(_CALL, module, HOME=str(no_folder)) == "[2.0, 2.0] 0"


@pytest.mark.ci_slow
def test_a_folder_that_is_named_and_cannot_be_written_to(module):
    """The folder next to the source is used then."""
    no_folder = module / "file"
    no_folder.touch()
    assert run(_CALL, module, NUMBA_CACHE_DIR=str(no_folder)) == "[2.0, 2.0] 0"
    assert list((module / "__pycache__").glob("double.double_*.nbi"))


def test_a_change_in_a_helper_makes_a_new_kernel(tmp_path):
    """numba compares only the file of the kernel itself; the digest of the others is in the kernel's name."""
    from memamba_core.model.scan.cpu.compiler import digest_of_sources

    (tmp_path / "vectors.py").write_text("LANES = 16\n", encoding="utf-8")
    before = digest_of_sources(tmp_path)
    (tmp_path / "vectors.py").write_text("LANES = 8\n", encoding="utf-8")
    assert digest_of_sources(tmp_path) != before


_ACCURACY = """
import torch
from memamba_core.model.scan.cpu.kernels import conv_backward, conv_forward, scan_backward, scan_forward
from memamba_core.model.mamba import Mamba
from memamba_core.model.scan import selective_scan

torch.manual_seed(0)
block, tokens, order = Mamba(24), torch.randn(2, 70, 24), torch.stack([torch.randperm(70), torch.randperm(70)])

def gradients(block, tokens):
    tokens = tokens.clone().requires_grad_()
    return torch.autograd.grad(block(tokens, order).square().sum(), [tokens, *block.parameters()])

got, wanted = gradients(block, tokens), gradients(block.double(), tokens.double())
error = max(((a - b).norm() / b.norm()).item() for a, b in zip(got, wanted, strict=True))
kernels = (scan_forward, scan_backward, conv_forward, conv_backward)
assembly = [text for kernel in kernels for text in kernel.inspect_asm().values()]
ones = torch.ones(1, 16, 200)  # states that grow, by factors of e^150
grown = selective_scan(ones, 3 * ones, torch.full((16, 2), 50.0), ones[:, :2], ones[:, :2], backend="cpu")
right = error < 3e-6 and not grown[..., -1].isfinite().any()
print(right, any("ymm" in text for text in assembly), any("zmm" in text for text in assembly))
"""


@pytest.mark.skipif(platform.machine() != "x86_64", reason="names processors of x86-64")
@pytest.mark.parametrize(
    ("processor", "has_ymm"),
    [
        pytest.param("haswell", True, marks=pytest.mark.ci_slow),
        pytest.param("nehalem", False, marks=pytest.mark.slow),
    ],
)
def test_a_processor_without_avx512(processor, has_ymm, tmp_path):
    """Processors with AVX2 and a fused multiply-add, and with neither. Their exponential has no built-in limits."""
    found = run(_ACCURACY, NUMBA_CPU_NAME=processor, NUMBA_CPU_FEATURES="", NUMBA_CACHE_DIR=str(tmp_path))
    assert found == f"True {has_ymm} False"
