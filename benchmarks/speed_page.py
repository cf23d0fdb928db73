"""Page of the speed benchmarks: Markdown tables, a picture, and a description of the machine."""

import os
import platform
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import matplotlib as mpl
from race import Measured

__all__ = [
    "bytes_of_tensors",
    "cell",
    "draw",
    "gigaflops",
    "header",
    "megabytes",
    "ratios",
    "seconds",
    "section",
    "table",
]

_COLOURS = ("#0072B2", "#E69F00", "#D55E00")  # Okabe & Ito (2008)

_HEADER = """# Benchmarks

Printed by `{command}` on {date}.

* Processor: {processor}, {cores} cores; {system}
* Python {python}, {libraries}
* Times are medians; the contestants of a row take turns in one process. Memory is the peak of resident memory of a
  process of its own. [race.py](../../benchmarks/race.py) describes the measurement. If the machine does other work as
  well, the ratios in brackets are more reliable than the times.
* For graphics cards see [benchmarks_gpu.md](benchmarks_gpu.md)."""


def header(command: str) -> str:
    """Return the head of the page: machine, date, and the command to repeat the measurement."""
    libraries = []
    for name in ("torch", "numba", "numpy", "mambapy", "mamba-ssm"):
        try:
            libraries.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            libraries.append(f"{name} not installed")
    return _HEADER.format(
        command=command,
        date=f"{datetime.now(UTC):%Y-%m-%d}",
        processor=_processor(),
        cores=os.cpu_count(),
        system=f"{platform.system()} {platform.machine()}",
        python=platform.python_version(),
        libraries=", ".join(libraries),
    )


def _processor() -> str:
    """Return the processor's name in Linux, with the vector units that matter here."""
    path = Path("/proc/cpuinfo")
    if not path.is_file():
        return platform.processor() or platform.machine()
    lines = [line.split(":", 1) for line in path.read_text(encoding="utf-8").splitlines() if ":" in line]
    fields = {key.strip(): value.strip() for key, value in lines}
    units = [unit for unit in ("avx2", "avx512f", "amx_bf16") if unit in fields.get("flags", "").split()]
    return f"{fields.get('model name', platform.machine())} ({', '.join(units) or 'no AVX2'})"


def section(title: str, *parts: str) -> str:
    """Join a heading and the parts of a section."""
    return "\n\n".join([f"## {title}", *(part.strip() for part in parts)])


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Format a table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def cell(measured: Measured | None, show: Callable[[float], str]) -> str:
    """Format the figure, or the reason for a missing one; a dash if nothing was tried."""
    if measured is None:
        return "-"
    return measured.reason if measured.value is None else show(measured.value)


def ratios(measured: Sequence[Measured | None]) -> list[str]:
    """Format milliseconds, and the ratio to the first of them."""
    first = measured[0].value if measured[0] is not None else None

    def show(value: float) -> str:
        text = f"{value * 1e3:,.0f}" if value >= 0.1 else f"{value * 1e3:.3g}"
        return text if first is None or value == first else f"{text} ({value / first:.3g})"

    return [cell(one, show) for one in measured]


def seconds(measured: Measured) -> str:
    """Format seconds to a hundredth."""
    return cell(measured, lambda value: f"{value:.2f}")


def megabytes(measured: Measured) -> str:
    """Format bytes in MB."""
    return cell(measured, lambda value: f"{value / 1e6:,.0f}")


def gigaflops(measured: Measured) -> str:
    """Format operations in thousands of millions."""
    return cell(measured, lambda value: f"{value / 1e9:.1f}")


def bytes_of_tensors(measured: Measured | None, tensor: float) -> str:
    """Format bytes in MB, and as a multiple of one tensor's bytes."""
    return cell(measured, lambda value: f"{value / 1e6:,.0f} ({value / tensor:.1f})")


def draw(
    path: Path, lengths: Sequence[int], times: Mapping[str, list[Measured]], memory: Mapping[str, list[Measured]]
) -> None:
    """Draw time and memory against the length of a bag, on logarithmic axes."""
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(8.5, 3.4), layout="constrained")
    panels = ((times, 1.0, "seconds for a training step"), (memory, 1e9, "peak of memory, GB"))
    for ax, (measured, unit, label) in zip(axes, panels, strict=True):
        for (name, values), colour in zip(measured.items(), _COLOURS, strict=True):
            points = [(n, m.value / unit) for n, m in zip(lengths, values, strict=True) if m.value is not None]
            if points:
                ax.plot(*zip(*points, strict=True), "o-", color=colour, label=name)
        ax.set(xscale="log", yscale="log", xlabel="patches in the bag", ylabel=label)
        ax.set_xticks(lengths, [f"{n:,}" for n in lengths])
        ax.minorticks_off()
        ax.grid(alpha=0.3)
    if axes[0].lines:
        axes[0].legend(frameon=False)
    figure.savefig(path, dpi=130)
    plt.close(figure)
