"""Licences of the run-time closure: what a person gets who installs this Apache-2.0 package without extras."""

import fnmatch
import importlib.metadata
import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

REPOSITORY = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]

PERMISSIVE = re.compile(
    r"MIT|BSD|Apache|ISC\b|PSF-2\.0|Python Software Foundation|MPL|Mozilla|Zlib|CC0|BSL-1\.0|Public Domain",
    re.IGNORECASE,
)
COPYLEFT = re.compile(r"\bGPL|AGPL|\bGNU (Affero )?General Public|SSPL|EUPL|CC-BY-(NC|SA)", re.IGNORECASE)
LESSER = re.compile(r"LGPL|GNU (Lesser|Library)", re.IGNORECASE)
LESSER_ALLOWED: frozenset[str] = frozenset()
"""Packages that may be LGPL: none today. State the reason next to each name."""
STATED_ELSEWHERE = {
    "nvidia-*": "CUDA libraries, which only a CUDA build of torch brings: proprietary, redistributable, no copyleft",
}
"""Packages whose metadata name no licence, or none of the above, and where their licence is stated."""


def run_time_closure() -> set[str]:
    """Return the canonical names of all packages that the dependencies bring, without unrequested extras."""
    extras_of: dict[str, set[str]] = {}
    todo = [Requirement(text) for text in PROJECT["dependencies"]]
    while todo:
        requirement = todo.pop()
        name = canonicalize_name(requirement.name)
        if name in extras_of and requirement.extras <= extras_of[name]:
            continue
        extras = extras_of.setdefault(name, set())
        extras |= requirement.extras
        for text in importlib.metadata.requires(name) or ():
            inner = Requirement(text)
            if inner.marker is None or any(inner.marker.evaluate({"extra": extra}) for extra in extras | {""}):
                todo.append(inner)
    return set(extras_of)


def stated_licence(name: str) -> str:
    """Return what a package states, in the order of reliability: SPDX expression, classifiers, a line of text.

    The full text of a licence is not searched: some packages add the licences of bundled compilers' libraries there.
    """
    metadata = importlib.metadata.metadata(name)
    if expression := metadata.get("License-Expression"):
        return expression
    classifiers = [text for text in metadata.get_all("Classifier") or () if text.startswith("License ::")]
    if classifiers:
        return "; ".join(classifiers)
    return (metadata.get("License") or "").strip().partition("\n")[0]


def objection(name: str, licence: str) -> str | None:
    """Return why a package may not be in the closure, or None."""
    if LESSER.search(licence):
        return None if name in LESSER_ALLOWED else f"{name} is {licence}: name it in LESSER_ALLOWED with the reason"
    if COPYLEFT.search(licence):
        return f"{name} is {licence}, which an Apache-2.0 package cannot require"
    if not PERMISSIVE.search(licence) and not any(fnmatch.fnmatch(name, known) for known in STATED_ELSEWHERE):
        return f"{name} states {licence or 'no licence'!r}: find the licence and enter it in STATED_ELSEWHERE"
    return None


def test_no_package_of_the_run_time_closure_is_gpl():
    names = run_time_closure()
    assert {"flwr", "torch", "torchsurv", "lifelines", "typing-extensions"} <= names
    assert not names & {"scikit-survival", "ecos", "pytest"}
    found = [objection(name, stated_licence(name)) for name in sorted(names)]
    assert [text for text in found if text] == []


@pytest.mark.parametrize(
    ("licence", "allowed"),
    [
        ("MIT", True),
        ("Apache-2.0 AND Apache-2.0 WITH LLVM-exception", True),
        ("License :: OSI Approved :: Mozilla Public License 2.0 (MPL 2.0)", True),
        ("GPL-3.0-or-later", False),
        ("License :: OSI Approved :: GNU General Public License v3 (GPLv3)", False),
        ("AGPL-3.0-only", False),
        ("LGPL-3.0-or-later", False),
        ("MIT AND GPL-2.0-only", False),
        ("", False),
        ("Proprietary", False),
    ],
)
def test_permissive_and_other_licences(licence, allowed):
    assert (objection("some-package", licence) is None) == allowed


def test_the_twin_of_torchsurv_is_gpl_and_stays_in_the_dev_extra():
    assert objection("scikit-survival", stated_licence("scikit-survival")) is not None
    sources = [
        path
        for package in ("memamba_core", "server", "client", "simulation")
        for path in (REPOSITORY / package).rglob("*.py")
    ]
    assert not [
        path for path in sources if re.search(r"^\s*(from|import) sksurv", path.read_text("utf-8"), re.MULTILINE)
    ]
