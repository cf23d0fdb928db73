"""Image and Compose files in use: a coordinator and two sites, two containers per site, for two rounds.

Needs podman (as root, where containers may have networks) and podman-compose: `make test-containers`. Three environment
variables serve machines without a registry: BASE_IMAGE, BUILD_OPTIONS for `podman build`, and NGINX_IMAGE, whose nginx
has its stream module loaded.
"""

import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from fixtures.deployment import BIN
from fixtures.federation import experiment_overrides, tiny
from fixtures.kit import call, unpack_kit

from memamba_core.wire.protocol import package_version

REPOSITORY = Path(__file__).resolve().parents[2]
IMAGE = f"localhost/memamba-federated:test-{package_version()}"
USER = "10001:10001"
PORT, MUTUAL_PORT = 18643, 18645
ROUNDS = 2
OVERRIDES = tiny(
    "agreement.gene_groups=kind", "partition.num_sites=2", f"federation.num_rounds={ROUNDS}", "federation.min_results=2"
)
ONE_ROUND = experiment_overrides(tiny("agreement.gene_groups=kind", "partition.num_sites=2", "federation.num_rounds=1"))
SERVER = ("run", "--rm", "--no-deps", "coordinator", "flower-server")
COMPOSE = [sys.executable, "-m", "podman_compose"]

pytestmark = [
    pytest.mark.containers,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(os.geteuid() != 0 or shutil.which("podman") is None, reason="needs podman, as root"),
]


def podman(*arguments, timeout_s=120):
    return call("podman", *arguments, timeout_s=timeout_s)


