"""One concept has one name: modules and identifiers of version 0.1.0 that were renamed do not come back.

The check reads syntax trees. `tests/docs/check_voice.py` reads docstrings, comments and texts.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
PRODUCT = ("memamba_core", "server", "client", "simulation")
FOLDERS = (*PRODUCT, "tests", "benchmarks")
SOURCES = sorted(path for folder in FOLDERS for path in (REPOSITORY / folder).rglob("*.py"))

OLD_MODULES = {
    "agree": "federation/agreement",
    "atomic_files": "io/atomic",
    "audit_words": "audit/report",
    "begun": "run_manifest",
    "choice": "a discriminated union in the module of each setting",
    "command_code": "io/exit_codes",
    "crew": "thread_pool",
    "data_check": "doctor/data",
    "deltas": "wire/weight_deltas",
    "findings": "doctor/finding",
    "flwr_compat": "flower/control or flower/tasks",
    "gate": "federation/validation",
    "link": "flower/superlink_process or connection",
    "log_lines": "io/logs",
    "opacus_edge": "opacus_imports",
    "pictures": "figures/draw",
    "rehearsal": "doctor/dry_run",
    "runtime_grid": "flower/grid",
    "settle": "federation/handshake",
    "stand_in": "offline_responder",
    "station": "service",
    "tied_child": "child_process",
    "worker_processes": "grid/processes",
}
"""Module or package of version 0.1.0 -> its place today."""

OLD_PREFIXES = ("audit_", "figure_", "scan_mamba", "scan_triton", "scan_chunked", "synthetic_")
"""Prefixes of module names that became folders."""

OLD_NAMES = {
    "BegunRun": "RunManifest",
    "Departure": "EgressRecord",
    "Settlement": "Handshake",
    "StandIn": "OfflineResponder",
    "Station": "ClientService",
    "TiedChild": "ChildProcess",
    "crew": "thread_pool",
    "fewest_answers": "min_answers",
    "floor": "threshold",
    "floors": "thresholds",
    "greet": "a verb of the protocol",
    "names_the_remedy": "a plain verb",
    "objection_to": "check_x and RejectedReplyError",
    "outcomes_told": "may_disclose_outcomes",
    "patient_of_superlink": "superlink_retry_policy",
    "plain_words": "describe_x",
    "rehearse": "dry_run",
    "settle": "perform_handshake",
    "stand_in": "offline_responder",
    "test_metrics": "evaluate_predictions",
    "tied_child": "child_process",
    "widen": "at_least_float32",
}
"""Identifier of version 0.1.0 -> its name today, for variables, functions, classes, arguments and attributes."""

PRIVATE_WORDS = {
    "anew": "again",
    "hospital": "site",
    "hospitals": "sites",
    "nobody": "none or empty",
    "strange": "unknown, unexpected or foreign",
    "told": "disclosed, reported or known",
}
"""Word that is no part of an identifier of the product -> words to use."""

OLD_FUNCTIONS = {"patient": "superlink_retry_policy", "told": "suppress_below"}
"""Names with another meaning for a variable, refused for functions only."""

LIBRARIES = {"math", "np", "torch"}
"""Modules with functions of such names: `np.floor`."""


def identifiers(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Yield line and name of every identifier that a module defines, uses, imports or passes as a keyword."""
    for node in ast.walk(tree):
        line = getattr(node, "lineno", 0)
        match node:
            case ast.Attribute(value=ast.Name(id=module)) if module in LIBRARIES:
                pass
            case ast.Name(id=name) | ast.Attribute(attr=name) | ast.arg(arg=name):
                yield line, name
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                yield line, name
            case ast.keyword(arg=str(name)) | ast.ExceptHandler(name=str(name)):
                yield line, name
            case ast.alias(name=name, asname=alias):
                yield from ((line, part) for part in (*name.split("."), alias) if part)
            case ast.Global(names=names) | ast.Nonlocal(names=names):
                yield from ((line, name) for name in names)
            case ast.MatchAs(name=str(name)) | ast.MatchStar(name=str(name)):
                yield line, name


def objections(tree: ast.Module, *, is_product: bool) -> list[str]:
    """Return a line for each old name in a syntax tree."""
    found = []
    for line, name in sorted(set(identifiers(tree))):
        words = re.findall("[A-Z]?[a-z]+|[A-Z]+(?![a-z])", name)
        private = [word.lower() for word in words if word.lower() in PRIVATE_WORDS]
        if name.lstrip("_") in OLD_NAMES:
            found.append(f"line {line}: {name} is now {OLD_NAMES[name.lstrip('_')]}")
        elif is_product and private:
            found.append(f"line {line}: {name}: say {PRIVATE_WORDS[private[0]]} for {private[0]}")
    refused = OLD_FUNCTIONS if is_product else {"told": OLD_FUNCTIONS["told"]}
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    found += [f"line {f.lineno}: {f.name}() is now {refused[f.name]}()" for f in functions if f.name in refused]
    return found


@pytest.mark.parametrize("folder", PRODUCT)
def test_no_module_has_an_old_name(folder):
    for path in (REPOSITORY / folder).rglob("*.py"):
        for part in path.relative_to(REPOSITORY).with_suffix("").parts:
            assert part not in OLD_MODULES, f"{path}: now {OLD_MODULES[part]}"
            assert not part.startswith(OLD_PREFIXES), f"{path}: the prefix became a folder"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_no_identifier_is_an_old_name(path):
    is_product = path.relative_to(REPOSITORY).parts[0] in PRODUCT
    assert not objections(ast.parse(path.read_text(encoding="utf-8")), is_product=is_product)


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("def settle(): pass", "settle"),
        ("from server.federation import settle as s", "settle"),
        ("import server.settle.x", "settle"),
        ("x.objection_to(y)", "objection_to"),
        ("f(outcomes_told=1)", "outcomes_told"),
        ("def f(floor): pass", "floor"),
        ("class BegunRun: pass", "BegunRun"),
        ("_crew = 1", "_crew"),
        ("num_hospitals = 1", "num_hospitals"),
        ("class HospitalFolder: pass", "HospitalFolder"),
        ("try: pass\nexcept E as told: pass", "told"),
        ("match x:\n case [*told]: pass", "told"),
        ("def patient(): pass", "patient"),
    ],
)
def test_the_check_finds_each_form_of_a_name(code, expected):
    found, *_ = objections(ast.parse(code), is_product=True)
    assert expected in found


@pytest.mark.parametrize("code", ["patient = 1", "x = 'told'  # told", "np.floor(x)", "f(min_answers=1)"])
def test_the_check_leaves_other_names_alone(code):
    assert not objections(ast.parse(code), is_product=True)


def test_a_local_name_of_a_test_is_its_own():
    assert not objections(ast.parse("told = strange = 1"), is_product=False)
    assert objections(ast.parse("def told(): pass"), is_product=False)
