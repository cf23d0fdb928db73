"""JSON Schemas of the files that a coordinator writes and other programs read."""

import json
from collections.abc import Mapping
from typing import Any

import pydantic

from memamba_core.training.checkpoint import ModelFile

from .summary import DeploymentSummary, MetricsLine

__all__ = ["published_models", "schema_texts"]


def published_models() -> dict[str, Any]:
    """Return the published models by the name of their schema.

    Returns:
        A class or a union of classes for each name: `deployment_summary` is `summary.json` of `flower-server run`,
        `metrics_line` a line of `metrics.jsonl`, `model` is `model.json`.
    """
    return {"deployment_summary": DeploymentSummary, "metrics_line": MetricsLine, "model": ModelFile}


def schema_texts(models: Mapping[str, Any]) -> dict[str, str]:
    """Render the JSON Schema of each model.

    Args:
        models: name -> class, or union of classes.

    Returns:
        File name in `docs/reference/schemas` -> text of the file.
    """
    schemas = {name: pydantic.TypeAdapter(model).json_schema(mode="serialization") for name, model in models.items()}
    return {f"{name}.schema.json": json.dumps(schema, indent=2) + "\n" for name, schema in schemas.items()}
