"""Speed of the scans, blocks and models against the alternatives on a GPU. Prints Markdown.

    python benchmarks/gpu_speed.py [--write] [--minutes 8] [--only scan layers model cold]

With --write the tables are also written to docs/results/benchmarks_gpu.md. The program needs a CUDA device. `race.py`
describes the measurement, `contestants.py` the contestants. Packages that are not installed, and rows for which no time
is left, are left out with a reason.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from itertools import product
from pathlib import Path
from typing import TypeVar

from memamba_core.io.process_setup import set_up_process

if __name__ == "__main__":
    set_up_process()  # before torch is imported

import torch
from race import Clock, Contestant, Measured, race
from speed_page import bytes_of_tensors, megabytes, ratios, seconds, section, table

PAGE = Path(__file__).resolve().parents[1] / "docs" / "results" / "benchmarks_gpu.md"
D_MODEL = 256
LENGTHS = (1_000, 4_000, 16_000, 64_000)
_LEAST = 25.0
"""Seconds that must be left before a row of a table is begun: its kernels may have to be compiled."""
Size = TypeVar("Size")

_SCANS = ("triton", "mamba_ssm", "chunked")
_SIZES = ((1_024, 512), (4_096, 512), (16_384, 512), (65_536, 512), (200_000, 512))
_LONGEST = {"chunked": 16_384}
"""Largest L of a slow scan, which would otherwise take the time of all the others."""
_LAYERS = ("triton", "mamba_ssm", "Nystrom", "full attention")

_HEADER = """# Benchmarks on a GPU

Printed by `python benchmarks/gpu_speed.py{written}` on {date}.

* {gpu}; Python {python}, {libraries}, CUDA {cuda}
* Times are medians of whole calls, the wait for the GPU included; the contestants of a row take turns in one process.
  Memory is the peak of what torch hands out on the GPU beyond the inputs.
* Rows for which no time was left are left out.
* For processors see [benchmarks.md](benchmarks.md)."""


def header(*, written: bool) -> str:
    """Return the head of the page: machine, date, and the command to repeat the measurement."""
    libraries = []
    for name in ("torch", "triton", "mamba-ssm"):
        try:
            libraries.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            libraries.append(f"{name} not installed")
    return _HEADER.format(
        written=" --write" if written else "",
        date=f"{datetime.now(UTC):%Y-%m-%d}",
        gpu=torch.cuda.get_device_name(),
        python=".".join(map(str, sys.version_info[:3])),
        libraries=", ".join(libraries),
        cuda=torch.version.cuda,
    )


def scans(clock: Clock) -> str:
    """Measure the forward pass and both passes at growing sizes, and the memory of both passes."""
    times, memory = [], []
    for length, channels in _while_there_is_time(_SIZES, clock):
        common = {"kind": "scan", "length": length, "channels": channels, "device": "cuda"}
        names = [name for name in _SCANS if length <= _LONGEST.get(name, length)]
        wanted: list[Contestant] = [{**common, "name": n, "backward": back} for back in (False, True) for n in names]
        measured = race(wanted, threads=1, seconds=3, clock=clock)
        size, tensor = f"{length} x {channels}", 4 * length * channels
        for what, some in (("forward", measured[: len(names)]), ("both", measured[len(names) :])):
            found = dict(zip(names, some, strict=True))
            times.append([size, what, *ratios([found.get(name) for name in _SCANS])])
        peaks = [_peak(found[name]) if name in found else None for name in _SCANS]
        memory.append([size, f"{tensor / 1e6:.1f}", *(bytes_of_tensors(peak, tensor) for peak in peaks)])
    return section(
        "The scan alone",
        """
Milliseconds for one sequence in float32, 16 states, with softplus, D and gate, forward and with the backward pass
(both); in brackets the ratio to `triton`. `mamba_ssm` is that package's own CUDA code.
""",
        table(("L x E", "pass", *_SCANS), times),
        "Memory of both passes beyond the inputs, gradients included, in MB; in brackets in tensors of L x E:",
        table(("L x E", "one tensor", *_SCANS), memory),
    )


def layers(clock: Clock) -> str:
    """Measure four Mamba blocks against two layers of attention, at two precisions."""
    rows = []
    for precision, length in _while_there_is_time(tuple(product(("highest", "high"), (4_096, 16_384))), clock):
        common = {"kind": "layers", "length": length, "d_model": D_MODEL, "precision": precision, "device": "cuda"}
        wanted: list[Contestant] = [{**common, "name": name} for name in _LAYERS]
        rows.append([precision, str(length), *ratios(race(wanted, threads=1, seconds=3, clock=clock))])
    return section(
        "Four blocks against two layers of attention",
        f"""
