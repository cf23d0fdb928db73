"""The fast selective scans equal the slow, obvious one in values and gradients."""

import threading

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from memamba_core.model.scan import chunked as scan_chunked
from memamba_core.model.scan import selective_scan

FAST = ("chunked", "cpu")  # in float32; `cpu` leaves float64 to `chunked`. Those for GPUs have tests of their own
TOLERANCE = {torch.float64: {"rtol": 1e-10, "atol": 1e-11}, torch.float32: {"rtol": 2e-4, "atol": 2e-5}}


def arguments(batch, channels, states, length, dtype=torch.float64, seed=0):
    """Draw all arguments of a scan, with gradients required."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    tensors = {
        "u": draw(batch, channels, length),
        "delta": draw(batch, channels, length),
        "A": -draw(channels, states).exp(),
        "B": draw(batch, states, length),
        "C": draw(batch, states, length),
        "D": draw(channels),
        "z": draw(batch, channels, length),
        "delta_bias": draw(channels),
    }
    return {name: tensor.to(dtype).requires_grad_() for name, tensor in tensors.items()}


def run(tensors, backend, **options):
    """Return the output, and the gradient of a fixed weighting of it at every argument."""
    y = selective_scan(**tensors, **options, backend=backend)
    weights = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y)
    return {
        "y": y,
        **dict(zip(tensors, torch.autograd.grad((y * weights).sum(), tensors.values()), strict=True)),
    }


def assert_alike(got, wanted, **tolerance):
    for name, value in wanted.items():
        scale = max(1.0, value.abs().max().item())
        torch.testing.assert_close(got[name] / scale, value / scale, **tolerance, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize(
    ("backend", "dtype"), [("chunked", torch.float64), ("chunked", torch.float32), ("cpu", torch.float32)]
)
@pytest.mark.parametrize("length", [1, 2, 7, 513])
def test_equals_the_reference(backend, dtype, length, monkeypatch):
    monkeypatch.setattr(scan_chunked, "SEGMENT_ELEMENTS", 2000)  # many segments, the last one shorter
    tensors = arguments(2, 5, 3, length, dtype)
    assert_alike(
        run(tensors, backend, delta_softplus=True),
        run(tensors, "reference", delta_softplus=True),
        **TOLERANCE[dtype],
    )


def test_the_reference_is_the_recurrence():
    u, delta, A, B, C, D, z, bias = (t.detach() for t in arguments(1, 2, 3, 4).values())
    y = selective_scan(u, delta, A, B, C, D, z, bias, True, backend="reference")
    for e in range(2):
        state = [0.0, 0.0, 0.0]
        for t in range(4):
            dt = F.softplus(delta[0, e, t] + bias[e])
            state = [torch.exp(dt * A[e, n]) * state[n] + dt * B[0, n, t] * u[0, e, t] for n in range(3)]
            bare = sum(C[0, n, t] * state[n] for n in range(3)) + D[e] * u[0, e, t]
            torch.testing.assert_close(y[0, e, t], bare * z[0, e, t] * torch.sigmoid(z[0, e, t]))


@settings(max_examples=15)
@given(
    sizes=st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(1, 3), st.integers(1, 9)),
    optional=st.sets(st.sampled_from(["D", "z", "delta_bias"])),
    softplus=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_every_optional_argument(sizes, optional, softplus, seed):
    tensors = {
        name: tensor
        for name, tensor in arguments(*sizes, seed=seed).items()
        if name not in {"D", "z", "delta_bias"} or name in optional
    }
    assert_alike(
        run(tensors, "chunked", delta_softplus=softplus),
        run(tensors, "reference", delta_softplus=softplus),
        **TOLERANCE[torch.float64],
    )


@pytest.mark.parametrize("backend", ["reference", "chunked"])
def test_gradcheck(backend, monkeypatch):
    monkeypatch.setattr(scan_chunked, "SEGMENT_ELEMENTS", 12)  # two steps a segment
    assert torch.autograd.gradcheck(
        lambda *tensors: selective_scan(*tensors, True, backend=backend),
        tuple(arguments(1, 2, 3, 5).values()),
    )


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize(("rate", "step"), [(-1e-12, 1.0), (-1e4, 50.0), (-1.0, 1e4), (-1e-6, 1e5), (-5.0, 1e-9)])
def test_stays_finite_and_right_at_extremes(backend, rate, step, monkeypatch):
    """States that never decay, that decay at once, and step sizes far outside of those in training."""
    monkeypatch.setattr(scan_chunked, "SEGMENT_ELEMENTS", 256)
    tensors = arguments(2, 3, 4, 50, torch.float32)
    tensors["A"] = torch.full((3, 4), rate).requires_grad_()
    tensors["delta"] = torch.full((2, 3, 50), step).requires_grad_()
    del tensors["delta_bias"]
    got = run(tensors, backend)
    assert all(value.isfinite().all() for value in got.values())
    wanted = run({name: t.detach().double().requires_grad_() for name, t in tensors.items()}, "reference")
    assert_alike({k: v.double() for k, v in got.items()}, wanted, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("backend", FAST)
def test_long_sequence_forgets_but_does_not_overflow(backend):
    length = 20_000
    ones = torch.ones(1, 4, length)
    y = selective_scan(ones, 0.1 * ones, torch.full((4, 2), -1.0), ones[:, :2], ones[:, :2], backend=backend)
    limit = 2 * 0.1 / (1 - torch.exp(torch.tensor(-0.1)))  # geometric series, two states
    torch.testing.assert_close(y[0, :, -1], limit.expand(4))


@pytest.mark.parametrize("backend", FAST)
def test_computes_in_float32_under_autocast(backend):
    tensors = arguments(2, 3, 4, 6, torch.float32)
    plain = run(tensors, backend, delta_softplus=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = run(tensors, backend, delta_softplus=True)
    assert_alike(mixed, plain, rtol=0, atol=0)
    low = selective_scan(**{k: v.bfloat16() if k in "uz" else v for k, v in tensors.items()}, backend=backend)
    assert low.dtype == torch.bfloat16


@pytest.mark.parametrize("backend", FAST)
def test_two_passes_at_a_time(backend, monkeypatch):
    """Work memory is shared between calls, but not between a pass and the next, nor between threads."""
    monkeypatch.setattr(scan_chunked, "_scratch", threading.local())  # not the memory of earlier tests
    one, two = (arguments(2, 3, 4, 8, torch.float32, seed) for seed in (1, 2))
    wanted = [run(tensors, backend)["A"] for tensors in (one, two)]
    with torch.inference_mode():
        selective_scan(**{k: v.detach() for k, v in arguments(9, 8, 7, 6, torch.float32).items()}, backend=backend)
    first, second = (selective_scan(**tensors, backend=backend) for tensors in (one, two))
    weights = torch.linspace(-1, 1, first.numel(), dtype=first.dtype).view_as(first)
    got = [torch.autograd.grad((y * weights).sum(), t["A"])[0] for y, t in ((first, one), (second, two))]
    assert all(torch.equal(a, b) for a, b in zip(got, wanted, strict=True))

    found = {}
    threads = [threading.Thread(target=lambda i=i: found.update({i: run(one, backend)["A"]})) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 3
    assert all(torch.equal(value, wanted[0]) for value in found.values())


def test_memory_of_a_long_scan_is_not_length_times_state(monkeypatch):
    """Kept between the passes are the inputs, and one state per segment."""
    monkeypatch.setattr(scan_chunked, "SEGMENT_ELEMENTS", 64 * 8)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        tensors = arguments(1, 4, 2, 1024, torch.float32)
        selective_scan(tensors["u"], tensors["delta"], tensors["A"], tensors["B"], tensors["C"], backend="chunked")
    assert sum(kept) <= 2 * 4 * 1024 + 2 * 2 * 1024 + 8 + 16 * 8
