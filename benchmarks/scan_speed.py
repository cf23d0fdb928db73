"""The selective scan and what is built of it against the alternatives: time, memory, cold start. Prints Markdown.

    python benchmarks/scan_speed.py [--write] [--minutes 9.5] [--only scan block layers model cold]

With --write the tables become docs/results/benchmarks.md as well, with a picture in the same folder.
`race.py` says how is measured, `contestants.py` what. What this machine has not the time or the memory for
is left out with a word.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from race import Clock, Contestant, Measured, peak_memory, products, race
from speed_page import bytes_of_tensors, draw, gigaflops, header, megabytes, ratios, seconds, section, table

PAGE = Path(__file__).resolve().parents[1] / "docs" / "results" / "benchmarks.md"
FIGURE = PAGE.with_name("benchmarks.png")
_DRAWN = FIGURE.with_suffix(".new.png")  # until the page beside it is written
THREADS = (1, 2)
D_MODEL = 256
LENGTHS = (1_000, 4_000, 16_000, 64_000)
MODELS = ("ME-Mamba", "Nystrom", "full attention")

_SCANS = ("cpu", "chunked", "pscan", "mamba_ssm reference", "reference")
_BARE_SCAN = "pscan without our settings"
_SIZES = ((512, 512), (4096, 512), (4096, 1024), (16384, 512), (16384, 1024))
_LARGEST = {"pscan": 4096 * 1024, "reference": 512 * 512, "mamba_ssm reference": 512 * 512}
"""L x E above which a slow scan would take the time of all the others."""


def scans(clock: Clock) -> str:
    """Forward, and forward with backward pass, at growing sizes, and the memory of the latter."""
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
(both); in brackets how many times `cpu`. `cpu`, `chunked` and `reference` are backends of this project, `pscan` is
mambapy's, `mamba_ssm reference` that package's own. All have this project's settings of memory and threads; the last
column is `pscan` in a process without them, as its users have it.
""",
        table(("threads", "L x E", "pass", *_SCANS, _BARE_SCAN), rows),
        "Memory of both passes beyond the inputs, gradients included, in MB; in brackets in tensors of L x E:",
        table(("L x E", "one tensor", *_SCANS[:3]), memory),
    )


def _scan(name: str, length: int, channels: int, backward: bool) -> Contestant:
    return {"kind": "scan", "name": name, "length": length, "channels": channels, "backward": backward}


def one_block(clock: Clock) -> str:
    """One Mamba block, forward and backward."""
    names, rows = ("cpu", "chunked", "mambapy"), []
    for threads in THREADS:
        for length in (512, 4096):
            wanted = [{"kind": "block", "name": name, "length": length, "d_model": D_MODEL} for name in names]
            measured = race(wanted, threads=threads, seconds=5, clock=clock)
            rows.append([str(threads), str(length), *ratios(measured)])
    return section(
        "One block",
        f"""
Milliseconds of a forward and backward pass of one Mamba block, d_model {D_MODEL}; in brackets how many times `cpu`.
`mambapy` is the `MambaBlock` of that package.
""",
        table(("threads", "L", *names), rows),
    )


def layers(clock: Clock) -> str:
    """Four Mamba blocks against two layers of attention, at two precisions, and what each has to multiply."""
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
layers of attention without feed-forward ([attention_rivals.py](../../benchmarks/attention_rivals.py)); in brackets how
many times `cpu`. Precision is that of `torch.set_float32_matmul_precision`.
""",
        table(("precision", "threads", *names), rows),
        """
