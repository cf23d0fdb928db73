"""Reference of the JSON files that people and programs read, from their JSON Schemas in docs/reference/schemas."""

import json
from pathlib import Path
from typing import Any

from page_text import GENERATED, prose, table


def render_schemas(folder: Path) -> str:
    """Render the fields of every schema of a folder."""
    text = (
        f"{GENERATED}# File formats\n\n"
        "Each JSON file of a run has a JSON Schema, made from the pydantic model that writes the file. Programs may "
        "rely on the fields named here.\n\n"
    )
    for path in sorted(folder.glob("*.json")):
        schema = json.loads(path.read_text(encoding="utf-8"))
        text += f"## {path.stem.removesuffix('.schema')}\n\n{prose(schema.get('description', ''))}\n\n"
        text += f"JSON Schema: [{path.name}](schemas/{path.name})\n\n{_render_fields(schema)}"
        for name, part in sorted(schema.get("$defs", {}).items()):
            if "properties" in part:
                text += f"### {path.stem.removesuffix('.schema')}: {name}\n\n"
                text += f"{prose(part.get('description', '').split(chr(10) * 2)[0])}\n\n{_render_fields(part)}"
    return text.rstrip() + "\n"


def _render_fields(schema: dict[str, Any]) -> str:
    required = schema.get("required", ())
    rows = [
        (f"`{name}`" + ("" if name in required else " (optional)"), _kind(field), prose(field.get("description", "")))
        for name, field in schema.get("properties", {}).items()
    ]
    return table(("field", "kind", "meaning"), rows) if rows else ""


def _kind(field: dict[str, Any]) -> str:
    """Return the kind of a field in a few words."""
    if "$ref" in field:
        return field["$ref"].rpartition("/")[2]
    for key in ("anyOf", "oneOf"):
        if key in field:
            return " or ".join(dict.fromkeys(_kind(part) for part in field[key]))
    if "const" in field or "enum" in field:
        return ", ".join(f"`{json.dumps(value)}`" for value in field.get("enum", [field.get("const")]))
    if field.get("type") == "array":
        return f"list of {_kind(field['items'])}" if isinstance(field.get("items"), dict) else "list"
    if isinstance(field.get("additionalProperties"), dict):
        return f"object of {_kind(field['additionalProperties'])}"
    return str(field.get("type", "any"))
