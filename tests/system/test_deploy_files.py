"""Files of `deploy/` and the Dockerfile: locks, mounts, networks, versions, and agreement with the docs."""

import importlib.util
import re
import subprocess
import sys
import tomllib
from fnmatch import fnmatch
from pathlib import Path

import pytest
import yaml

REPOSITORY = Path(__file__).resolve().parents[2]
DEPLOY = REPOSITORY / "deploy"
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
DOCKERFILE = (REPOSITORY / "Dockerfile").read_text(encoding="utf-8")
COMPOSE_FILES = sorted(DEPLOY.glob("*/compose*.yaml"))
SITE = yaml.safe_load((DEPLOY / "site" / "compose.yaml").read_text(encoding="utf-8"))
COORDINATOR = yaml.safe_load((DEPLOY / "coordinator" / "compose.yaml").read_text(encoding="utf-8"))
SERVICES = {f"{file['name']}/{name}": s for file in (SITE, COORDINATOR) for name, s in file["services"].items()}


def mounts(service):
    """Map each target in the container to (source on the host, True if writable)."""
    volumes = service.get("volumes", [])
    assert all(v["type"] == "bind" and v["bind"] == {"create_host_path": False} for v in volumes)
    return {v["target"]: (v["source"], not v.get("read_only", False)) for v in volumes}


