"""Facts of the repository as a whole: what is installed, what is where, which version it is."""

import ast
import importlib
import re
import subprocess
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest

from memamba_core.wire.protocol import package_version

REPOSITORY = Path(__file__).resolve().parents[2]
PYPROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
FOLDERS = PYPROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
PACKAGES = [folder for folder in FOLDERS if folder != "configs"]
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
    # tests/ is on the import path. A folder without __init__.py gives way to a package of the same name.
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
    for requirement in project["dependencies"] + project["optional-dependencies"]["dev"]:
        assert re.split(r"[^A-Za-z0-9-]", requirement)[0].lower() in names


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_a_module_says_what_it_is_and_its_public_names_exist(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    docstring = ast.get_docstring(tree)
    assert docstring is not None
    assert len(docstring) > 10
    module = ".".join(path.relative_to(REPOSITORY).with_suffix("").parts).removesuffix(".__init__")
    if "triton_kernels" in module:
        pytest.importorskip("triton", reason="triton is not here (it has no wheels for this platform)")
    loaded = importlib.import_module(module)
    names = getattr(loaded, "__all__", [])
    assert len(set(names)) == len(names)
    assert all(hasattr(loaded, name) for name in names)


@pytest.mark.ci_slow
def test_the_wheel_holds_all_of_it_and_composes_far_from_the_checkout(tmp_path):
    build = [
        sys.executable,
        "-m",
        "hatchling",
        "build",
        "--target",
        "wheel",
        "--directory",
        str(tmp_path / "dist"),
    ]
    subprocess.run(build, cwd=REPOSITORY, check=True, capture_output=True, timeout=120)
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    site = tmp_path / "site"
    subprocess.run([sys.executable, "-m", "zipfile", "--extract", str(wheel), str(site)], check=True, timeout=60)
    for folder in ("configs", "deploy/site"):
        shipped = {path.relative_to(site) for path in (site / folder).rglob("*") if path.is_file()}
        assert shipped == {path.relative_to(REPOSITORY) for path in (REPOSITORY / folder).rglob("*") if path.is_file()}
    # A folder of the same name in the working directory must not be taken for the installed one.
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "configs").mkdir(parents=True)
    program = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from memamba_core.config import compose, experiment\n"
        "assert str(compose.config_folder()) == sys.argv[1] + '/configs', compose.config_folder()\n"
        "assert compose.compose_experiment() == experiment.Experiment()\n"
        "print(compose.compose_simulation().data.name)\n"
    )
    command = [sys.executable, "-c", program, str(site.resolve())]
    done = subprocess.run(command, cwd=elsewhere, check=True, capture_output=True, text=True, timeout=120)
    assert done.stdout.split() == ["synthetic"]
