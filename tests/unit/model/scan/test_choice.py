"""Choice of the scan by device and installed packages; the error for a missing backend says what to install."""

import itertools
import logging
import sys
from types import ModuleType
from typing import get_args

import pytest
import torch

from memamba_core.config.model import ModelConfig
from memamba_core.errors import ConfigError, MissingBackendError
from memamba_core.model import scan
from memamba_core.model.scan import SCAN_BACKENDS, choose_backend
from memamba_core.model.scan import mamba_ssm as scan_mamba_ssm
from memamba_core.model.scan.reference import reference_scan
from memamba_core.model.scan.triton import scan as scan_triton


class OnGpu(torch.Tensor):
    """Stand-in for a tensor on a GPU."""

    @property
    def device(self):
        return torch.device("cuda", 0)


GPU = torch.zeros(1).as_subclass(OnGpu)


@pytest.fixture
def installed(monkeypatch):
    """Return a function that sets which backends for a GPU are installed."""

    def say(*names):
        for name in ("triton", "mamba_ssm"):
            reason = None if name in names else f"no {name} here; pip install {name}"
            monkeypatch.setattr(scan, f"{name}_is_missing", lambda reason=reason: reason)

    scan._warn_once_of_slow_scan.cache_clear()
    return say


def test_every_name_of_the_settings_is_known():
    names = get_args(ModelConfig.model_fields["scan_backend"].annotation)
    assert sorted(names) == sorted({"auto", "cuda", *SCAN_BACKENDS})


@pytest.mark.parametrize(
    ("there", "chosen"),
    [(("triton", "mamba_ssm"), "mamba_ssm"), (("mamba_ssm",), "mamba_ssm"), (("triton",), "triton")],
)
@pytest.mark.parametrize("name", ["auto", "cuda"])
def test_the_fastest_on_a_gpu(installed, there, chosen, name, caplog):
    installed(*there)
    assert choose_backend(name, GPU) == chosen
    assert not caplog.records


def test_nothing_for_a_gpu_is_said_once(installed, caplog):
    installed()
    with caplog.at_level(logging.WARNING, "memamba_core"):
        assert choose_backend("auto", GPU) == choose_backend("auto", GPU) == "chunked"
    (record,) = caplog.records
    assert "pip install triton" in record.getMessage()
    assert "pip install mamba_ssm" in record.getMessage()


@pytest.mark.parametrize("name", ["cuda", "triton", "mamba_ssm"])
def test_asked_for_and_not_there(installed, name):
    installed()
    wanted = "pip install (triton|mamba_ssm)" if name == "cuda" else f"pip install {name}"
    with pytest.raises(MissingBackendError, match=f"^scan_backend is '{name}', but no .*{wanted}"):
        choose_backend(name, GPU)


def test_float64_and_other_devices(installed):
    installed("triton", "mamba_ssm")
    assert choose_backend("auto", GPU.double()) == "chunked"
    for name, like in itertools.product(
        ("cuda", "triton", "mamba_ssm"), (None, torch.zeros(1), torch.zeros(1, device="meta"))
    ):
        with pytest.raises(ConfigError, match=f"^scan_backend is '{name}' .*; expected them on cuda"):
            choose_backend(name, like)
    with pytest.raises(ConfigError, match=r"^scan_backend is 'cpu' and the tensors are on cuda; expected them on cpu"):
        choose_backend("cpu", GPU)
    assert choose_backend("chunked", GPU) == "chunked"


# ------------------------------------------------------------------------------------- requirements of triton


@pytest.fixture
def triton(monkeypatch):
    """Install a stand-in for triton, with a compiler; each test removes a requirement."""
    module = ModuleType("triton")
    module.__version__ = "3.7.1"
    monkeypatch.setitem(sys.modules, "triton", module)
    monkeypatch.setattr(scan_triton.shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.delenv("CC", raising=False)
    scan_triton.triton_is_missing.cache_clear()
    yield module
    scan_triton.triton_is_missing.cache_clear()


def test_triton_with_all_requirements(triton, monkeypatch):
    monkeypatch.setattr(scan_triton.Path, "is_file", lambda path: True)
    assert scan_triton.triton_is_missing() is None


def test_no_triton(triton, monkeypatch):
    monkeypatch.setitem(sys.modules, "triton", None)
    assert "pip install triton" in scan_triton.triton_is_missing()


def test_an_old_triton(triton):
    triton.__version__ = "3.2.0"
    assert "triton is 3.2.0; expected 3.4 or newer" in scan_triton.triton_is_missing()


def test_no_compiler(triton, monkeypatch):
    monkeypatch.setattr(scan_triton.shutil, "which", lambda name: None)
    assert "apt install gcc" in scan_triton.triton_is_missing()
    scan_triton.triton_is_missing.cache_clear()
    monkeypatch.setenv("CC", "/opt/cc")
    monkeypatch.setattr(scan_triton.Path, "is_file", lambda path: True)
    assert scan_triton.triton_is_missing() is None


def test_no_headers(triton, monkeypatch):
    monkeypatch.setattr(scan_triton.Path, "is_file", lambda path: path.name != "Python.h")
    assert "apt install python3-dev" in scan_triton.triton_is_missing()


# --------------------------------------------------------------------------------------------------- mamba-ssm


@pytest.fixture
def mamba_ssm(monkeypatch):
    """Install a stand-in for the package with the names that this project uses; its scan is the reference."""
    interface = ModuleType("mamba_ssm.ops.selective_scan_interface")
    interface.selective_scan_fn = lambda u, delta, A, B, C, D=None, z=None, delta_bias=None, delta_softplus=False: (
        reference_scan(u, delta, A, B, C, D, z, delta_bias, delta_softplus)
    )
    for name in ("mamba_ssm", "mamba_ssm.ops", "selective_scan_cuda"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, interface.__name__, interface)
    for cached in (scan_mamba_ssm.mamba_ssm_is_missing, scan_mamba_ssm.load_scan):
        cached.cache_clear()
    yield
    for cached in (scan_mamba_ssm.mamba_ssm_is_missing, scan_mamba_ssm.load_scan):
        cached.cache_clear()


def arguments():
    generator = torch.Generator().manual_seed(0)
    shapes = [(2, 3, 5), (2, 3, 5), (3, 4), (2, 4, 5), (2, 4, 5), (3,), (2, 3, 5), (3,)]
    u, delta, A, *others = (torch.randn(shape, generator=generator) for shape in shapes)
    return [u, delta, -A.exp(), *others]


def test_mamba_ssm_is_given_the_arguments_in_its_order(mamba_ssm):
    assert scan_mamba_ssm.mamba_ssm_is_missing() is None
    y = scan_mamba_ssm.mamba_ssm_scan(*(tensor.as_subclass(OnGpu) for tensor in arguments()), True)
    torch.testing.assert_close(y.as_subclass(torch.Tensor), reference_scan(*arguments(), True))


def test_mamba_ssm_without_its_compiled_code(mamba_ssm, monkeypatch):
    monkeypatch.setitem(sys.modules, "selective_scan_cuda", None)
    assert "pip install --no-build-isolation 'memamba-federated[cuda]'" in scan_mamba_ssm.mamba_ssm_is_missing()
