"""The exception tree: complete, drawn as it is, and every exception of the product in it."""

import ast
import builtins
import re
from pathlib import Path

import pytest

import memamba_core
from memamba_core import errors

ROOT = Path(memamba_core.__file__).resolve().parents[1]
PRODUCT = ("memamba_core", "server", "client", "simulation")
BUILTIN = {name for name, kind in vars(builtins).items() if isinstance(kind, type) and issubclass(kind, BaseException)}
DOCSTRING = errors.__doc__


def classes_of_the_product():
    """Yield module, name and names of the bases of each class of the product, nested ones too."""
    for package in PRODUCT:
        for path in sorted((ROOT / package).rglob("*.py")):
            module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.ClassDef):
                    yield module, node.name, {ast.unparse(base).rpartition(".")[2] for base in node.bases}


def exceptions_of_the_product():
    """Return the qualified names of all exception classes: by a built-in base, a base of the product, or a name."""
    classes, known = list(classes_of_the_product()), set(BUILTIN)
    while True:
        found = {
            (module, name)
            for module, name, bases in classes
            if bases & known or any(re.search(r"(Error|Exception)$", base) for base in bases)
        }
        if {name for _, name in found} <= known:
            return found
        known |= {name for _, name in found}


EXCEPTIONS = sorted(exceptions_of_the_product())


def test_the_search_finds_exceptions_of_every_kind():
    names = {name for _, name in EXCEPTIONS}
    assert {"ConfigError", "NoPatientsError", "RefusedError", "TimeOver"} <= names


@pytest.mark.parametrize(("module", "name"), EXCEPTIONS)
def test_every_exception_is_in_the_tree_or_listed_with_its_reason(module, name):
    if module == "memamba_core.errors":
        assert name in errors.__all__
    else:
        assert re.search(rf"`{re.escape(module)}\.{name}`", DOCSTRING), f"{module}.{name} is not listed in errors.py"


def test_no_exception_is_listed_that_does_not_exist():
    listed = {tuple(name.rsplit(".", 1)) for name in re.findall(r"`((?:client|server|simulation)\.[\w.]+)`", DOCSTRING)}
    assert listed <= set(EXCEPTIONS)


def drawn():
    """Yield depth, name and further bases of each line of the tree."""
    for line in DOCSTRING.splitlines():
        if found := re.match(r"    ((?:│   |    |├── |└── )*)(MemambaError|\w+Error)\b(?: \((\w+)\))?", line):
            yield len(found[1]) // 4, found[2], found[3]


def test_the_tree_is_drawn_as_it_is():
    parents, lines = {}, []
    for depth, name, further in drawn():
        parents[depth] = name
        kind = getattr(errors, name)
        bases = [base.__name__ for base in kind.__bases__]
        assert bases == [parents.get(depth - 1, "Exception"), *([further] if further else [])], name
        lines.append(name)
    assert sorted(lines) == sorted(errors.__all__)
