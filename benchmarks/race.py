"""Measurement of contestants in separate processes: their times in turns, and the memory of each alone.

A contestant is a dictionary that `contestants.build` turns into a function of no arguments, called once per repetition.

Times: one process per race. Each contestant is called once to warm up and once with the clock; then they take turns, so
that a slow moment of the machine affects all of them. The result is the median. A contestant is called again until its
share of the race's seconds is used; calls under 20 ms are timed in groups. A race that exceeds its limit is stopped,
and the measurements until then are used. All contestants of the process have this project's settings of memory and
threads (`set_up_process`); a bare race has none of them.

Memory: one process per contestant. It is first called on a short sequence, so that code is loaded. Then the process
asks Linux to reset its peak of resident memory and calls the contestant once. The peak minus the memory resident before
is the memory beyond the inputs. Without Linux there is no figure. On a GPU torch records the peak of its allocations,
and a race measures both time and memory.

Products: torch counts the multiplications and additions of its matrix products and convolutions in one call. They
depend on shapes alone. The work of this project's compiled kernels is not counted.
"""

import ctypes
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from memamba_core.io.process_setup import set_up_process

Contestant = dict[str, Any]

_GROUP_SECONDS = 0.02
_BARE = {"THP_MEM_ALLOC_ENABLE": "0", "GOMP_SPINCOUNT": "300000"}
"""Values by which torch and libgomp behave as if nothing were set; `set_up_process` chooses others."""


@dataclass(frozen=True)
class Measured:
    """Measurement of a contestant.

    Attributes:
        value: median seconds, bytes, or operations; None if there is no figure.
        count: number of timed calls or groups of calls.
        reason: reason for a missing figure.
        peak: peak bytes of a call in a race, beyond its inputs; None unless on a GPU.
    """

    value: float | None
    count: int = 0
    reason: str = ""
    peak: int | None = None


@dataclass
class Clock:
    """Deadline of a measurement.

    Attributes:
        deadline: value of `time.monotonic` at which to stop.
    """

    deadline: float

    def left(self) -> float:
        """Return the seconds until the deadline."""
        return self.deadline - time.monotonic()


def race(
    contestants: Sequence[Contestant], *, threads: int, seconds: float, clock: Clock, bare: bool = False
) -> list[Measured]:
    """Time contestants against each other, for about that many seconds in all.

    Args:
        contestants: dictionaries for `contestants.build`.
        threads: number of threads of the process.
        seconds: time for the whole race.
        clock: deadline of the program; a race for which too little time is left is not begun.
        bare: race in a process without this project's settings (`set_up_process`).
    """
    limit = min(6 * seconds + 60, clock.left())
    if limit < seconds:
        return [Measured(None, reason="out of time") for _ in contestants]
    task = {"race": list(contestants), "seconds": seconds, "bare": bare}
    lines = _work(task, threads, limit, _BARE if bare else {})
    samples: dict[int, list[float]] = {}
    reasons: dict[int, str] = {}
    peaks: dict[int, int] = {}
    for line in lines:
        if "reason" in line:
            reasons[line["contestant"]] = line["reason"]
        elif "bytes" in line:
            peaks[line["contestant"]] = line["bytes"]
        else:
            samples.setdefault(line["contestant"], []).append(line["seconds"])
    return [
        Measured(statistics.median(samples[i]), len(samples[i]), peak=peaks.get(i))
        if i in samples
        else Measured(None, reason=reasons.get(i, f"not reached in {limit:.0f} s"))
        for i in range(len(contestants))
    ]


def peak_memory(contestant: Contestant, *, threads: int, clock: Clock, limit: float = 120) -> Measured:
    """Measure the peak bytes of a call, beyond its inputs."""
    limit = min(limit, clock.left())
    if limit < 5:
        return Measured(None, reason="out of time")
    for line in _work({"memory": contestant}, threads, limit):
        return Measured(None, reason=line["reason"]) if "reason" in line else Measured(line["bytes"], 1)
    return Measured(None, reason=f"over {limit:.0f} s, or more memory than there is")


def products(contestant: Contestant, *, clock: Clock, limit: float = 120) -> Measured:
    """Count the multiplications and additions of the products that torch computes in a call."""
    limit = min(limit, clock.left())
    if limit < 5:
        return Measured(None, reason="out of time")
    for line in _work({"products": contestant}, 1, limit):
        return Measured(None, reason=line["reason"]) if "reason" in line else Measured(line["operations"], 1)
    return Measured(None, reason=f"over {limit:.0f} s")


