"""Reference of the Python API: a directive of mkdocstrings for each public module, a page for each folder of code."""

import ast
from pathlib import Path

from page_text import GENERATED

REPOSITORY = Path(__file__).resolve().parents[2]
PACKAGES = ("memamba_core", "simulation", "server", "client")


def render_api() -> dict[str, str]:
    """Render an index, and a page for each package and each folder of `memamba_core`."""
    pages: dict[str, str] = {}
    rows = []
    for package in PACKAGES:
        for room, modules in _rooms(package).items():
            name = room.replace(".", "_")
            directives = "\n\n".join(_directive(module) for module in modules)
            pages[f"api/{name}.md"] = f"{GENERATED}# {room}\n\n{directives}\n"
            rows.append(f"* [{room}]({name}.md): {_summary(room)}")
    pages["api/index.md"] = (
        f"{GENERATED}# Python API\n\n"
        "Names in a module's `__all__`, with signatures and docstrings; `make docs` fills these pages from the code. "
        "The names that `memamba_core` and `simulation` export themselves are the stable part: a release that changes "
        "them says so in CHANGELOG.md. Tensors carry their axes in the name; "
        "[model.md](../../explanation/model.md#letters) "
        "explains the letters.\n\n" + "\n".join(rows) + "\n"
    )
    return pages


def _directive(module: str) -> str:
    """Return the directive of a module. Names that a folder's `__init__` exports again stand where they are defined."""
    is_folder = "." in module and (REPOSITORY / Path(*module.split("."))).is_dir()
    return f"::: {module}" + ("\n    options: {members: false}" if is_folder else "")


def _rooms(package: str) -> dict[str, list[str]]:
    """Return the modules that export something, by the page that shows them, packages before their members."""
    found: dict[str, list[str]] = {}
    for path in sorted((REPOSITORY / package).rglob("*.py")):
        parts = path.relative_to(REPOSITORY).with_suffix("").parts
        parts = parts[:-1] if parts[-1] == "__init__" else parts
        if parts[-1] == "__main__" or not _exported_names(path):
            continue
        depth = 2 if package == "memamba_core" and (REPOSITORY / package / Path(*parts[1:2])).is_dir() else 1
        found.setdefault(".".join(parts[:depth]), []).append(".".join(parts))
    return {room: sorted(modules) for room, modules in sorted(found.items(), key=lambda item: item[0])}


def _exported_names(path: Path) -> list[str]:
    """Return the names in the `__all__` of a module, without importing the module."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
        if isinstance(target, ast.Name) and target.id == "__all__":
            value = getattr(node, "value", None)
            return list(ast.literal_eval(value)) if value is not None else []
    return []


def _summary(room: str) -> str:
    source = (REPOSITORY / Path(*room.split(".")) / "__init__.py").read_text(encoding="utf-8")
    return (ast.get_docstring(ast.parse(source)) or "").split("\n\n")[0].replace("\n", " ")
