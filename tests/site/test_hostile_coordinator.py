"""Malicious coordinator: a stock SuperLink whose run sends code and settings to an ordinary site."""

import os
import subprocess
import textwrap
import time

import pytest
from fixtures.deployment import BIN, Deployment
from fixtures.federation import tiny

from memamba_core.privacy.egress import EgressLog
from memamba_core.wire.protocol import Refusal

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

TWO = tiny(
    "data.synthetic.num_patients=24",
    "data.synthetic.num_sites=2",
    "partition.num_sites=2",
    "agreement.gene_groups=kind",
)


@pytest.fixture
def federation(tmp_path):
    deployment = Deployment(tmp_path, TWO).build()
    yield deployment
    deployment.close()


HOSTILE_SERVER = """
import json
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp import ServerApp
from memamba_core.config.experiment import Experiment
from memamba_core.wire.protocol import PROTOCOL_VERSION, package_version

app = ServerApp()

@app.main()
def main(grid, context):
    (node,) = grid.get_node_ids()
    found = []
    honest = Experiment().to_json()
    for settings in (
        honest.replace('"seed":0', '"seed":"${oc.env:HOME}"'),
        honest[:-1] + ',"hydra":{"searchpath":["/tmp"]}}',
        honest.replace('"model":{', '"model":{"_target_":"os.system",'),
    ):
        fields = {"protocol": PROTOCOL_VERSION, "package": package_version(), "run-id": "hostile", "fold": 0,
                  "settings": settings, "config-digest": Experiment().digest()}
        message = Message(RecordDict({"fields": ConfigRecord(fields)}), node, "query.facts")
        for reply in grid.send_and_receive([message], timeout=60):
            found.append(reply.error.code if reply.has_error() else "answered")
    with open("RESULT", "w") as file:
        json.dump(found, file)
"""
HOSTILE_CODE = """
from pathlib import Path
Path("MARKER").write_text("foreign code ran")
from flwr.clientapp import ClientApp
app = ClientApp()
"""
BUNDLE = """
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"
[project]
name = "hostile"
version = "0.1.0"
license = "Apache-2.0"
dependencies = ["flwr"]
[tool.flwr.app]
publisher = "unknown"
fab-include = ["**/*.py"]
[tool.flwr.app.components]
serverapp = "hostile_server:app"
clientapp = "client.app:app"
"""


def test_a_coordinator_of_bad_will_gets_neither_its_code_nor_its_settings_through(federation, tmp_path):
    """The bundle's files have the names of installed modules; the site runs the installed ones."""
    result, marker = tmp_path / "result.json", tmp_path / "marker"
    bundle = tmp_path / "bundle"
    for path, text in {
        "pyproject.toml": BUNDLE,
        "hostile_server.py": HOSTILE_SERVER.replace("RESULT", str(result)),
        "client/__init__.py": "",
        "client/app.py": HOSTILE_CODE.replace("MARKER", str(marker)),
        "client/worker.py": HOSTILE_CODE.replace("MARKER", str(marker)),
    }.items():
        (bundle / path).parent.mkdir(parents=True, exist_ok=True)
        (bundle / path).write_text(text)
    home = tmp_path / "flwr"
    home.mkdir()
    pki = federation.federation / "pki"
    connection = f'address = "127.0.0.1:{federation.port}"\nroot-certificates = "{pki / "ca.crt"}"\n'
    (home / "config.toml").write_text(f'[superlink]\ndefault = "bad"\n[superlink.bad]\n{connection}')
    environment = {
        **os.environ,
        "PATH": f"{BIN}:{os.environ['PATH']}",
        "FLWR_HOME": str(home),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    }
    superlink = f"""flower-superlink --ssl-ca-certfile {pki}/ca.crt --ssl-certfile {pki}/server.crt
        --ssl-keyfile {pki}/server.key --enable-supernode-auth --host 127.0.0.1 --port {federation.port}
        --isolation subprocess --disable-runtime-dependency-installation"""
    with (tmp_path / "superlink.log").open("wb") as log:
        server = subprocess.Popen(
            [BIN / "flower-superlink", *superlink.split()[1:]], env=environment, stdout=log, stderr=log
        )

    def flwr(*arguments):
        return subprocess.run([BIN / "flwr", *arguments], env=environment, capture_output=True, text=True, timeout=120)

    try:
        key = str(federation.site("site-01") / "keys" / "node.pub")
        deadline = time.monotonic() + 60
        while "registered" not in flwr("supernode", "register", key, "--name", "site-01").stdout:
            assert time.monotonic() < deadline, (tmp_path / "superlink.log").read_text()
            time.sleep(1)
        federation.start_sites("site-01")
        federation.wait_for("site-01", "ready for requests")
        shown = flwr("run", str(bundle), "--stream")
        assert result.is_file(), textwrap.indent(shown.stdout + shown.stderr, "  ")
    finally:
        server.terminate()
        server.wait(20)
    assert result.read_text() == str([Refusal.SETTINGS.code] * 3)
    assert not marker.exists(), "the site ran code that came with the run"
    assert [line.text for line in EgressLog(federation.site("site-01") / "state").read()] == [
        f"{Refusal.SETTINGS.code}: {Refusal.SETTINGS.text}"
    ] * 3