What has to be multiplied in such a pass, in GFLOP: matrix products and convolutions of torch, a multiplication and an
addition counted as two. Four blocks have more of it than two Nystrom layers, and at `highest` that is why they take
longer, not the scan; `medium` makes products cheap.
""",
        table(names[:3], [multiplied]),
    )


def whole_model(clock: Clock) -> str:
    """A training step of whole models against the length of the bag, as tables and a picture."""
    threads = THREADS[-1]
    times: dict[str, list[Measured]] = {name: [] for name in MODELS}
    memory: dict[str, list[Measured]] = {name: [] for name in MODELS}
    for length in LENGTHS:
        racing = {}
        for name in MODELS:
            word = _too_much(name, length, times[name], memory[name])
            if word:
                times[name].append(Measured(None, word=word))
                memory[name].append(Measured(None, word=word))
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
{threads} threads. ME-Mamba has its three experts and reads 300 genes in 6 groups besides; its rivals have two layers of
attention over the bag alone. Milliseconds; in brackets how many times ME-Mamba:
""",
        table(("patches", *MODELS), [[f"{LENGTHS[i]:,}", *ratios([times[n][i] for n in MODELS])] for i in rows]),
        "Memory beyond inputs and weights, MB:",
        table(("patches", *MODELS), [[f"{LENGTHS[i]:,}", *(megabytes(memory[n][i]) for n in MODELS)] for i in rows]),
        f"![Time and memory of a training step against the length of a bag]({FIGURE.name})",
    )


def _too_much(name: str, length: int, times: Sequence[Measured], memory: Sequence[Measured]) -> str:
    """Why a model is not run at that length, going by the length before; nothing if it can be."""
    if not times:
        return ""
    before, factor = times[-1], length / LENGTHS[len(times) - 1]
    if before.value is None:
        return before.word
    expected = before.value * factor ** (2 if name == "full attention" else 1)
    if expected > 60:
        return f"would take {expected:,.0f} s"
    needed = (memory[-1].value or 0) * factor
    return f"would need {needed / 1e9:.0f} GB" if needed > 0.8 * _free_memory() else ""


def _free_memory() -> float:
    """Bytes; without a limit where Linux does not tell."""
    path = Path("/proc/meminfo")
    if not path.is_file():
        return float("inf")
    lines = dict(line.split(":", 1) for line in path.read_text(encoding="utf-8").splitlines())
    return float(lines["MemAvailable"].split()[0]) * 1024


_FIRST_STEP = """
import time, torch
from memamba_core.model.mamba import Mamba
block, tokens = Mamba(32), torch.randn(1, 64, 32)
start = time.perf_counter()
block(tokens).sum().backward()
print(time.perf_counter() - start)
"""
_IMPORTED_BEFORE = "import numba, scipy.linalg\n" + _FIRST_STEP


def cold_start(clock: Clock) -> str:
    """The first training step of a block in a process, before and after numba's cache is filled."""
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
finds no compiled code, as after an installation; the later ones (medians of five) that of the first. They import numba
at that moment, which imports scipy; the last column is of processes that had imported these two before.
""",
        table(
            ("first process", "later processes", "the same, numba and scipy imported before"),
            [[seconds(first), *map(seconds, medians)]],
        ),
    )


def _in_a_new_process(program: str, cache: str, clock: Clock) -> Measured:
    """The seconds that a program prints."""
    limit = min(120.0, clock.left())
    if limit < 5:
        return Measured(None, word="out of time")
    command, environment = [sys.executable, "-c", program], os.environ | {"NUMBA_CACHE_DIR": cache}
    try:
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, timeout=limit, check=True)
    except subprocess.TimeoutExpired:
        return Measured(None, word=f"over {limit:.0f} s")
    return Measured(float(done.stdout), 1)


SECTIONS: dict[str, tuple[Callable[[Clock], str], float]] = {
    "scan": (scans, 7),
    "block": (one_block, 1),
    "layers": (layers, 3),
    "model": (whole_model, 5),
    "cold": (cold_start, 1),
}
"""Name -> the section, and its share of the time: on a slow machine the first does not take that of the last."""


def main() -> None:
    """Measure, print, and with --write keep it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--write", action="store_true", help="also write docs/results/benchmarks.md and its picture")
    parser.add_argument("--minutes", type=float, default=9.5, help="what is not measured by then is left out")
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
