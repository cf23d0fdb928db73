"""Tests that take minutes: a bag of 100,000 patches, a long run, many threads and processes at a time."""

import multiprocessing
import random
import subprocess
import sys
import threading

import pytest
import torch

from memamba_core.model.mamba import Mamba
from memamba_core.model.scan import selective_scan
from memamba_core.model.scan.cpu import thread_pool as thread_pool

pytest.importorskip("numba")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

_BAG = """
import resource
import sys
import torch
from memamba_core.config.model import ModelConfig
from memamba_core.config.training import TrainingConfig
from memamba_core.model import build_model
from memamba_core.patient import Bag, InputSpec, PatientInputs, SurvivalTarget
from memamba_core.training.trainer import training_loss

settings = ModelConfig(experts=("pathology",), d_model=256, recompute=True)
model = build_model(settings, InputSpec(num_bins=4, feature_width=1024), seed=0)
optimizer = torch.optim.AdamW(model.parameters())
patient = PatientInputs(SurvivalTarget(3.0, True, 1), Bag(torch.randn(1000, 1024).half().repeat(100, 1)))
for _ in range(2):
    optimizer.zero_grad(set_to_none=True)
    training_loss(model, [patient], TrainingConfig())[0].backward()
    optimizer.step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024))
"""

_LONG_RUN = """
import os
import random
import torch
from memamba_core.model.mamba import Mamba

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

random.seed(0)
block = Mamba(64)
most = []
for number in range(6):
    for _ in range(60):
        length = random.choice([1, 7, 100, 1000, 5000, 20000])
        block(torch.randn(1, length, 64)).square().mean().backward()
        block.zero_grad()
    block(torch.randn(1, 40000, 64)).square().mean().backward()
    most.append(resident())
print(most[0], most[-1])
"""


_SCAN = """
import torch
from memamba_core.model.scan import selective_scan

def peak():  # of this program: the peak of `getrusage` includes that of the parent process
    with open("/proc/self/status") as file:
        lines = dict(line.split(":", 1) for line in file)
    return int(lines["VmHWM"].split()[0]) * 1024

def scan(length, channels=512, states=16):
    draws = {"u": channels, "delta": channels, "z": channels, "B": states, "C": states}
    given = {name: torch.randn(1, length, width).transpose(1, 2).requires_grad_() for name, width in draws.items()}
    for name, value in {"A": -torch.ones(channels, states), "D": torch.ones(channels)}.items():
        given[name] = value.requires_grad_()
    grad_y = torch.randn(1, length, channels).transpose(1, 2)
    before = peak()
    y = selective_scan(**given, delta_softplus=True, backend="cpu")
    gradients = torch.autograd.grad(y, list(given.values()), grad_y)
    return peak() - before

scan(64)  # load code and make one-time allocations
print(scan(4096), 4096 * 512 * 4)
"""


def run(script):
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [int(word) for word in done.stdout.split()]


def test_a_bag_of_100_000_patches_within_4_gigabytes():
    """Peak of the whole process in two training steps: 1024 features, d_model 256, AdamW, the bag in float16."""
    (peak,) = run(_BAG)
    assert peak < 4 * 10**9


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_the_scan_takes_less_than_five_tensors_beside_its_arguments():
    """Included are output and gradients, which make four of them."""
    extra, tensor = run(_SCAN)
    assert 4 * tensor < extra < 5 * tensor


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_a_long_run_does_not_grow():
    """Freed memory is reused by the next allocation of any size, and does not pile up."""
    after_the_first, after_the_last = run(_LONG_RUN)
    assert after_the_last < 1.1 * after_the_first


# ------------------------------------------------------------------------------------------ threads and processes


def inputs(seed, length):
    """Draw u, delta, A, B, C of a scan, and the gradient at its output."""
    generator = torch.Generator().manual_seed(seed)
    shapes = [(2, 40, length), (2, 40, length), (40, 5), (2, 5, length), (2, 5, length), (2, 40, length)]
    u, delta, A, B, C, grad_y = (torch.randn(*shape, generator=generator) for shape in shapes)
    return u, delta, (-A.exp()).requires_grad_(), B, C, grad_y


