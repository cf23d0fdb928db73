"""The triton kernels equal the reference, in triton's interpreter: on any machine, for small shapes."""

import importlib.util
import subprocess
import sys

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from memamba_core.model.scan import triton as kernels
from memamba_core.model.scan.reference import reference_scan
from memamba_core.model.scan.triton import scan as scan_triton
from memamba_core.model.scan.triton.scan import triton_scan

if importlib.util.find_spec("triton") is None:
    pytest.skip("triton is not here (it has no wheels for this platform)", allow_module_level=True)


_OURS = ("rows", "forward", "backward")


def _modules():
    """Return triton's modules, and those of this project that use it. Its compiled part can be loaded only once."""
    names = ("triton", *(f"{kernels.__name__}.{name}" for name in _OURS))
    return [n for n in sys.modules if f"{n}.".startswith(tuple(f"{m}." for m in names)) and "._C" not in n]


@pytest.fixture(scope="module", autouse=True)
def _interpreted():
    """Switch triton to its interpreter, and kernels to small tiles because each operation is slow; undo both after."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_INTERPRET", "1")
        for name in _modules():
            patch.delitem(sys.modules, name)
        for name in _OURS:
            patch.delattr(kernels, name, raising=False)
        patch.setattr(scan_triton, "STEPS", 2)
        patch.setattr(scan_triton, "CHANNELS", 8)
        patch.setattr(scan_triton, "GROUP", 2)
        scan_triton.load_kernels.cache_clear()
        yield
        for name in _OURS:
            vars(kernels).pop(name, None)
        for name in _modules():
            del sys.modules[name]
    scan_triton.load_kernels.cache_clear()


def arguments(batch, channels, states, length, seed=0):
    """Draw arguments as in a trained block, with steps between 0.001 and 3."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=generator)

    tensors = {
        "u": draw(batch, channels, length),
        "delta": draw(batch, channels, length) - 2,
        "A": -draw(channels, states).exp().clamp(0.1, 16),
        "B": draw(batch, states, length),
        "C": draw(batch, states, length),
        "D": draw(channels),
        "z": draw(batch, channels, length),
        "delta_bias": draw(channels),
    }
    return {name: tensor.requires_grad_() for name, tensor in tensors.items()}


def run(scan, tensors, softplus=True):
    """Return the output, and the gradient of a fixed, uneven weighting of it at every argument."""
    y = scan(*(tensors.get(name) for name in arguments(1, 1, 1, 1)), softplus)
    weights = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(y.dtype)
    gradients = torch.autograd.grad((y * weights).sum(), tensors.values())
    return {"y": y.detach(), **dict(zip(tensors, gradients, strict=True))}


def assert_near(tensors, softplus=True, bound=2e-6):
    wide = {name: tensor.detach().double().requires_grad_() for name, tensor in tensors.items()}
    got, wanted = run(triton_scan, tensors, softplus), run(reference_scan, wide, softplus)
    for name, value in wanted.items():
        assert got[name].shape == value.shape
        scale = max(1.0, value.abs().max().item())
        assert (got[name] - value).abs().max().item() / scale < bound, name


@pytest.mark.parametrize(
    ("batch", "channels", "states", "length"),
    [
        pytest.param(1, 1, 1, 1, marks=pytest.mark.ci_slow),  # less than a tile
        pytest.param(2, 8, 2, 2, marks=pytest.mark.ci_slow),  # a tile
        (1, 5, 3, 9),  # tiles that are not full, in both directions
        pytest.param(2, 9, 2, 8, marks=pytest.mark.ci_slow),  # whole groups of chunks
        pytest.param(2, 9, 1, 13, marks=pytest.mark.ci_slow),  # and one that is not
    ],
)
def test_equals_the_reference(batch, channels, states, length):
    assert_near(arguments(batch, channels, states, length))


