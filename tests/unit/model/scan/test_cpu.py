"""The compiled scan: accuracy against float64, and equality with any number of threads and after forks."""

import multiprocessing
import threading

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.checkpoint import checkpoint

from memamba_core.errors import ConfigError, MissingBackendError
from memamba_core.model import scan
from memamba_core.model.mamba import Mamba
from memamba_core.model.scan import choose_backend, selective_scan
from memamba_core.model.scan.cpu import passes as scan_passes_cpu
from memamba_core.model.scan.cpu import thread_pool as thread_pool

pytest.importorskip("numba")

SEQUENCES = ("u", "delta", "z", "B", "C")


def arguments(batch, channels, states, length, seed=0):
    """Draw arguments as in a trained block: steps between 0.001 and 1, rates between 0.1 and 16."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=generator)

    tensors = {
        "u": draw(batch, channels, length),
        "delta": draw(batch, channels, length) - 3,
        "A": -(1.5 * draw(channels, states)).exp().clamp(0.1, 16),
        "B": draw(batch, states, length),
        "C": draw(batch, states, length),
        "D": draw(channels),
        "z": draw(batch, channels, length),
        "delta_bias": draw(channels),
    }
    return {name: tensor.requires_grad_() for name, tensor in tensors.items()}


def run(tensors, backend="cpu", softplus=True):
    """Return the output, and the gradient of a fixed, uneven weighting of it at every argument."""
    y = selective_scan(**tensors, delta_softplus=softplus, backend=backend)
    weights = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(y.dtype)
    gradients = torch.autograd.grad((y * weights).sum(), tensors.values())
    return {"y": y.detach(), **dict(zip(tensors, gradients, strict=True))}


def in_float64(tensors):
    return {name: tensor.detach().double().requires_grad_() for name, tensor in tensors.items()}


def errors(got, wanted):
    """Return the norm of the difference relative to that of the expected value, by name."""
    return {name: ((got[name] - value).norm() / value.norm()).item() for name, value in wanted.items()}


def assert_near(tensors, softplus=True, bound=2e-6):
    got, wanted = run(tensors, softplus=softplus), run(in_float64(tensors), "reference", softplus)
    for name, value in wanted.items():
        scale = max(1.0, value.abs().max().item())
        assert (got[name] - value).abs().max().item() / scale < bound, name


# ------------------------------------------------------------------------------------------------- accuracy


@pytest.mark.ci_slow
def test_accuracy_of_a_long_sequence():
    """The chunked scan in float32 has about the same errors, the plain loop seven times that of A.

    With fewer channels a few slow states decide the error of A, which then is between 3e-7 and 6e-7 by the seed.
    """
    tensors = arguments(1, 48, 16, 16_384)
    found = errors(run(tensors), run(in_float64(tensors), "chunked"))
    bounds = dict.fromkeys(found, 5e-7)
    assert all(found[name] < bounds[name] for name in found), found


@pytest.mark.parametrize(
    ("batch", "channels", "states", "length"),
    [
        (1, 1, 1, 1),
        (2, 16, 16, 1),
        (3, 17, 16, 31),
        (2, 64, 16, 32),
        (2, 65, 5, 33),
        (1, 100, 17, 64),
        (40, 48, 16, 14),
        (2, 16, 32, 97),
    ],
)
def test_shapes_that_fill_no_tile_or_no_vector(batch, channels, states, length):
    assert_near(arguments(batch, channels, states, length))


@settings(max_examples=12)
@given(
    sizes=st.tuples(st.integers(1, 3), st.integers(1, 40), st.integers(1, 18), st.integers(1, 70)),
    absent=st.sets(st.sampled_from(["D", "z", "delta_bias"])),
    softplus=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_every_shape_and_optional_argument(sizes, absent, softplus, seed):
    tensors = {name: tensor for name, tensor in arguments(*sizes, seed=seed).items() if name not in absent}
    if not softplus:  # a negative step makes states grow without a bound
        for name in {"delta", "delta_bias"} & tensors.keys():
            tensors[name] = tensors[name].detach().abs().mul(0.1).requires_grad_()
    assert_near(tensors, softplus, bound=5e-6)


@pytest.mark.parametrize("raw_step", [-200.0, -90.0, -20.0, 0.0, 20.0, 90.0, 1e4])
@pytest.mark.parametrize("rate", [0.0, -1e-12, -1.0, -1e4])
def test_extreme_steps_and_rates(raw_step, rate):
    """Softplus from 0 to its linear range, states that never decay and states that decay at once."""
    tensors = arguments(1, 17, 3, 40)
    tensors["A"] = torch.full((17, 3), rate, requires_grad=True)
    tensors["delta"] = torch.full((1, 17, 40), raw_step, requires_grad=True)
    got = run(tensors)
    assert all(value.isfinite().all() for value in got.values())
    assert_near(tensors, bound=1e-5)


def test_growing_states_overflow_to_infinity_and_not_to_nonsense():
    tensors = arguments(1, 16, 2, 200)
    with torch.no_grad():
        tensors["A"].fill_(50.0)
        tensors["delta"].fill_(3.0)
    y = selective_scan(**tensors, delta_softplus=True, backend="cpu")
    assert not y[..., -1].isfinite().any()


@pytest.mark.parametrize("name", ["u", "delta", "A", "B", "C", "D", "z", "delta_bias"])
def test_nan_in_gives_nan_out(name):
    tensors = arguments(1, 20, 4, 50)
    with torch.no_grad():
        tensors[name].view(-1)[3] = torch.nan
    got, wanted = run(tensors), run(tensors, "reference")
    assert got["y"].isnan().any()
    assert torch.equal(got["y"].isnan(), wanted["y"].isnan())


# --------------------------------------------------------------------------------------------------- layouts


def test_layout_of_the_inputs_changes_nothing():
    tensors = arguments(2, 24, 16, 40)
    wanted = run(tensors)
    wide = {n: torch.stack([t.detach(), t.detach()], -1)[..., 0].requires_grad_() for n, t in tensors.items()}
    channels_last = {
        n: (t.detach().transpose(1, 2).contiguous().transpose(1, 2) if n in SEQUENCES else t.detach().clone())
        for n, t in tensors.items()
    }
    for other in (wide, {n: t.requires_grad_() for n, t in channels_last.items()}):
        got = run(other)
        assert all(torch.equal(got[name], value) for name, value in wanted.items())


def test_expanded_inputs_and_gradients():
    tensors = arguments(1, 16, 4, 9)
    tensors["u"] = torch.ones(1, 1, 1).expand(1, 16, 9)
    tensors["A"] = -torch.ones(1, 1).expand(16, 4)
    y, wanted = (selective_scan(**tensors, backend=backend) for backend in ("cpu", "reference"))
    torch.testing.assert_close(y, wanted)
    for a, b in zip(*(torch.autograd.grad(x.sum(), tensors["B"]) for x in (y, wanted)), strict=True):
        torch.testing.assert_close(a, b)


# ------------------------------------------------------------------------------------------- around the scan


def test_without_gradients():
    tensors = arguments(2, 24, 16, 70)
    wanted = run(tensors)["y"]
    for region in (torch.no_grad, torch.inference_mode):
        with region():
            assert torch.equal(selective_scan(**tensors, delta_softplus=True, backend="cpu"), wanted)


def test_second_derivatives_are_refused():
    tensors = arguments(1, 4, 2, 5)
    y = selective_scan(**tensors, backend="cpu")
    (gradient,) = torch.autograd.grad(y.square().sum(), tensors["u"], create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


def test_in_a_block_under_checkpointing_and_autocast():
    torch.manual_seed(0)
    block, tokens = Mamba(16, scan_backend="cpu"), torch.randn(2, 40, 16, requires_grad=True)

    def gradient(call):
        return torch.autograd.grad(call().square().sum(), tokens)[0]

    wanted = gradient(lambda: block(tokens))
    assert torch.equal(gradient(lambda: checkpoint(block, tokens, use_reentrant=False)), wanted)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(gradient(lambda: block(tokens)), wanted, rtol=0.1, atol=0.5)


def test_a_frozen_argument_gets_no_gradient():
    tensors = arguments(1, 4, 2, 5)
    tensors["A"].requires_grad_(False)
    selective_scan(**tensors, backend="cpu").sum().backward()
    assert tensors["A"].grad is None
    assert tensors["u"].grad is not None


def test_memory_between_the_passes():
    """Kept are the inputs, and N / 32 times the size of u."""
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        tensors = arguments(1, 32, 16, 4096)
        y = selective_scan(**tensors, backend="cpu")
    given_numbers = sum(tensor.numel() for tensor in tensors.values())
    assert sum(kept) <= given_numbers + y.numel() // 2


# ------------------------------------------------------------------------------------------ threads and forks


@pytest.fixture
def threads(monkeypatch):
    """Let a test set the number of threads, and run small work in threads too."""
    before = torch.get_num_threads()
    monkeypatch.setattr(thread_pool, "MIN_WORK_PER_THREAD", 1)
    yield torch.set_num_threads
    torch.set_num_threads(before)


def test_threads_change_no_bit(threads):
    tensors = arguments(3, 100, 16, 80)
    threads(1)
    wanted = run(tensors)
    for number in (2, 3, 8):
        threads(number)
        scan_passes_cpu._Plan.of.cache_clear()  # as in a process that always had this number
        got = run(tensors)
        assert all(torch.equal(got[name], value) for name, value in wanted.items())


def test_callers_at_a_time(threads):
    threads(3)
    tensors = [arguments(2, 70, 4, 50, seed=seed) for seed in range(4)]
    wanted = [run(one) for one in tensors]
    found = {}

    def call(i):
        found[i] = [run(tensors[i]) for _ in range(5)]

    callers = [threading.Thread(target=call, args=(i,)) for i in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    for i, results in found.items():
        assert all(torch.equal(got[name], wanted[i][name]) for got in results for name in got)
    assert len(found) == 4


def _put_gradient(queue, tensors, grad_y):
    """Run only the scan: torch's own threads (OpenMP) do not survive a fork, those of this project must."""
    y = selective_scan(**tensors, delta_softplus=True, backend="cpu")
    queue.put(torch.autograd.grad(y, tensors["A"], grad_y)[0].tolist())


@pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning")
def test_a_forked_child_makes_its_own_threads(threads):
    threads(2)
    context = multiprocessing.get_context("fork")
    queue, call = context.SimpleQueue(), (arguments(2, 70, 4, 50), torch.ones(2, 70, 50))
    _put_gradient(queue, *call)  # the parent has threads before the fork
    child = context.Process(target=_put_gradient, args=(queue, *call))
    child.start()
    child.join(60)
    alive = child.is_alive()
    child.kill()
    assert not alive
    assert queue.get() == queue.get()


# --------------------------------------------------------------------------------------------------- choice


def test_choice(monkeypatch):
    assert choose_backend("auto") == choose_backend("auto", torch.zeros(1)) == "cpu"
    assert choose_backend("auto", torch.zeros(1).double()) == "chunked"
    assert choose_backend("auto", torch.zeros(1, device="meta")) == "chunked"
    monkeypatch.setattr(scan, "numba_is_installed", lambda: False)
    assert choose_backend("auto") == "chunked"
    with pytest.raises(MissingBackendError, match=r"pip install 'numba>=0\.62'"):
        choose_backend("cpu")


def test_float64_is_left_to_the_chunked_scan():
    tensors = in_float64(arguments(1, 4, 2, 5))
    got, wanted = run(tensors), run(tensors, "chunked")
    assert all(torch.equal(got[name], value) for name, value in wanted.items())


def test_another_device_is_refused():
    tensors = {name: tensor.detach().to("meta") for name, tensor in arguments(1, 2, 3, 4).items()}
    with pytest.raises(ConfigError, match="the tensors are on meta"):
        selective_scan(**tensors, backend="cpu")
