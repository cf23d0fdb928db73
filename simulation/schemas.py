"""JSON Schemas of all files that other programs read: `python -m simulation.schemas` writes them into the docs."""

import sys
from pathlib import Path
from typing import Any

from client.doctor.record import DoctorReport
from memamba_core.config.run_manifest import DeploymentManifest, RunManifest
from server.schemas import published_models, schema_texts

from .audit.records import AuditReport
from .summary import FoldOutcome, MultirunSummary, SimulationSummary

__all__ = ["all_models", "main"]

FOLDER = Path("docs/reference/schemas")


def all_models() -> dict[str, Any]:
    """Return the published models of coordinator, site and simulation by the name of their schema.

    Returns:
        Those of `server.schemas.published_models`, and of a simulation: `simulation_summary` is `summary.json`,
        `fold_outcome` is `fold-K/outcome.json`, `multirun` is `multirun.json`, `audit` is `audit.json`. `run_manifest`
        and `deployment_manifest` are `settings.json` of a simulation and of a run over the network. `doctor_report` is
        what `flower-client doctor --json` prints.
    """
    return {
        **published_models(),
        "simulation_summary": SimulationSummary,
        "fold_outcome": FoldOutcome,
        "multirun": MultirunSummary,
        "audit": AuditReport,
        "doctor_report": DoctorReport,
        "run_manifest": RunManifest,
        "deployment_manifest": DeploymentManifest,
    }


def main(arguments: list[str]) -> None:
    """Write the schemas into a folder: the one named, or `docs/reference/schemas`."""
    folder = Path(arguments[0]) if arguments else FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in schema_texts(all_models()).items():
        (folder / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