def test_the_compose_files_keep_to_the_specification():
    done = subprocess.run(
        [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", *map(str, COMPOSE_FILES)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", SERVICES)
def test_a_container_can_do_no_more_than_it_must(name):
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["pids_limit"] <= 512
    uid = re.fullmatch(r"\$\{\w+_USER:-(\d+):(\d+)\}", service["user"])
    assert uid is not None
    assert int(uid[1]) > 0
    assert int(uid[2]) > 0
    assert not {"privileged", "cap_add", "devices", "pid", "ipc", "env_file", "secrets"} & set(service)
    assert not any("docker.sock" in source for source, _ in mounts(service).values())


@pytest.mark.parametrize("name", [name for name in SERVICES if not name.endswith("/setup")])
def test_a_container_that_stays_has_a_limit_of_memory(name):
    assert "mem_limit" in SERVICES[name]


@pytest.mark.parametrize("name", SERVICES)
def test_an_image_is_named_by_its_version(name):
    image = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", SERVICES[name]["image"])
    repository, _, tag = image.rpartition(":")
    if repository == "memamba-federated":
        assert tag == PROJECT["project"]["version"]
    else:
        assert re.fullmatch(r"\d+\.\d+\.\d+(-alpine)?", tag), image


def test_the_executor_has_no_way_out_and_the_connector_no_data():
    connector, executor = SITE["services"]["connector"], SITE["services"]["executor"]
    assert SITE["networks"]["inside"] == {"internal": True}
    assert executor["networks"] == ["inside"]
    assert "network_mode" not in executor
    assert set(mounts(connector)) == {"/site/site.yaml", "/site/ca.crt", "/site/keys"}
    assert not any(writable for _, writable in mounts(connector).values())
    assert {target for target, (_, writable) in mounts(executor).items() if writable} == {"/site/state"}
    assert mounts(executor)["/site/data"] == ("${DATA:-./data}", False)
    # The container that opens patients' files must not read the node key, by which the connector authenticates.
    assert {t for t in mounts(executor) if t.startswith("/site/keys")} == {"/site/keys/runtime.secret"}
    assert SITE["services"]["setup"]["network_mode"] == "none"


def test_one_port_of_the_coordinator_is_reachable_and_none_of_a_site():
    assert not any("ports" in service for service in SITE["services"].values())
    assert COORDINATOR["services"]["coordinator"]["ports"] == ["${LISTEN:-8443}:${CONTAINER_PORT:-8443}"]
    assert "ports" not in COORDINATOR["services"]["gate"]


def test_a_container_may_take_as_long_to_end_as_its_program_does():
    for name in ("connector", "executor"):
        assert SITE["services"][name]["stop_grace_period"] == "15s"  # client.interrupts ends the process after 9
    assert COORDINATOR["services"]["coordinator"]["stop_grace_period"] == "15s"


@pytest.mark.parametrize("side", ["coordinator", "site"])
def test_every_variable_is_explained(side):
    folder = DEPLOY / side
    used = {
        match
        for path in folder.glob("compose*.yaml")
        for match in re.findall(r"\$\{(\w+)", path.read_text(encoding="utf-8"))
    }
    explained = set(re.findall(r"^#?([A-Z_]+)=", (folder / "env.example").read_text(encoding="utf-8"), re.MULTILINE))
    of_compose_itself = {"COMPOSE_FILE", "COMPOSE_PROFILES"}
    on_the_command_line = {"RUN"}
    assert used - on_the_command_line - explained == {"NGINX_IMAGE"}
    assert explained - used <= of_compose_itself


def test_the_gpu_file_changes_nothing_but_what_a_gpu_needs():
    gpu = yaml.safe_load((DEPLOY / "site" / "compose.gpu.yaml").read_text(encoding="utf-8"))
    assert set(gpu["services"]) == {"executor"}
    assert set(gpu["services"]["executor"]) == {"image", "tmpfs", "environment", "deploy"}


def test_nothing_secret_is_in_deploy():
    for path in DEPLOY.rglob("*"):
        if path.is_file():
            text = path.read_text(encoding="utf-8")
            assert "BEGIN" not in text, path
            assert path.suffix in {".yaml", ".conf", ".sh", ".example"}, path


def test_the_image_is_pinned_and_runs_as_an_unprivileged_user():
    assert "ARG BASE_IMAGE=python:3.11-slim-bookworm\n" in DOCKERFILE
    commands = re.split(r"&&|\n", DOCKERFILE.replace("\\\n", " "))
    installs = [command for command in commands if re.search(r"/pip .*install ", command)]
    assert len(installs) == 3
    for command in installs:
        assert "--constraint constraints.txt" in command or "--no-deps" in command, command
    final = DOCKERFILE.rpartition("\nFROM ")[2]
    assert "\nUSER 10001:10001\n" in final
    assert re.search(r"^ARG VERSION=(.*)$", final, re.MULTILINE)[1] == PROJECT["project"]["version"]
    (compiler,) = [line for line in final.splitlines() if "gcc" in line]
    assert compiler.startswith('RUN if [ "${GPU}" = yes ]; then apt-get')
    assert "\nARG GPU=no\n" in final
    for extra in re.search(r"^# EXTRAS .*: (.*)$", DOCKERFILE, re.MULTILINE)[1].split(", "):
        assert extra in PROJECT["project"]["optional-dependencies"]


def test_what_goes_to_the_build_is_named_one_by_one():
    lines = (REPOSITORY / ".dockerignore").read_text(encoding="utf-8").splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*"
    let_in = {rule[1:] for rule in rules if rule.startswith("!")}
    assert {rule for rule in rules[1:] if not rule.startswith("!")} == {"**/__pycache__", "**/*.pyc"}
    wheel = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert let_in == {
        *wheel["packages"],
        *{path.split("/")[0] for path in wheel["force-include"]},
        *{"pyproject.toml", "constraints.txt", PROJECT["project"]["readme"], *PROJECT["project"]["license-files"]},
    }
    assert not any(fnmatch(name, "*.key") for name in let_in)


def test_what_the_dockerfile_imports_and_runs_is_there():
    imported = re.findall(r"python -c 'import ([\w.]+)'", DOCKERFILE)
    assert imported
    assert all(importlib.util.find_spec(name) for name in imported)
    copied = re.findall(r"^COPY (?:--chmod=\d+ )?(?!--)(\S+) \S", DOCKERFILE, re.MULTILINE)
    assert copied
    assert all((REPOSITORY / path).exists() for path in copied)


def test_the_page_names_tests_and_arguments_that_exist():
    page = (REPOSITORY / "docs" / "how_to" / "deployment.md").read_text(encoding="utf-8")
    folder = REPOSITORY / "tests"
    tests = {str(path.relative_to(folder)): path.read_text(encoding="utf-8") for path in folder.rglob("test_*.py")}
    everything = "\n".join(tests.values())
    assert set(re.findall(r"`(?:tests/)?([a-z_/]*test_\w+\.py)", page)) <= set(tests)
    named = set(re.findall(r"::(test_\w+)", page))
    assert len(named) > 10
    assert {name for name in named if f"def {name}(" not in everything} == set()
    head = DOCKERFILE.partition("\nFROM")[0]
    arguments = set(re.findall(r"^\| `([A-Z_]+)` \|", page, re.MULTILINE))
    assert arguments == set(re.findall(r"^# ([A-Z_]{3,})  ", head, re.MULTILINE))
    assert arguments <= set(re.findall(r"^ARG (\w+)", DOCKERFILE, re.MULTILINE))
