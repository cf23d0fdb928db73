"""The scripts of `benchmarks/` as modules."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType


def load_script(repository: Path, name: str) -> ModuleType:
    """A script is no module of a package: load it from its file."""
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, repository / "benchmarks" / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]
