"""Mutual TLS as in deploy/, with a real nginx at both ends: flower-server is unreachable without a certificate.

The commands of docs/how_to/deployment.md create the certificates.
"""

import re
import shutil
import socket
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import yaml
from fixtures.deployment import BIN, THRESHOLDS
from fixtures.federation import GENES_ONLY, experiment_overrides, tiny
from fixtures.kit import ENVIRONMENT, call
from fixtures.port_attacks import Stranger, resident_memory

REPOSITORY = Path(__file__).resolve().parents[2]
DEPLOY = REPOSITORY / "deploy"
STREAM_MODULE = Path("/usr/lib/nginx/modules/ngx_stream_module.so")  # of Debian; other builds include the module
OVERRIDES = tiny(
    *GENES_ONLY,
    "agreement.gene_groups=kind",
    "data.synthetic.num_genes=400",
    "partition.num_sites=1",
    "model.group_hidden=3000",  # 7.4 MB of weights: Flower sends bodies of 5 MB
    "federation.num_rounds=1",
    "federation.min_results=1",
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("nginx") is None, reason="needs nginx with its stream module"),
]


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def waits(port, process):
    deadline = time.monotonic() + 90
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.1)


@contextmanager
def running(command, port, **options):
    """Run a process, and yield once it listens."""
    process = subprocess.Popen(list(map(str, command)), env=ENVIRONMENT, **options)
    try:
        waits(port, process)
        yield process
    finally:
        process.terminate()
        process.wait(20)


def nginx(source, folder, port, changes):
    """Run nginx with a file of deploy/, with paths and ports of the test."""
    text = source.read_text(encoding="utf-8")
    for old, new in {**changes, "/tmp/nginx.pid": f"{folder}/{source.stem}.pid"}.items():
        assert old in text
        text = text.replace(old, new)
    if STREAM_MODULE.exists():
        text = f"load_module {STREAM_MODULE};\n{text}"
    (folder / source.name).write_text(text, encoding="utf-8")
    return running(["nginx", "-c", folder / source.name, "-e", "stderr"], port)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    """Create certificates by the commands of the page; site and coordinator share one folder here."""
    page = (REPOSITORY / "docs" / "how_to" / "deployment.md").read_text(encoding="utf-8")
    commands = re.findall(r"^\$ (openssl (?:[^\\\n]|\\\n)*)", page, re.MULTILINE)
    folder = tmp_path_factory.mktemp("certificates")
    (folder / "keys").mkdir()
    for command in commands:
        call("sh", "-c", command, cwd=folder)
    assert {p.name for p in folder.iterdir()} >= {"clients.crt", "clients.key", "client.csr"}
    return folder


@pytest.fixture(scope="module")
def gate(certificates, tmp_path_factory):
    """Run a coordinator that waits for its one site, behind a gate.

    Yields the coordinator's folder, the gate's port, the site's data, and the coordinator's process.
    """
    data = tmp_path_factory.mktemp("cohort") / "sites"
    call(BIN / "flower-simulate", "export-sites", *OVERRIDES, f"output_dir={data}")
    (exported,) = data.iterdir()
    folder = tmp_path_factory.mktemp("coordinator") / "federation"
    inner, loopback, outer = free_port(), free_port(), free_port()
    server = BIN / "flower-server"
    ports = (f"--port={inner}", f"--loopback-port={loopback}", "--listen-host=127.0.0.1")
    call(server, "init", folder, "--address=localhost", *ports)
    call(BIN / "flower-client", "keygen", folder.parent / "keys")
    call(server, "enroll", exported.name, folder.parent / "keys" / "node.pub", "--dir", folder)
    changes = {
        "listen 8444": f"listen 127.0.0.1:{outer}",
        "127.0.0.1:8443": f"127.0.0.1:{inner}",
        "/etc/federation/clients.crt": f"{certificates}/clients.crt",
        "/etc/federation/server": f"{folder}/pki/server",
    }
    run = [server, "run", "--dir", folder, "name=run", "wait_s=200", *experiment_overrides(OVERRIDES)]
    with ExitStack() as stack:
        process = stack.enter_context(running(run, inner, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL))
        stack.enter_context(nginx(DEPLOY / "coordinator" / "gate.conf", folder.parent, outer, changes))
        yield folder, outer, exported, process