def _work(
    task: dict[str, Any], threads: int, limit: float, settings: Mapping[str, str] = MappingProxyType({})
) -> list[dict[str, Any]]:
    """Run a task in a new process, and return the lines that it printed before the limit."""
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)} | dict(settings)
    command = [sys.executable, __file__, json.dumps({**task, "threads": threads})]
    try:
        output = subprocess.run(command, env=environment, stdout=subprocess.PIPE, timeout=limit, check=False).stdout
    except subprocess.TimeoutExpired as late:
        output = late.stdout or b""
    return [json.loads(line) for line in output.decode().splitlines() if line.startswith("{")]


def _notify(**line: Any) -> None:
    print(json.dumps(line), flush=True)


def _race_here(contestants: Sequence[Contestant], seconds: float) -> None:
    from contestants import NotHereError, build
    from torch import OutOfMemoryError, cuda

    from memamba_core.errors import MissingBackendError

    calls: dict[int, Any] = {}
    groups: dict[int, int] = {}
    spent: dict[int, float] = {}

    def take_turn(i: int) -> float:
        took = sum(_time(calls[i]) for _ in range(groups[i]))
        _notify(contestant=i, seconds=took / groups[i])
        groups[i] = max(1, round(_GROUP_SECONDS * groups[i] / max(took, 1e-6)))
        return took

    for i, contestant in enumerate(contestants):
        try:
            call = build(contestant)
            call()
            if "device" in contestant:
                cuda.reset_peak_memory_stats()
                before = cuda.memory_allocated()
                call()
                _notify(contestant=i, bytes=cuda.max_memory_allocated() - before)
        except NotHereError as reason:
            _notify(contestant=i, reason=str(reason))
            continue
        except MissingBackendError:
            _notify(contestant=i, reason="not installed")
            continue
        except OutOfMemoryError:
            _notify(contestant=i, reason="out of memory")
            continue
        calls[i], groups[i] = call, 1
        spent[i] = take_turn(i)
    share = seconds / max(1, len(calls))
    for _ in range(50):
        for i in calls:
            if spent[i] < share:
                spent[i] += take_turn(i)


def _time(call: Any) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _memory_here(contestant: Contestant) -> None:
    from contestants import NotHereError, build

    try:
        build({**contestant, "length": 64})()
        call = build(contestant)
    except NotHereError as reason:
        _notify(reason=str(reason))
        return
    forget = Path("/proc/self/clear_refs")
    try:
        ctypes.CDLL(None).malloc_trim(0)
        forget.write_text("5", encoding="ascii")
    except (OSError, AttributeError):
        _notify(reason="this system cannot reset the peak of memory")
        return
    before = _resident("VmRSS")
    call()
    _notify(bytes=_resident("VmHWM") - before)


def _products_here(contestant: Contestant) -> None:
    from contestants import NotHereError, build
    from torch import ops
    from torch.utils import flop_counter

    # torch's own list lacks in-place products, and attention on a CPU.
    formulas = {
        ops.aten.addmm_: lambda _, a, b, **__: 2 * a[0] * a[1] * b[1],
        ops.aten._scaled_dot_product_flash_attention_for_cpu: lambda *shapes, **_: flop_counter.sdpa_flop_count(
            *shapes[:3]
        ),
        ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: lambda *shapes, **_: (
            flop_counter.sdpa_backward_flop_count(*shapes[:4])
        ),
    }
    try:
        call = build(contestant)
    except NotHereError as reason:
        _notify(reason=str(reason))
        return
    with flop_counter.FlopCounterMode(display=False, custom_mapping=formulas) as counter:
        call()
    _notify(operations=counter.get_total_flops())


def _resident(key: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return int(dict(line.split(":", 1) for line in lines)[key].split()[0]) * 1024


def _main(task: dict[str, Any]) -> None:
    if not task.get("bare"):
        set_up_process()  # before torch is imported
    import torch

    torch.set_num_threads(task["threads"])
    if "race" in task:
        _race_here(task["race"], task["seconds"])
    elif "products" in task:
        _products_here(task["products"])
    else:
        _memory_here(task["memory"])


if __name__ == "__main__":
    _main(json.loads(sys.argv[1]))
