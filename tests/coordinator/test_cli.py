"""`flower-server` on the command line: a mistake gives one sentence and an exit code, and changes nothing."""

import re
import socket
import subprocess
import sys
import zipfile
from functools import partial
from pathlib import Path

import pytest
import yaml
from fixtures.federation import GENES_ONLY, Federation, tiny
from fixtures.hostile_answers import LIES
from flwr.app import Message

from memamba_core.config.site import load_site_config
from memamba_core.errors import ConfigError, FederationError
from server import cli
from server.admin.folder import open_folder
from server.admin.kit import kit_files
from server.exit_codes import ExitCode
from server.flower.superlink import SuperLink
from server.results import build_summary


@pytest.fixture
def call(monkeypatch, capsys):
    """Run a command; return its code and its output."""

    def run(*arguments):
        monkeypatch.setattr("sys.argv", ["flower-server", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        wrote = capsys.readouterr()
        return caught.value.code, wrote.out + wrote.err

    return run


@pytest.fixture
def federation(tmp_path, call, monkeypatch):
    """A new federation, named by the environment."""
    folder = tmp_path / "federation"
    code, _ = call("init", folder, "--address", "coordinator.example.org", "--address", "192.0.2.7", "--port", 9443)
    assert code == ExitCode.DONE
    monkeypatch.setenv("MEMAMBA_SERVER_DIR", str(folder))
    return open_folder(folder)


@pytest.fixture
def public_key(tmp_path):
    """A site's node.pub."""
    subprocess.run(["ssh-keygen", "-q", "-t", "ecdsa", "-b", "384", "-N", "", "-f", tmp_path / "node"], check=True)
    return tmp_path / "node.pub"


def state_of(folder: Path):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_from_init_to_a_roster(federation, call, public_key):
    code, said = call("enroll", "st-elsewhere", public_key)
    fingerprint = re.search(r"SHA256:\S+", said).group()
    assert (code, federation.roster().names) == (ExitCode.DONE, ("st-elsewhere",))
    assert fingerprint in call("roster")[1]
    assert call("remove", "st-elsewhere")[0] == ExitCode.DONE
    assert "no site is enrolled" in call("roster")[1]


def test_renewing_says_until_when(federation, call):
    before = federation.pki.server_certificate.read_bytes()
    code, said = call("renew")
    assert (code, "valid until 20" in said) == (ExitCode.DONE, True)
    assert federation.pki.server_certificate.read_bytes() != before


def test_a_kit_holds_what_a_site_needs_and_no_secret(federation, call, public_key, tmp_path):
    call("enroll", "st-elsewhere", public_key)
    code, _ = call("kit", "st-elsewhere", "--output", tmp_path / "kit.zip")
    assert code == ExitCode.DONE
    with zipfile.ZipFile(tmp_path / "kit.zip") as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
        archive.extractall(tmp_path)
    assert {"st-elsewhere/site.yaml", "st-elsewhere/ca.crt", "st-elsewhere/GUIDE.md"} <= set(files)
    content = b"".join(files.values())
    assert b"PRIVATE" not in content
    assert federation.runtime_secret.read_bytes() not in content
    assert federation.pki.authority_fingerprint().encode() in files["st-elsewhere/GUIDE.md"]
    assert not re.search(rb"\$\{?[a-z]", files["st-elsewhere/GUIDE.md"] + files["st-elsewhere/site.yaml"])
    site = load_site_config(tmp_path / "st-elsewhere" / "site.yaml")
    assert site.name == "st-elsewhere"
    assert site.coordinator.address == "coordinator.example.org:9443"
    assert site.coordinator.ca == tmp_path / "st-elsewhere" / "ca.crt"


def test_a_kit_has_the_same_bytes_each_time_and_another_address_if_asked(federation, call, tmp_path):
    for name in ("one", "two"):
        call("kit", "12", "--output", tmp_path / f"{name}.zip", "--address", "192.0.2.7")
    assert (tmp_path / "one.zip").read_bytes() == (tmp_path / "two.zip").read_bytes()
    with zipfile.ZipFile(tmp_path / "one.zip") as archive:
        site = yaml.safe_load(archive.read("12/site.yaml"))
    assert (site["name"], site["coordinator"]["address"]) == ("12", "192.0.2.7:9443")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["enroll", "st-elsewhere", "nowhere.pub"], "nowhere.pub: not readable"),
        (["enroll", "a b", "KEY"], "name"),
        (["enroll", "st-elsewhere", "PRIVATE"], "PRIVATE key"),
        (["enroll", "st-elsewhere", "KEY", "--replace"], "not enrolled"),
        (["remove", "st-elsewhere"], "not enrolled"),
        (["kit", "../up"], "name"),
        (["kit", "a", "--address", "elsewhere.org"], "not in the server certificate"),
        (["kit", "a", "--output", "/nowhere/kit.zip"], "cannot be written"),
        (["roster", "--dir", "/nowhere"], "not the folder of a federation"),
        (["init", "FOLDER", "--address", "a.org"], "folder of a federation exists already"),
        (["init", "/tmp/never-made", "--address", "https://a.org"], "without https://"),
        (["run", "seed"], "expected key=value"),
        (["run", "sites=a", "sites=b"], "given twice"),
        (["run", "min_sites=0"], "min_sites"),
        (["run"], "no site is enrolled"),
        (["run", "sites=unknown"], "unknown is not enrolled"),
        (["run", "resume=nothing"], "no such run"),
        (["run", "resume=nothing", "seed=1"], "leave out seed=1"),
        (["run", "signatures=nowhere.csv"], "no site"),
    ],
)
def test_a_mistake_is_a_sentence_and_changes_nothing(
    federation, call, public_key, tmp_path, monkeypatch, arguments, words
):
    monkeypatch.chdir(tmp_path)
    known = {"KEY": public_key, "PRIVATE": public_key.with_suffix(""), "FOLDER": federation.path}
    before = state_of(tmp_path)
    code, said = call(*(known.get(a, a) for a in arguments))
    assert (code, said.startswith("error: "), said.count("\n")) == (ExitCode.MISTAKE, True, 1)
    assert words in said
    assert state_of(tmp_path) == before


