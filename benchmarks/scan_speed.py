"""Speed of the selective scan, blocks and models against the alternatives: time, memory, cold start. Prints Markdown.

    python benchmarks/scan_speed.py [--write] [--minutes 9.5] [--only scan block layers model cold]

With --write the tables are also written to docs/results/benchmarks.md, with a picture next to it. `race.py` describes
the measurement, `contestants.py` the contestants. Measurements that exceed this machine's time or memory are left out
with a reason.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from memamba_core.io.process_setup import set_up_process

if __name__ == "__main__":
    set_up_process()  # before torch is imported

from race import Clock, Contestant, Measured, peak_memory, products, race
from speed_page import bytes_of_tensors, draw, gigaflops, header, megabytes, ratios, seconds, section, table

PAGE = Path(__file__).resolve().parents[1] / "docs" / "results" / "benchmarks.md"
FIGURE = PAGE.with_name("benchmarks.png")
_DRAWN = FIGURE.with_suffix(".new.png")  # until the page is written
THREADS = (1, 2)
D_MODEL = 256
LENGTHS = (1_000, 4_000, 16_000, 64_000)
MODELS = ("ME-Mamba", "Nystrom", "full attention")

_SCANS = ("cpu", "chunked", "pscan", "mamba_ssm reference", "reference")
_BARE_SCAN = "pscan without these settings"
_SIZES = ((512, 512), (4096, 512), (4096, 1024), (16384, 512), (16384, 1024))
_LARGEST = {"pscan": 4096 * 1024, "reference": 512 * 512, "mamba_ssm reference": 512 * 512}
"""Largest L x E of a slow scan, which would otherwise take the time of all the others."""


def scans(clock: Clock) -> str:
    """Measure the forward pass and both passes at growing sizes, and the memory of both passes."""
    memory = []
    for length, channels in ((4096, 512), (16384, 512)):
        tensor = 4 * length * channels
        peaks = [peak_memory(_scan(name, length, channels, True), threads=1, clock=clock) for name in _SCANS[:3]]
        cells = [bytes_of_tensors(peak, tensor) for peak in peaks]
        memory.append([f"{length} x {channels}", f"{tensor / 1e6:.1f}", *cells])
    rows = []
    for threads in THREADS:
        for length, channels in _SIZES:
            names = [name for name in _SCANS if length * channels <= _LARGEST.get(name, 10**9)]
            wanted = [_scan(name, length, channels, backward) for backward in (False, True) for name in names]
            measured = race(wanted, threads=threads, seconds=5 if length < 16384 else 8, clock=clock)
            bare = [one for one in wanted if one["name"] == "pscan"]
            measured_bare = race(bare, threads=threads, seconds=3, clock=clock, bare=True) if bare else [None, None]
            for i, what in enumerate(("forward", "both")):
                found = dict(zip(names, measured[i * len(names) :], strict=False)) | {_BARE_SCAN: measured_bare[i]}
                cells = ratios([found.get(name) for name in (*_SCANS, _BARE_SCAN)])
                rows.append([str(threads), f"{length} x {channels}", what, *cells])
    return section(
        "The scan alone",
        """
Milliseconds for one sequence in float32, 16 states, with softplus, D and gate, forward and with the backward pass
(both); in brackets the ratio to `cpu`. `cpu`, `chunked` and `reference` are backends of this project, `pscan` is
mambapy's, `mamba_ssm reference` that package's own. All have this project's settings of memory and threads; the last
column is `pscan` in a process without them, as its users run it.
""",
        table(("threads", "L x E", "pass", *_SCANS, _BARE_SCAN), rows),
        "Memory of both passes beyond the inputs, gradients included, in MB; in brackets in tensors of L x E:",
        table(("L x E", "one tensor", *_SCANS[:3]), memory),
    )


def _scan(name: str, length: int, channels: int, backward: bool) -> Contestant:
    return {"kind": "scan", "name": name, "length": length, "channels": channels, "backward": backward}


def one_block(clock: Clock) -> str:
    """Measure one Mamba block, forward and backward."""
    names, rows = ("cpu", "chunked", "mambapy"), []
    for threads in THREADS:
        for length in (512, 4096):
            wanted = [{"kind": "block", "name": name, "length": length, "d_model": D_MODEL} for name in names]
            measured = race(wanted, threads=threads, seconds=5, clock=clock)
            rows.append([str(threads), str(length), *ratios(measured)])
    return section(
        "One block",
        f"""