def gradient_at_A(u, delta, A, B, C, grad_y):
    """Run only the scan, whose bits depend on the arguments alone: torch's own threads do not survive a fork."""
    y = selective_scan(u, delta, A, B, C, delta_softplus=True, backend="cpu")
    return torch.autograd.grad(y, A, grad_y)[0].tolist()


def gradient_of_seed(seed, length):
    return gradient_at_A(*inputs(seed, length))


@pytest.fixture
def three_threads(monkeypatch):
    before = torch.get_num_threads()
    monkeypatch.setattr(thread_pool, "MIN_WORK_PER_THREAD", 1)
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def test_many_callers_for_a_while(three_threads):
    jobs = [(seed, random.Random(seed).randint(1, 600)) for seed in range(40)]
    wanted = {job: gradient_of_seed(*job) for job in jobs}
    wrong, done = [], []

    def call(own):
        for job in random.Random(own).choices(jobs, k=200):
            if gradient_of_seed(*job) != wanted[job]:
                wrong.append(job)
            done.append(job)

    callers = [threading.Thread(target=call, args=(own,)) for own in range(8)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert len(done) == 8 * 200
    assert not wrong


def _answer(queue, given):
    queue.put(gradient_at_A(*given))


@pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning")
def test_forks_while_threads_work(three_threads):
    """Children are forked while the parent's thread pool is at work."""
    context, stop = multiprocessing.get_context("fork"), threading.Event()
    given, others = inputs(1, 300), inputs(2, 400)
    wanted = gradient_at_A(*given)

    def work():
        while not stop.is_set():
            gradient_at_A(*others)

    worker = threading.Thread(target=work)
    worker.start()
    try:
        for _ in range(20):
            queue = context.SimpleQueue()
            child = context.Process(target=_answer, args=(queue, given))
            child.start()
            child.join(120)
            alive = child.is_alive()
            child.kill()
            assert not alive
            assert queue.get() == wanted
    finally:
        stop.set()
        worker.join()


def _answer_of_block(queue, block, tokens_BLD):
    torch.set_num_threads(1)  # torch's own threads do not exist in a forked child, which would wait for them
    queue.put(torch.autograd.grad(block(tokens_BLD).square().sum(), block.A_log)[0].tolist())


@pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning")
def test_a_whole_block_in_a_forked_child(three_threads):
    """Projections, convolution and scan, in a child of a process that has used all its threads."""
    context, block, tokens_BLD = multiprocessing.get_context("fork"), Mamba(16), torch.randn(1, 3000, 16)
    wanted = torch.autograd.grad(block(tokens_BLD).square().sum(), block.A_log)[0]
    queue = context.SimpleQueue()
    child = context.Process(target=_answer_of_block, args=(queue, block, tokens_BLD))
    child.start()
    child.join(120)
    alive = child.is_alive()
    child.kill()
    assert not alive
    torch.testing.assert_close(torch.tensor(queue.get()), wanted, rtol=1e-5, atol=1e-6)


def test_spawned_workers():
    job = (3, 500)
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        assert pool.starmap(gradient_of_seed, [job] * 12) == [gradient_of_seed(*job)] * 12


def test_a_block_in_a_thread_that_is_not_the_first():
    """Autograd, allocation and thread pool are used from a separate thread, which ends."""
    block, tokens_BLD = Mamba(16), torch.randn(1, 3000, 16)

    def gradient():
        return torch.autograd.grad(block(tokens_BLD).square().sum(), block.A_log)[0]

    wanted, found = gradient(), []
    for _ in range(20):
        thread = threading.Thread(target=lambda: found.append(gradient()))
        thread.start()
        thread.join()
    assert len(found) == 20
    assert all(torch.equal(got, wanted) for got in found)