def test_behind_a_port_mapping(tmp_path, call):
    """Sites connect to one port; this machine listens on another."""
    with socket.create_server(("127.0.0.1", 0)) as taken, socket.create_server(("127.0.0.1", 0)) as free:
        listen, loopback = taken.getsockname()[1], free.getsockname()[1]
        free.close()
        ports = ("--port", 443, "--listen-host", "127.0.0.1", "--listen-port", listen, "--loopback-port", loopback)
        code, said = call("init", tmp_path / "mapped", "--address", "localhost", *ports)
        assert (code, "sites connect to localhost:443;" in said) == (ExitCode.DONE, True)
        folder = open_folder(tmp_path / "mapped")
        assert yaml.safe_load(kit_files(folder, "county")["site.yaml"])["coordinator"]["address"] == "localhost:443"
        with pytest.raises(ConfigError, match=f"port {listen} of 127.0.0.1 .* listen_port in coordinator.yaml"):
            SuperLink(folder).__enter__()


def test_a_run_that_never_began_is_not_said_to_be_resumable(federation, call, public_key, monkeypatch):
    """The SuperLink may fail to start: no folder of a run exists yet."""
    call("enroll", "county", public_key)

    def fails(folder, plan, console, begin=False):
        if begin:
            plan.folder.mkdir()
            (plan.folder / "settings.json").write_text("{}")
        raise FederationError("the SuperLink does not start")

    monkeypatch.setattr("server.deployment.run_deployment", fails)
    code, said = call("run", "name=first", "agreement.gene_groups=kind")
    assert (code, said) == (ExitCode.UNFINISHED, "error: the SuperLink does not start\n")
    monkeypatch.setattr("server.deployment.run_deployment", partial(fails, begin=True))
    code, said = call("run", "name=first", "agreement.gene_groups=kind")
    assert said == "error: the SuperLink does not start. When that is mended: flower-server run resume=first\n"


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ("seed=${oc.env:HOME}", "seed: got "),
        ("model=elsewhere", "there is no 'model/elsewhere'"),
        ("model._target_=os.system", "unknown setting 'model._target_'"),
        ("data=synthetic", "unknown setting 'data'; expected one of the run (name, resume"),
        ("nme=first", "or of the experiment (seed, agreement, model"),
        ("federation.num_round=3", "unknown setting 'federation.num_round'; nearest is num_rounds"),
        ("name=first/run", "got 'first/run'. Wanted at most 64 letters, digits"),
        ("federation.num_rounds=0", "num_rounds"),
        ("agreement.gene_groups=kind federation.min_results=2", "but there is 1 site; lower it"),
        (
            "agreement.gene_groups=kind strategy=krum strategy.num_malicious_sites=1",
            "num_malicious_sites=1 needs 5 sites, but there is 1 site; use strategy=fedmedian",
        ),
        ("min_sites=2", "expected at most 1, the sites that are asked: county"),
        ("agreement.gene_groups=signatures", "Add signatures=FILE"),
        ("signatures=nowhere.csv", "no such file"),
        ("signatures=Köln(neu)/a=1,2{}.csv", "Köln(neu)/a=1,2{}.csv: no such file"),
        ("name=Köln(neu)", "got 'Köln(neu)'. Wanted at most 64 letters, digits"),
    ],
)
def test_settings_that_cannot_be_used_are_refused_at_once(federation, call, public_key, overrides, words):
    call("enroll", "county", public_key)
    before = state_of(federation.path)
    code, said = call("run", *overrides.split())
    assert (code, words in said) == (ExitCode.MISTAKE, True), said
    assert state_of(federation.path) == before


