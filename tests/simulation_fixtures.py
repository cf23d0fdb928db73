"""A simulation of seconds, into a folder."""

from pathlib import Path

from federation_fixtures import GENES_ONLY, composed, tiny

from simulation.run import SimulationResult, simulate

FAST = (*GENES_ONLY, "data.synthetic.censoring=0.2")


def run(folder: Path, *changes: str) -> SimulationResult:
    """Simulate `tiny(*changes)`; the settings are composed once for all folders."""
    overrides = tiny(*changes)
    config = composed(overrides).model_copy(update={"output_dir": folder})
    return simulate(config, (*overrides, f"output_dir={folder}"))