@pytest.mark.ci_slow
@settings(max_examples=5, suppress_health_check=[HealthCheck.too_slow])
@given(
    sizes=st.tuples(st.integers(1, 2), st.integers(1, 5), st.integers(1, 2), st.integers(1, 6)),
    absent=st.sets(st.sampled_from(["D", "z", "delta_bias"])),
    softplus=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_every_shape_and_optional_argument(sizes, absent, softplus, seed):
    tensors = {name: tensor for name, tensor in arguments(*sizes, seed=seed).items() if name not in absent}
    if not softplus:  # a negative step makes states grow
        for name in {"delta", "delta_bias"} & tensors.keys():
            tensors[name] = tensors[name].detach().abs().mul(0.1).requires_grad_()
    assert_near(tensors, softplus)


@pytest.mark.ci_slow
def test_extreme_steps_and_rates():
    """One channel each: softplus from 0 to its linear range, states that never decay and states that decay at once."""
    steps, rates = torch.tensor([-200.0, -20.0, 0.0, 20.0, 1e4]), torch.tensor([0.0, -1e-12, -1.0, -1e4])
    pairs = torch.cartesian_prod(steps, rates)[::2]
    tensors = arguments(1, len(pairs), 1, 5)
    tensors["delta"] = pairs[:, :1].repeat(1, 5)[None].requires_grad_()
    tensors["A"] = pairs[:, 1:].clone().requires_grad_()
    assert all(value.isfinite().all() for value in run(triton_scan, tensors).values())
    assert_near(tensors, bound=1e-5)


@pytest.mark.ci_slow
def test_steps_past_the_end_stay_out_of_it():
    """These steps have a bias and no input; if states grow, 0 times infinity would be the result."""
    tensors = arguments(1, 2, 1, 5)
    with torch.no_grad():
        tensors["delta_bias"].fill_(100.0)
        tensors["delta"] -= 100.0
        tensors["A"].fill_(1.0)
    assert all(value.isfinite().all() for value in run(triton_scan, tensors).values())
    assert_near(tensors, bound=1e-5)


@pytest.mark.ci_slow
def test_layout_of_the_inputs_changes_nothing():
    tensors = arguments(2, 3, 2, 5)
    wanted = run(triton_scan, tensors)
    sequences = ("u", "delta", "z", "B", "C")
    wide = {n: torch.stack([t.detach(), t.detach()], -1)[..., 0].requires_grad_() for n, t in tensors.items()}
    views = {  # as in the block: contiguous channels, halves of a wider tensor
        n: torch.cat([t.detach().transpose(1, 2)] * 2, 2)[..., : t.shape[1]].transpose(1, 2) if n in sequences else t
        for n, t in wide.items()
    }
    for other in (wide, {n: t.detach().requires_grad_() for n, t in views.items()}):
        got = run(triton_scan, other)
        assert all(torch.equal(got[name], value) for name, value in wanted.items())


@pytest.mark.parametrize("step", [3, 6])
def test_nan_stays_where_it_is_and_behind(step):
    tensors = arguments(1, 2, 1, 7)
    with torch.no_grad():
        tensors["u"][0, 1, step] = torch.nan
    got, wanted = (run(scan, tensors) for scan in (triton_scan, reference_scan))
    assert got["y"].isnan().any()
    for name, value in wanted.items():
        assert torch.equal(got[name].isnan(), value.isnan()), name


@pytest.mark.ci_slow
def test_without_gradients_and_with_them_twice():
    tensors = arguments(1, 3, 1, 6)
    y = triton_scan(*tensors.values(), True)
    with torch.no_grad():
        assert torch.equal(triton_scan(*tensors.values(), True), y)
    first, second = (torch.autograd.grad(y.square().sum(), tensors["A"], retain_graph=True)[0] for _ in range(2))
    assert torch.equal(first, second)
    (gradient,) = torch.autograd.grad(y.square().sum(), tensors["u"], create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


def test_what_is_kept_is_not_length_times_state():
    """Kept between the passes are the inputs, and for each chunk a state and a sum of steps."""
    tensors, kept = arguments(1, 4, 3, 8), []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        triton_scan(*tensors.values(), True)
    chunks = 8 // scan_triton.STEPS
    assert sum(kept) == sum(t.numel() for t in tensors.values()) + chunks * (4 * 3 + 4)


def test_float64_goes_to_another_backend():
    wide = {name: tensor.detach().double() for name, tensor in arguments(1, 3, 2, 5).items()}
    torch.testing.assert_close(triton_scan(*wide.values(), True), reference_scan(*wide.values(), True))


_COMPILE = """
import re, sys
from triton import compile
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from memamba_core.model.scan.triton import scan as scan_triton

fixed = {"SOFTPLUS": True, "REVERSE": True, "STEPS": scan_triton.STEPS, "CHANNELS": scan_triton.CHANNELS}
fixed |= {"GROUP": scan_triton.GROUP, "E": 512, "N": 16, "B_l": 48, "C_l": 48, "z_l": 1024}
for name, kernel in scan_triton.load_kernels()._asdict().items():
    signature, constants = {}, {}
    for place, argument in enumerate(kernel.arg_names):
        if argument in fixed or argument.endswith("_l"):
            signature[argument], constants[(place,)] = "constexpr", fixed.get(argument, 512)
        else:
            signature[argument] = "i32" if argument in ("L", "chunks") or argument.endswith("_b") else "*fp32"
    target = GPUTarget("cuda", int(sys.argv[1]), 32)
    options = {"num_warps": 1, "maxnreg": scan_triton.REGISTERS if name == "gradients" else None}
    code = compile(ASTSource(kernel, signature, constants), target, options=options)
    # A lane is a channel. Lanes exchange what all channels of a step share, B and C, and the sums of their gradients,
    # each of which halves the remaining work: STEPS - 1 exchanges, then one per doubling of the lanes.
    exchanges = scan_triton.STEPS - 1 + (scan_triton.CHANNELS // scan_triton.STEPS).bit_length() - 1
    wanted = {"carry_over": 0, "outputs": 2 * scan_triton.STEPS, "gradients": 2 * (scan_triton.STEPS + exchanges)}
    shuffles = len(re.findall("shfl", code.asm["ptx"]))
    assert shuffles == wanted.get(name, scan_triton.STEPS), (name, shuffles)
    assert code.metadata.shared == 0, name
    print(name, len(code.asm["cubin"]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("capability", [75, 90])
def test_compiles_without_a_gpu(capability, tmp_path, monkeypatch):
    """Compile for Turing and Hopper, without spilled registers; compiler and assembler come with triton."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    monkeypatch.delenv("TRITON_INTERPRET")
    command = [sys.executable, "-c", _COMPILE, str(capability)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert len(done.stdout.splitlines()) == 5