def test_without_a_run_there_is_nothing_to_look_at_or_stop(federation, call):
    for command in ("status", "stop"):
        code, said = call(command)
        assert (code, "no run is in progress" in said) == (ExitCode.NOT_RUNNING, True)


def test_help_answers_at_once_and_names_the_exit_codes():
    program = """
import sys
from server.cli import main
try:
    main()
finally:
    print(sorted({"torch", "flwr", "hydra"} & {*sys.modules}))
"""
    done = subprocess.run([sys.executable, "-c", program, "--help"], capture_output=True, text=True, check=True)
    assert "[]\n" in done.stdout  # what takes its time to import is not imported
    for code in ExitCode:
        assert code.meaning in done.stdout


@pytest.mark.parametrize("lies", [False, True])
def test_a_run_that_a_site_missed_has_an_exit_code_of_its_own(federation, call, public_key, monkeypatch, lies):
    def no_number(message, reply):
        if message.metadata.message_type != "train":
            return reply
        return Message(LIES["NaN"][0](reply.content), reply_to=message)

    settings = tiny(*GENES_ONLY, "federation.num_rounds=1", "federation.min_results=3")
    finished = Federation(settings, faults={"site-02": no_number} if lies else {})
    summary = build_summary(finished.run(), finished.train())
    monkeypatch.setattr("server.deployment.run_deployment", lambda *_: summary)
    monkeypatch.setattr("server.cli._end_within_grace", lambda: None)
    call("enroll", "county", public_key)
    code, said = call("run", "agreement.gene_groups=kind")
    assert code == (ExitCode.INCOMPLETE if lies else ExitCode.DONE)
    assert said.startswith(f"{summary.attendance.text}\n")
    assert f"{3 if lies else 4} of 4 sites, " in said
    assert ("missing: site-02 (1 of 1 rounds)" in said) == lies
    assert "\n1 rounds, " in said
    assert f"loss of the final model: {summary.closing_evaluation.loss:.3f}, of " in said
    ended = "round 2: the privacy budget of every site that was asked is spent; the model of round 1 is final"
    summary = summary.model_copy(update={"ended_early": ended, "warnings": (*summary.warnings, ended)})
    code, said = call("run", "agreement.gene_groups=kind")
    assert code == ExitCode.INCOMPLETE
    assert said.endswith(f"\nended early: {ended}\n")
    assert said.count(ended) == 1