class Project:
    """Folder with a Compose file, of the coordinator or of a site."""

    def __init__(self, folder, name, **variables):
        self.folder, self.name = folder, name
        self._environment = {**os.environ, "IMAGE": IMAGE, **variables}

    def vary(self, **variables):
        self._environment |= variables

    def compose(self, *arguments, timeout_s=120):
        command = [*COMPOSE, "--project-name", self.name, *arguments]
        return call(*command, cwd=self.folder, env=self._environment, timeout_s=timeout_s)

    def exec(self, service, *command):
        return podman("exec", self.container(service), *command)

    def fails(self, service, *command):
        done = subprocess.run(["podman", "exec", self.container(service), *command], capture_output=True, text=True)
        return done.returncode != 0 and done.stderr

    def logs(self, service):
        """Return the logs of a container; empty if there is no such container."""
        done = subprocess.run(
            ["podman", "logs", self.container(service)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        return done.stdout if done.returncode == 0 else ""

    def show_logs(self):
        for service in ("coordinator", "connector", "executor"):
            if logs := self.logs(service):
                print(f"-- {self.name} {service}\n{logs}")

    def container(self, service):
        return f"{self.name}_{service}_1"


@pytest.fixture(scope="session")
def image():
    """Build the image from the Dockerfile."""
    begin = time.monotonic()
    base = ["--build-arg", f"BASE_IMAGE={os.environ['BASE_IMAGE']}"] if "BASE_IMAGE" in os.environ else []
    options = shlex.split(os.environ.get("BUILD_OPTIONS", ""))
    podman("build", *base, *options, "--tag", IMAGE, REPOSITORY, timeout_s=3000)
    size = int(podman("image", "inspect", IMAGE, "--format", "{{.Size}}"))
    print(f"\nimage: {size / 1e9:.2f} GB, built in {time.monotonic() - begin:.0f} s")
    return IMAGE


def in_image(*command):
    """Return the output of a command in a container with the locks of the Compose files."""
    locks = ("--read-only", "--cap-drop=all", "--security-opt=no-new-privileges", "--network=none", "--tmpfs=/tmp")
    return podman("run", "--rm", *locks, IMAGE, *command)


def test_the_image_holds_the_commands_and_no_compiler(image):
    assert in_image("id", "--user").strip() == "10001"
    for command in ("flower-server", "flower-client", "flower-simulate"):
        assert in_image(command, "--help")
    for tool in ("cc", "gcc", "g++", "c++", "clang", "ld", "as", "make", "git"):
        assert in_image("sh", "-c", f"command -v {tool} || echo none").strip() == "none", tool
    labels = json.loads(podman("image", "inspect", IMAGE, "--format", "{{json .Labels}}"))
    assert labels["org.opencontainers.image.version"] == package_version()
    assert labels["org.opencontainers.image.base.name"]


def test_the_scan_was_compiled_with_the_image(image):
    """The root file system is read-only, so all kernels come from the disk."""
    program = (
        "from memamba_core.model.scan.cpu import kernels as k\n"
        "for kernel in (k.scan_forward, k.scan_backward, k.sum_parts, k.conv_forward, k.conv_backward):\n"
        "    assert kernel.stats.cache_hits and not kernel.stats.cache_misses, kernel.stats\n"
    )
    in_image("python", "-c", program)


@pytest.fixture(scope="session")
def cohort(image, tmp_path_factory):
    """Export the data of each site, a folder each."""
    folder = tmp_path_factory.mktemp("cohort") / "data"
    call(BIN / "flower-simulate", "export-sites", *OVERRIDES, f"output_dir={folder}")
    return sorted(folder.iterdir())


def set_up(folder, cohort, label, port):
    """Set up coordinator and sites as the page describes: keys generated, sites enrolled, no container started."""
    coordinator = Project(
        shutil.copytree(REPOSITORY / "deploy" / "coordinator", folder / "coordinator"),
        f"{label}-coordinator",
        LISTEN=str(port),
        RUN=" ".join(["name=run", "fold=0", *experiment_overrides(OVERRIDES)]),
    )
    make_for_container(coordinator.folder / "federation")
    coordinator.compose(
        *SERVER, "init", "/federation", "--address", own_address(), f"--port={port}", "--listen-port=8443"
    )
    sites = []
    for exported in cohort:
        name = exported.name
        coordinator.compose(*SERVER, "kit", name)
        kit = coordinator.folder / "federation" / "kits" / f"{name}.zip"
        folder_of_site = unpack_kit(kit, exported, folder / name, root="data")
        site = Project(folder_of_site, f"{label}-{name}", DATA=str(exported))
        for part in ("keys", "state"):
            make_for_container(site.folder / part)
        site.compose("--profile", "setup", "run", "--rm", "setup", "flower-client", "keygen", "keys")
        shutil.copy(site.folder / "keys" / "node.pub", coordinator.folder / "federation" / f"{name}.pub")
        coordinator.compose(*SERVER, "enroll", name, f"/federation/{name}.pub")
        sites.append(site)
    return coordinator, sites


@contextmanager
def after_a_run(coordinator, sites):
    """Start the sites' containers and run the coordinator once; the sites' containers stay up."""
    try:
        for site in sites:
            site.compose("up", "--detach")
        begin = time.monotonic()
        coordinator.compose("up", "--abort-on-container-exit", timeout_s=600)
        print(f"run of {ROUNDS} rounds: {time.monotonic() - begin:.0f} s")
        yield coordinator, sites
    finally:
        for project in (*sites, coordinator):
            project.show_logs()
            project.compose("down")


@pytest.fixture(scope="session")
def federation(cohort, tmp_path_factory):
    """Coordinator and sites after a run of two rounds; the sites' containers are up."""
    with after_a_run(*set_up(tmp_path_factory.mktemp("federation"), cohort, "mm", PORT)) as both:
        yield both


@pytest.fixture(scope="session")
def connected(federation, tmp_path_factory):
    """The same sites in a second run, which waits for a third site; without a coordinator a SuperNode would end."""
    coordinator, sites = federation
    keys = tmp_path_factory.mktemp("absent")
    call(BIN / "flower-client", "keygen", keys)
    shutil.copy(keys / "node.pub", coordinator.folder / "federation" / "absent.pub")
    coordinator.compose(*SERVER, "enroll", "absent", "/federation/absent.pub")
    coordinator.vary(RUN=" ".join(["name=waiting", "wait_s=3600", *experiment_overrides(OVERRIDES)]))
    coordinator.compose("up", "--detach")
    within(300, lambda: "2 of 3 sites connected, waiting for absent" in coordinator.logs("coordinator"))
    return sites


def within(seconds, is_so):
    end = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < end
        time.sleep(1)


def make_for_container(folder):
    folder.mkdir(mode=0o700)
    os.chown(folder, *map(int, USER.split(":")))


def own_address():
    """Return the address at which containers reach this machine; no packet is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))
        return probe.getsockname()[0]


def test_both_sites_took_part_in_every_round(federation):
    coordinator, sites = federation
    run = coordinator.folder / "federation" / "runs" / "run"
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    names = [site.folder.name for site in sites]
    assert [(r["round"], r["site"]) for r in records] == [(n, s) for n in range(1, ROUNDS + 1) for s in names]
    assert not any("failure" in record for record in records)
    assert (run / "model.safetensors").stat().st_size > 0


def test_what_left_is_in_the_log_of_the_site(federation):
    for site in federation[1]:
        left = site.exec("executor", "flower-client", "egress", "site.yaml")
        assert len(re.findall("TrainReply", left)) == ROUNDS
        assert (site.folder / "state" / "runs" / "run" / "model.safetensors").exists()


@pytest.mark.parametrize("service", ["connector", "executor"])
def test_a_container_that_is_connected_is_healthy(connected, service):
    for site in connected:
        podman("healthcheck", "run", site.container(service))


CONNECT = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), 5)"


def test_the_executor_reaches_its_connector_and_nothing_else(connected):
    for site in connected:
        site.exec("executor", "python", "-c", CONNECT, "connector", "9094")
        for host, port in ((own_address(), PORT), ("192.0.2.1", 443)):
            assert "Network is unreachable" in site.fails("executor", "python", "-c", CONNECT, host, str(port))
        assert "Name or service not known" in site.fails("executor", "python", "-c", CONNECT, "example.org", "443")
        routes = site.exec("executor", "cat", "/proc/net/route").splitlines()[1:]
        assert routes
        assert not any(route.split()[1] == "00000000" for route in routes)  # no default route


@pytest.mark.parametrize("service", ["connector", "executor"])
def test_a_container_has_no_rights(federation, service):
    for site in federation[1]:
        status = dict(re.findall(r"^(\w+):\s+(.*)$", site.exec(service, "cat", "/proc/1/status"), re.MULTILINE))
        assert status["Uid"].split() == ["10001"] * 4
        assert {status[kind] for kind in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {"0" * 16}
        assert status["NoNewPrivs"] == "1"
        for path in ("/here", "/opt/memamba/here", "/site/here"):
            assert "Read-only file system" in site.fails(service, "touch", path)


def test_the_executor_cannot_change_data_and_the_connector_does_not_see_it(federation):
    for site in federation[1]:
        assert "Read-only file system" in site.fails("executor", "touch", "/site/data/here")
        assert site.fails("executor", "cat", "/site/keys/node.key")
        assert site.fails("connector", "ls", "/site/data")
        assert site.fails("connector", "ls", "/site/state")


def is_running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_container_ends_in_time_on_sigterm(federation):
    for site in federation[1]:
        for service in ("executor", "connector"):
            pid = int(podman("inspect", site.container(service), "--format", "{{.State.Pid}}"))
            begin = time.monotonic()
            stop = subprocess.Popen(
                ["podman", "stop", "--time", "30", site.container(service)], stdout=subprocess.DEVNULL
            )
            while is_running(pid) and time.monotonic() - begin < 30:
                time.sleep(0.05)
            seconds = time.monotonic() - begin
            print(f"{site.name} {service}: ended {seconds:.1f} s after SIGTERM")
            assert stop.wait(60) == 0
            assert podman("inspect", site.container(service), "--format", "{{.State.ExitCode}}").strip() == "0"
            assert seconds < 10


def certify(coordinator, site):
    """Create certificates by the commands of the page, and hand them to site and coordinator."""
    page = (REPOSITORY / "docs" / "how_to" / "deployment.md").read_text(encoding="utf-8")
    for command in re.findall(r"^\$ (openssl (?:[^\\\n]|\\\n)*)", page, re.MULTILINE):
        call("sh", "-c", command, cwd=site.folder)
    shutil.copy(site.folder / "clients.crt", coordinator.folder)
    for path in (coordinator.folder / "clients.crt", *(site.folder / "keys").glob("client.*")):
        os.chown(path, *map(int, USER.split(":")))


def test_mutual_tls_by_the_profile(cohort, tmp_path_factory):
    """One site has a certificate of the second authority and takes part in the run; the other has none."""
    if "NGINX_IMAGE" not in os.environ:
        call("podman", "pull", "--quiet", "docker.io/library/nginx:1.28.0-alpine")
    folder = tmp_path_factory.mktemp("mutual")
    coordinator, (site, uncertified) = set_up(folder, cohort, "mtls", MUTUAL_PORT)
    certify(coordinator, site)
    coordinator.vary(COMPOSE_PROFILES="mtls", CONTAINER_PORT="8444")
    coordinator.vary(RUN=f"name=run fold=0 {' '.join(ONE_ROUND)} min_sites=1 wait_s=60")
    site.vary(COMPOSE_PROFILES="mtls")
    tunnel, settings = site.folder / "tunnel.conf", site.folder / "site.yaml"
    here = f"{own_address()}:{MUTUAL_PORT}"
    marked = tunnel.read_text(encoding="utf-8").replace("coordinator.example.org:8443", here)
    tunnel.write_text(marked.replace("coordinator.example.org", "localhost"), encoding="utf-8")
    settings.write_text(settings.read_text(encoding="utf-8").replace(here, "localhost:8443"), encoding="utf-8")
    with after_a_run(coordinator, [site, uncertified]):
        summary = json.loads((coordinator.folder / "federation" / "runs" / "run" / "summary.json").read_text())
        assert set(summary["sites"]) == {site.folder.name}
        assert (site.folder / "state" / "egress.jsonl").exists()
        assert not (uncertified.folder / "state" / "egress.jsonl").exists()
