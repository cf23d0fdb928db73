"""Models of the files that a coordinator writes and other programs read, by the name of their JSON Schema."""

from typing import Any

from memamba_core.training.checkpoint import ModelFile

from .summary import DeploymentSummary, MetricsLine

__all__ = ["published_models"]


def published_models() -> dict[str, Any]:
    """Return the published models.

    Returns:
        Name of the schema -> class, or union of classes, that pydantic's `TypeAdapter` accepts:
        `deployment_summary` is `summary.json` of `flower-server run`, `metrics_line` a line of `metrics.jsonl`, `model`
        is `model.json`.
    """
    return {"deployment_summary": DeploymentSummary, "metrics_line": MetricsLine, "model": ModelFile}
