"""Errors for wrong arguments of the scan: each names the argument, the value, and the expected one."""

import pytest
import torch

from memamba_core.errors import ConfigError
from memamba_core.model.scan import selective_scan


@pytest.fixture
def tensors():
    return {
        "u": torch.zeros(2, 3, 5),
        "delta": torch.zeros(2, 3, 5),
        "A": torch.zeros(3, 4),
        "B": torch.zeros(2, 4, 5),
        "C": torch.zeros(2, 4, 5),
        "D": torch.zeros(3),
        "z": torch.zeros(2, 3, 5),
        "delta_bias": torch.zeros(3),
    }


@pytest.mark.parametrize("name", ["delta", "B", "C", "D", "z", "delta_bias"])
def test_shape(tensors, name):
    wanted = tuple(tensors[name].shape)
    tensors[name] = torch.zeros(2, 2)
    with pytest.raises(ValueError) as error:
        selective_scan(**tensors)
    assert str(error.value).startswith(f"{name} has shape (2, 2)")
    assert str(wanted) in str(error.value)


@pytest.mark.parametrize(("name", "shape"), [("u", (3, 5)), ("u", (2, 3, 0)), ("A", (3,)), ("A", (3, 0))])
def test_shape_of_the_two_that_set_the_others(tensors, name, shape):
    tensors[name] = torch.zeros(shape)
    with pytest.raises(ValueError, match=f"^{name} has shape"):
        selective_scan(**tensors)


def test_dtype(tensors):
    tensors["C"] = tensors["C"].to(torch.complex64)
    with pytest.raises(TypeError, match=r"^C has dtype torch\.complex64; expected a real"):
        selective_scan(**tensors)


def test_device(tensors):
    tensors["B"] = tensors["B"].to("meta")
    with pytest.raises(ValueError, match=r"^B is on meta; expected cpu, the device of u"):
        selective_scan(**tensors)


def test_backend(tensors):
    with pytest.raises(ConfigError, match=r"'warp'; expected one of auto, cuda, reference, chunked"):
        selective_scan(**tensors, backend="warp")