@contextmanager
def tunnel(gate, folder, certificate):
    """Run the site end; yield the port on which the site's programs reach the coordinator."""
    federation, outer, _, _ = gate
    near = free_port()
    changes = {
        "127.0.0.1:8443": f"127.0.0.1:{near}",
        "coordinator.example.org:8443": f"127.0.0.1:{outer}",
        "coordinator.example.org": "localhost",
        "/etc/federation/ca.crt": f"{federation}/pki/ca.crt",
        "/etc/federation/client": str(certificate),
    }
    with nginx(DEPLOY / "site" / "tunnel.conf", folder, near, changes):
        yield near


def reach(url, ca):
    """Get a page and return its HTTP status."""
    with urllib.request.urlopen(url, timeout=20, context=ssl.create_default_context(cafile=ca)) as response:
        return response.status


def test_a_client_without_a_certificate_does_not_get_through(gate):
    federation, outer, _, _ = gate
    with pytest.raises((ssl.SSLError, urllib.error.URLError, ConnectionError)):
        reach(f"https://localhost:{outer}/health", federation / "pki" / "ca.crt")


def test_a_certificate_of_another_authority_does_not_get_through(gate, tmp_path):
    federation, *_ = gate
    call(
        *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-384", "-nodes"),
        *("-subj", "/CN=st-elsewhere", "-keyout", tmp_path / "other.key", "-out", tmp_path / "other.crt"),
    )
    with tunnel(gate, tmp_path, tmp_path / "other") as port, pytest.raises((OSError, urllib.error.URLError)):
        reach(f"https://localhost:{port}/health", federation / "pki" / "ca.crt")


def test_idle_connections_at_the_gate_keep_no_site_out(gate, certificates, tmp_path):
    federation, outer, _, coordinator = gate
    stranger, memory = Stranger(outer), resident_memory(coordinator.pid)
    with tunnel(gate, tmp_path, certificates / "keys" / "client") as port:
        stranger.idle(700)
        assert stranger.alive() <= 300
        assert reach(f"https://localhost:{port}/health", federation / "pki" / "ca.crt") == 200
        time.sleep(13)
        assert stranger.alive() == 0
    stranger.close()
    assert resident_memory(coordinator.pid) - memory < 20


def test_a_site_with_a_certificate_takes_part_in_a_run(gate, certificates, tmp_path):
    federation, _, exported, coordinator = gate
    with tunnel(gate, tmp_path, certificates / "keys" / "client") as port:
        assert reach(f"https://localhost:{port}/health", federation / "pki" / "ca.crt") == 200
        site = tmp_path / "site.yaml"
        settings = yaml.safe_load((exported / "site.yaml").read_text(encoding="utf-8"))
        settings["data"]["root"] = str(exported)
        settings["approve"] = "automatic"
        settings["disclosure"] = THRESHOLDS
        settings["limits"] = {**settings.get("limits", {}), "settings": ["*"]}  # also a larger model
        settings["coordinator"] = {
            "address": f"localhost:{port}",
            "ca": str(federation / "pki" / "ca.crt"),
            "keys": str(federation.parent / "keys"),
        }
        site.write_text(yaml.safe_dump(settings), encoding="utf-8")
        with running([BIN / "flower-client", "run", site], port, stderr=subprocess.DEVNULL):
            assert coordinator.wait(240) == 0
        assert (federation / "runs" / "run" / "model.safetensors").stat().st_size > 6_000_000
        left = call(BIN / "flower-client", "egress", site)
        assert "TrainReply" in left