Milliseconds of a forward and backward pass, d_model {D_MODEL}: four Mamba blocks (`triton`, `mamba_ssm`) or two layers
of attention without feed-forward ([attention_rivals.py](../../benchmarks/attention_rivals.py)); in brackets the ratio
to `triton`. Precision is that of `torch.set_float32_matmul_precision`; `high` is TF32.
""",
        table(("precision", "L", *_LAYERS), rows),
    )


def whole_model(clock: Clock) -> str:
    """Measure a training step of whole models against the length of the bag."""
    times, memory = [], []
    names = ("ME-Mamba, triton", "ME-Mamba, mamba_ssm", "Nystrom", "full attention")
    for length in _while_there_is_time(LENGTHS, clock):
        common = {"kind": "model", "length": length, "d_model": D_MODEL, "device": "cuda"}
        wanted: list[Contestant] = [{**common, "name": name} for name in names[2:]]
        wanted[:0] = [{**common, "name": "ME-Mamba", "scan_backend": backend} for backend in ("triton", "mamba_ssm")]
        measured = race(wanted, threads=1, seconds=4, clock=clock)
        times.append([f"{length:,}", *ratios(measured)])
        memory.append([f"{length:,}", *(megabytes(_peak(one)) for one in measured)])
    return section(
        "The whole model against the length of a bag",
        f"""
One training step on one patient (forward, likelihood, backward, AdamW) in float32, width {D_MODEL}, patch features of
1024. ME-Mamba has its three experts and also reads 300 genes in 6 groups; its rivals have two layers of attention
over the bag alone. Milliseconds; in brackets the ratio to ME-Mamba with this project's scan:
""",
        table(("patches", *names), times),
        "Memory beyond inputs, weights, their gradients and what the optimizer keeps, MB:",
        table(("patches", *names), memory),
    )


def _while_there_is_time(sizes: Sequence[Size], clock: Clock) -> Iterator[Size]:
    """Yield the sizes for which time is left; print the others to stderr."""
    for i, size in enumerate(sizes):
        if clock.left() < _LEAST:
            print(f"out of time before {', '.join(map(str, sizes[i:]))}", file=sys.stderr)
            return
        yield size


def _peak(measured: Measured) -> Measured:
    """Return the peak memory of a race as a figure of its own."""
    return measured if measured.peak is None else replace(measured, value=float(measured.peak))


_FIRST_STEP = """
from memamba_core.io.process_setup import set_up_process
set_up_process()
import time, torch
from memamba_core.model.mamba import Mamba
block, tokens = Mamba(256, scan_backend="triton").cuda(), torch.randn(1, 1000, 256, device="cuda")
torch.cuda.synchronize()
start = time.perf_counter()
block(tokens).sum().backward()
torch.cuda.synchronize()
print(time.perf_counter() - start)
"""


def cold_start(clock: Clock) -> str:
    """Measure the first training step of a block in a process, before and after triton's cache is filled."""
    if clock.left() < 3 * _LEAST:
        return "(No time was left for the cold start.)"
    with tempfile.TemporaryDirectory() as folder:
        first, *later = (_first_step(folder, clock) for _ in range(4))
    median = sorted(later, key=lambda one: one.value or 0)[1]
    return section(
        "Cold start",
        """
Seconds of the first forward and backward pass of a block with `triton` in a new process, after its imports and with the
GPU awake. The first process compiles the kernels; later ones (median of three) find them in triton's cache.
""",
        table(("first process", "later processes"), [[seconds(first), seconds(median)]]),
    )


def _first_step(cache: str, clock: Clock) -> Measured:
    limit = min(180.0, clock.left())
    if limit < 5:
        return Measured(None, reason="out of time")
    environment = os.environ | {"TRITON_CACHE_DIR": cache}
    try:
        done = subprocess.run(
            [sys.executable, "-c", _FIRST_STEP], env=environment, stdout=subprocess.PIPE, timeout=limit, check=True
        )
    except subprocess.TimeoutExpired:
        return Measured(None, reason=f"over {limit:.0f} s")
    except subprocess.CalledProcessError:
        return Measured(None, reason="not installed")  # the program has printed what is missing
    return Measured(float(done.stdout), 1)


SECTIONS: dict[str, Callable[[Clock], str]] = {
    "scan": scans,
    "layers": layers,
    "model": whole_model,
    "cold": cold_start,
}


def main() -> None:
    """Measure, print, and with --write write the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--write", action="store_true", help="also write docs/results/benchmarks_gpu.md")
    parser.add_argument("--minutes", type=float, default=8, help="time limit; later measurements are left out")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS), help="sections (default all)")
    arguments = parser.parse_args()
    if arguments.write and set(arguments.only) != set(SECTIONS):
        parser.error("--write is for the whole page; leave --only out")
    if not torch.cuda.is_available():
        parser.exit(1, f"torch {torch.__version__} finds no CUDA device; for a processor: make bench\n")
    clock = Clock(time.monotonic() + 60 * arguments.minutes)
    page = [header(written=arguments.write)]
    print(page[0], flush=True)
    for name in arguments.only:
        page.append(SECTIONS[name](clock))
        print(f"\n{page[-1]}", flush=True)
    if arguments.write:
        PAGE.write_text("\n\n".join(page) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
