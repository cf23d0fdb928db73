"""Facts of the repository as a whole: installed packages, places of files, versions."""

import ast
import importlib
import re
import tomllib
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest

from memamba_core.wire.protocol import package_version

REPOSITORY = Path(__file__).resolve().parents[2]
PYPROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
FOLDERS = PYPROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
PACKAGES = [folder for folder in FOLDERS if folder != "configs"]
PINNED = ("dev", "bench", "sbom")  # the extras whose versions constraints.txt holds
SOURCES = [path for package in PACKAGES for path in sorted((REPOSITORY / package).rglob("*.py"))]


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_is_importable_and_comes_from_here(package):
    file = importlib.import_module(package).__file__
    assert file is not None, f"{package} has no __init__.py"
    assert Path(file).parent == REPOSITORY / package


def test_the_same_packages_are_built_typed_and_linted():
    tools = PYPROJECT["tool"]
    assert sorted(tools["mypy"]["packages"]) == sorted(tools["importlinter"]["root_packages"]) == sorted(PACKAGES)


def test_configs_holds_no_python():
    assert not list((REPOSITORY / "configs").rglob("*.py"))


def test_every_command_exists():
    for entry in PYPROJECT["project"]["scripts"].values():
        module, function = entry.split(":")
        assert callable(getattr(importlib.import_module(module), function))


def test_no_folder_of_the_tests_hides_a_package():
    # tests/ is on the import path. A folder without __init__.py does not hide a package of the same name.
    assert not list((REPOSITORY / "tests").rglob("__init__.py"))


def test_the_version_is_the_newest_of_the_changelog():
    changelog = (REPOSITORY / "CHANGELOG.md").read_text(encoding="utf-8")
    released = re.findall(r"^## \[(\d+\.\d+\.\d+)\]", changelog, flags=re.MULTILINE)
    assert released[0] == PYPROJECT["project"]["version"]
    assert released == sorted(released, key=lambda v: [int(part) for part in v.split(".")], reverse=True)


def test_the_installed_version_is_that_of_the_checkout():
    try:
        distribution(PYPROJECT["project"]["name"])
    except PackageNotFoundError:
        pytest.skip("run from a checkout that is not installed; make install")
    assert package_version() == PYPROJECT["project"]["version"], "pyproject.toml changed since; make install"


def test_every_requirement_is_pinned_once_and_exactly():
    lines = (REPOSITORY / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[a-z0-9-]+==[0-9][0-9a-z.]*", pin) for pin in pins)
    names = [pin.partition("==")[0] for pin in pins]
    assert names == sorted(set(names))
    project = PYPROJECT["project"]
    for requirement in [
        *project["dependencies"],
        *(r for extra in PINNED for r in project["optional-dependencies"][extra]),
    ]:
        assert re.split(r"[^A-Za-z0-9-]", requirement)[0].lower() in names


def test_metadata_name_only_the_python_that_the_tests_ran_on():
    versions = [
        text.rpartition(" :: ")[2]
        for text in PYPROJECT["project"]["classifiers"]
        if text.startswith("Programming Language")
    ]
    assert versions == re.findall(r"tested \(Python (\d\.\d+)", (REPOSITORY / "constraints.txt").read_text("utf-8"))
    assert PYPROJECT["project"]["requires-python"] == f">={versions[0]}"
    assert PYPROJECT["tool"]["mypy"]["python_version"] == versions[0]


def test_the_pin_of_flower_is_the_newest_version_that_its_contract_is_tested_on():
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    (versions,) = re.findall(r"^FLOWER_VERSIONS := (.*)$", makefile, flags=re.MULTILINE)
    contract = (REPOSITORY / "tests" / "site" / "test_flower_contract.py").read_text(encoding="utf-8")
    assert f"SUPPORTED = {tuple(versions.split())}".replace("'", '"') in contract
    newest = versions.split()[-1]
    project = PYPROJECT["project"]
    assert f"flwr=={newest}" in project["dependencies"]
    assert f"flwr[simulation]=={newest}" in project["optional-dependencies"]["ray"]
    assert f"flwr=={newest}" in (REPOSITORY / "constraints.txt").read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_a_module_says_what_it_is_and_its_public_names_exist(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    docstring = ast.get_docstring(tree)
    assert docstring is not None
    assert len(docstring) > 10
    module = ".".join(path.relative_to(REPOSITORY).with_suffix("").parts).removesuffix(".__init__")
    if module.endswith(("scan.triton.rows", "scan.triton.forward", "scan.triton.backward")):
        pytest.importorskip("triton", reason="triton is not here (it has no wheels for this platform)")
    loaded = importlib.import_module(module)
    names = getattr(loaded, "__all__", [])
    assert len(set(names)) == len(names)
    assert all(hasattr(loaded, name) for name in names)