Milliseconds of a forward and backward pass of one Mamba block, d_model {D_MODEL}; in brackets the ratio to `cpu`.
`mambapy` is the `MambaBlock` of that package.
""",
        table(("threads", "L", *names), rows),
    )


def layers(clock: Clock) -> str:
    """Measure four Mamba blocks against two layers of attention, at two precisions, and count their products."""
    names, rows = ("cpu", "Nystrom", "full attention", "chunked"), []
    common = {"kind": "layers", "length": 4096, "d_model": D_MODEL}
    multiplied = [gigaflops(products({**common, "name": name}, clock=clock)) for name in names[:3]]
    for precision in ("highest", "medium"):
        for threads in THREADS:
            wanted = [{**common, "name": name, "precision": precision} for name in names]
            measured = race(wanted, threads=threads, seconds=10, clock=clock)
            rows.append([precision, str(threads), *ratios(measured)])
    return section(
        "Four blocks against two layers of attention",
        f"""
Milliseconds of a forward and backward pass at L = 4096, d_model {D_MODEL}: four Mamba blocks (`cpu`, `chunked`) or two
layers of attention without feed-forward ([attention_rivals.py](../../benchmarks/attention_rivals.py)); in brackets
the ratio to `cpu`. Precision is that of `torch.set_float32_matmul_precision`.
""",
        table(("precision", "threads", *names), rows),
        """
Work of the products in such a pass, in GFLOP: matrix products and convolutions of torch, where a multiplication and an
addition count as two operations. Four blocks have more of it than two Nystrom layers. At `highest`, the products and
not the scan make them slower; at `medium`, products are cheap.
""",
        table(names[:3], [multiplied]),
    )


def whole_model(clock: Clock) -> str:
    """Measure a training step of whole models against the length of the bag, as tables and a picture."""
    threads = THREADS[-1]
    times: dict[str, list[Measured]] = {name: [] for name in MODELS}
    memory: dict[str, list[Measured]] = {name: [] for name in MODELS}
    for length in LENGTHS:
        racing = {}
        for name in MODELS:
            reason = _too_much(name, length, times[name], memory[name])
            if reason:
                times[name].append(Measured(None, reason=reason))
                memory[name].append(Measured(None, reason=reason))
                continue
            racing[name] = {"kind": "model", "name": name, "length": length, "d_model": D_MODEL}
            memory[name].append(peak_memory(racing[name], threads=threads, clock=clock))
        measured = race(list(racing.values()), threads=threads, seconds=5 if length <= 4_000 else 25, clock=clock)
        for name, one in zip(racing, measured, strict=True):
            times[name].append(one)
    draw(_DRAWN, LENGTHS, times, memory)
    rows = range(len(LENGTHS))
    return section(
        "The whole model against the length of a bag",
        f"""
