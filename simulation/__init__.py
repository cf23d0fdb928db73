"""Simulation of a federation on one machine: cut a cohort into sites, run the code of server and client over them."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from simulation.run import SimulationResult, simulate
    from simulation.summary import SimulationSummary

__all__ = ["SimulationResult", "SimulationSummary", "simulate"]


def __getattr__(name: str) -> Any:
    """Import an exported name on first use, so that importing the package does not import torch."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from simulation import run, summary

    return getattr(summary if name == "SimulationSummary" else run, name)
