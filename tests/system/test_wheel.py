"""The built wheel: its files, and the commands of an installed one, also between files of the same names."""

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from fixtures.federation import GENES_ONLY, tiny

REPOSITORY = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.ci_slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dist")
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    subprocess.run(build, cwd=REPOSITORY, check=True, capture_output=True, timeout=120)
    (wheel,) = folder.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def programs(wheel, tmp_path_factory):
    """Folder of the programs of a new venv: the wheel is installed in it, its dependencies come from this environment.

    A line of a .pth file adds a folder without reading the .pth files there, so the checkout that this environment has
    installed stays out.
    """
    venv = tmp_path_factory.mktemp("empty") / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(venv)], check=True, timeout=60)
    install = [sys.executable, "-m", "pip", "--python", str(venv / "bin" / "python"), "install", "--quiet", "--no-deps"]
    subprocess.run([*install, "--no-index", str(wheel)], check=True, capture_output=True, timeout=120)
    (site,) = venv.glob("lib/python*/site-packages")
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    return venv / "bin"


@pytest.fixture
def foreign(tmp_path):
    """Folder whose files have the names of this project's packages and stop a program that imports them."""
    for name in ("server", "client"):
        _write_foreign(tmp_path, name)
    return tmp_path


def _write_foreign(folder, name):
    (folder / f"{name}.py").write_text(f"raise SystemExit('foreign {name}')\n", encoding="utf-8")


def run(*command, folder):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    return subprocess.run(
        [str(word) for word in command], cwd=folder, env=environment, capture_output=True, text=True, timeout=120
    )


def test_the_wheel_holds_all_of_it_and_composes_far_from_the_checkout(wheel, tmp_path):
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


@pytest.mark.parametrize("package", ["memamba_core", "server", "client", "simulation"])
def test_the_installed_package_is_that_of_the_wheel(programs, foreign, package):
    done = run(programs / "python", "-P", "-c", f"import {package}; print({package}.__file__)", folder=foreign)
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()).is_relative_to(programs.parent)


@pytest.mark.parametrize("command", ["flower-simulate", "flower-server", "flower-client"])
def test_a_command_helps_in_a_folder_with_files_of_the_same_names(programs, foreign, command):
    for name in ("simulation", "memamba_core", "configs"):
        _write_foreign(foreign, name)
    done = run(programs / command, "--help", folder=foreign)
    assert done.returncode == 0, done.stderr
    assert command in done.stdout


@pytest.mark.parametrize("package", ["simulation", "server", "client"])
def test_python_m_helps_in_a_folder_with_files_of_the_other_names(programs, foreign, package):
    """Python itself runs a `server.py` of the current folder for `python -m server`; no package can change that."""
    (foreign / f"{package}.py").unlink(missing_ok=True)
    done = run(programs / "python", "-m", package, "--help", folder=foreign)
    assert done.returncode == 0, done.stderr
    assert "usage" in done.stdout.lower() or "flower-simulate" in done.stdout


def test_python_m_prefers_a_checkout_in_the_current_folder(programs):
    """Keep the current folder on the path where the packages lie in it, so that a checkout need not be installed."""
    done = run(programs / "python", "-v", "-m", "server", "--help", folder=REPOSITORY)
    assert done.returncode == 0, done.stderr
    assert str(REPOSITORY / "memamba_core" / "__init__.py") in done.stderr


def test_a_simulation_runs_between_foreign_files(programs, foreign):
    settings = tiny(*GENES_ONLY, "federation.num_rounds=1", "workers=2", f"output_dir={foreign / 'out'}")
    done = run(programs / "python", "-m", "simulation", *settings, folder=foreign)
    assert done.returncode == 0, done.stderr
    assert (foreign / "out" / "summary.json").is_file()