One training step on one patient (forward, likelihood, backward, AdamW), width {D_MODEL}, patch features of 1024,
{threads} threads. ME-Mamba has its three experts and also reads 300 genes in 6 groups; its rivals have two layers of
attention over the bag alone. Milliseconds; in brackets the ratio to ME-Mamba:
""",
        table(("patches", *MODELS), [[f"{LENGTHS[i]:,}", *ratios([times[n][i] for n in MODELS])] for i in rows]),
        "Memory beyond inputs and weights, MB:",
        table(("patches", *MODELS), [[f"{LENGTHS[i]:,}", *(megabytes(memory[n][i]) for n in MODELS)] for i in rows]),
        f"![Time and memory of a training step against the length of a bag]({FIGURE.name})",
    )


def _too_much(name: str, length: int, times: Sequence[Measured], memory: Sequence[Measured]) -> str:
    """Return the reason not to run a model at that length, estimated from the length before; empty if it can run."""
    if not times:
        return ""
    before, factor = times[-1], length / LENGTHS[len(times) - 1]
    if before.value is None:
        return before.reason
    expected = before.value * factor ** (2 if name == "full attention" else 1)
    if expected > 60:
        return f"would take {expected:,.0f} s"
    needed = (memory[-1].value or 0) * factor
    return f"would need {needed / 1e9:.0f} GB" if needed > 0.8 * _free_memory() else ""


def _free_memory() -> float:
    """Return the available bytes; infinity if the system is not Linux."""
    path = Path("/proc/meminfo")
    if not path.is_file():
        return float("inf")
    lines = dict(line.split(":", 1) for line in path.read_text(encoding="utf-8").splitlines())
    return float(lines["MemAvailable"].split()[0]) * 1024


_FIRST_STEP = """
from memamba_core.io.process_setup import set_up_process
set_up_process()
import time, torch
from memamba_core.model.mamba import Mamba
block, tokens = Mamba(32), torch.randn(1, 64, 32)
start = time.perf_counter()
block(tokens).sum().backward()
print(time.perf_counter() - start)
"""
_IMPORTED_BEFORE = "import numba, scipy.linalg\n" + _FIRST_STEP


def cold_start(clock: Clock) -> str:
    """Measure the first training step of a block in a process, before and after numba's cache is filled."""
    with tempfile.TemporaryDirectory() as folder:
        first = _in_a_new_process(_FIRST_STEP, folder, clock)
        later, imported = (
            [_in_a_new_process(program, folder, clock) for _ in range(5)] for program in (_FIRST_STEP, _IMPORTED_BEFORE)
        )
    medians = (sorted(some, key=lambda one: one.value or 0)[2] for some in (later, imported))
    return section(
        "Cold start",
        """
Seconds of the first forward and backward pass of a small block in a new process, after its imports. The first process
finds no compiled code, as after an installation; later processes (medians of five) find that of the first. They import
numba in the measured pass, and numba imports scipy. Processes of the last column had imported both before.
""",
        table(
            ("first process", "later processes", "the same, numba and scipy imported before"),
            [[seconds(first), *map(seconds, medians)]],
        ),
    )


def _in_a_new_process(program: str, cache: str, clock: Clock) -> Measured:
    """Run a program and return the seconds that it prints."""
    limit = min(120.0, clock.left())
    if limit < 5:
        return Measured(None, reason="out of time")
    command, environment = [sys.executable, "-c", program], os.environ | {"NUMBA_CACHE_DIR": cache}
    try:
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, timeout=limit, check=True)
    except subprocess.TimeoutExpired:
        return Measured(None, reason=f"over {limit:.0f} s")
    return Measured(float(done.stdout), 1)


SECTIONS: dict[str, tuple[Callable[[Clock], str], float]] = {
    "scan": (scans, 7),
    "block": (one_block, 1),
    "layers": (layers, 3),
    "model": (whole_model, 5),
    "cold": (cold_start, 1),
}
"""Name -> section and its share of the time: on a slow machine, the first must not use up the time of the last."""


def main() -> None:
    """Measure, print, and with --write write the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--write", action="store_true", help="also write docs/results/benchmarks.md and its picture")
    parser.add_argument("--minutes", type=float, default=9.5, help="time limit; later measurements are left out")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS), help="sections (default all)")
    arguments = parser.parse_args()
    if arguments.write and set(arguments.only) != set(SECTIONS):
        parser.error("--write is for the whole page; leave --only out")
    end = time.monotonic() + 60 * arguments.minutes
    page = [header("make bench" + (" ARGS=--write" if arguments.write else ""))]
    print(page[0], flush=True)
    for i, name in enumerate(arguments.only):
        measure, share = SECTIONS[name]
        share /= sum(SECTIONS[later][1] for later in arguments.only[i:])
        page.append(measure(Clock(time.monotonic() + share * (end - time.monotonic()))))
        print(f"\n{page[-1]}", flush=True)
    if arguments.write:
        PAGE.write_text("\n\n".join(page) + "\n", encoding="utf-8")
        _DRAWN.replace(FIGURE)
    else:
        _DRAWN.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
