"""Base of the records that other programs read: `summary.json`, `metrics.jsonl`, `model.json`, `audit.json`."""

import pydantic

__all__ = ["JsonModel"]


class JsonModel(pydantic.BaseModel):
    """Frozen record of a JSON file or of one line of it.

    Unknown keys, missing keys and numbers that JSON cannot hold (NaN, infinity) are errors. Docstrings of fields become
    the descriptions of the JSON Schema.
    """

    model_config = pydantic.ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True, protected_namespaces=()
    )
