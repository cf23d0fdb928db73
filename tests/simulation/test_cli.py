"""`flower-simulate` at the keyboard: a mistake is exit code 2 and one sentence that says what to do."""

import json
import subprocess
import sys
from importlib.metadata import version

import pytest
import yaml
from fixtures.command_line import call
from fixtures.federation import GENES_ONLY, tiny

from memamba_core.config.run_manifest import MANIFEST_VERSION
from memamba_core.wire.protocol import PROTOCOL_VERSION, package_version


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty working folder, and no data named in the environment."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MEMAMBA_DATA", raising=False)
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["typo=1"], ["unknown setting 'typo'; known here", "methods"]),
        (["num_rounds=1"], ["unknown setting 'num_rounds'; nearest is federation.num_rounds; known here"]),
        (["strategy=fedavgg"], ["fedavgg", "fedavgm"]),
        (["data=tcga_blca"], ["data.root=FOLDER", "MEMAMBA_DATA"]),
        (["data=tcga_blca", "data.root=/no/such/folder"], ["/no/such/folder", "no such folder", "data.root=FOLDER"]),
        (["federation.num_rounds=0"], ["num_rounds", "0", "greater than or equal to 1"]),
        (["resume=nothing-there"], ["nothing-there", "settings.json", "interrupted run"]),
        (["resume=a", "federation.num_rounds=3"], ["takes its settings from a", "federation.num_rounds=3"]),
        (["methods=[]"], ["methods", "federated"]),
        (["model=genomics", "data.synthetic.missing_genes=0.7", "data.synthetic.missing_slides=0.7"], ["add up"]),
        (["export-sites"], ["output_dir=FOLDER"]),
        (["export-sites", "output_dir=/dev/null/here"], ["/dev/null/here cannot be written", "another output_dir"]),
        (["audit", "folds=[1]"], ["settings: an audit has no use for folds"]),
        (["attacks=membership"], ["attacks=membership is a setting of an audit", "flower-simulate audit attacks="]),
        (["audit=all"], ["unknown setting 'audit'; known here"]),
        (["audit", "attacks=all,canary"], ["'attacks=all,canary' has several values"]),
        (["audit", "attacks=guess"], ["'attacks/guess'", "options: all, canary, inversion, membership"]),
        (["seed=1", "export-sites"], ["'export-sites' is a command and comes first"]),
        (["exportsites"], ["got 'exportsites'", "wanted key=value"]),
        (["--foo"], ["unrecognized arguments: --foo", "--help"]),
        (["seed=[1,"], ["'seed=[1,' is not readable", "closed brackets"]),
        (["seed=0,1"], ["'seed=0,1' has several values; expected one", "--multirun"]),
        (["hydra.run.dir=here"], ["configures Hydra"]),
        (["--config-dir", "nowhere"], ["--config-dir nowhere: no such folder"]),
        (["--config-dir", "/dev/null", "seed=1"], ["--config-dir /dev/null: no such folder"]),
        (["--multirun", "seed=1"], ["no setting has several values; expected", "seed=0,1,2"]),
        (["-m", "seed=1,2", "data=nowhere"], ["'data/nowhere'; options: synthetic, "]),
        (["-m", "seed=0,1", "typo=1"], ["unknown setting 'typo'"]),
        (["-m", "seed=[1,"], ["'seed=[1,' is not readable"]),
        (["-m", "seed=interval(0,1)"], ["sweeps over an interval", "seed=0,1,2"]),
        (["-m", "nogroup@here=1,2"], ["nogroup"]),
        (["-m", "seed=0,1", "output_dir=out"], ["leave output_dir and resume out"]),
        (["audit", "--multirun", "seed=0,1"], ["unrecognized arguments: --multirun"]),
    ],
)
def test_a_mistake_is_one_sentence_and_leaves_nothing(here, monkeypatch, capsys, arguments, words):
    assert call(monkeypatch, *arguments) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    (line,) = shown.err.strip().splitlines()
    assert line.startswith("error: ")
    for word in words:
        assert word in line
    assert list(here.iterdir()) == []


@pytest.mark.ci_slow
def test_a_run_prints_its_table_and_writes_where_it_says(here, monkeypatch, capsys):
    assert call(monkeypatch, *tiny(*GENES_ONLY), "output_dir=out") == 0
    shown = capsys.readouterr().out
    assert "48 patients" in shown
    assert "Federated" in shown
    assert "permissive: nothing leaves" in shown
    assert "no differential privacy" in shown
    assert "rounds from 1 patients on are allowed here" in shown
    summary = json.loads((here / "out" / "summary.json").read_text())
    assert f"{summary['folds'][0]['federated']:.3f}" in shown
    assert [path.name for path in here.iterdir()] == ["out"]
    settings = json.loads((here / "out" / "settings.json").read_text())
    assert "federation.num_rounds=2" in settings["overrides"]
    assert call(monkeypatch, *tiny(*GENES_ONLY), "output_dir=out") == 2
    assert "out is not empty" in capsys.readouterr().err
    assert call(monkeypatch, "resume=out", "threads=1") == 0  # a finished run: nothing is done again
    assert json.loads((here / "out" / "summary.json").read_text())["folds"] == summary["folds"]


def test_help_says_how_to_call_it_and_what_is_there(here, monkeypatch, capsys):
    assert call(monkeypatch, "--help") == 0
    shown = capsys.readouterr().out
    assert shown.startswith("usage: flower-simulate [run|audit|export-sites] [group=file ...] [key=value ...]")
    assert "flower-simulate resume=FOLDER" in shown
    assert "strategy: fedadam, fedavg" in shown
    assert "num_rounds: 20" in shown
    assert call(monkeypatch, "audit", "--help") == 0
    shown = capsys.readouterr().out
    assert shown.startswith("usage: flower-simulate audit [group=file ...] [key=value ...]")
    assert "num_canaries: 500" in shown


def test_cfg_prints_the_composed_settings_and_runs_nothing(here, monkeypatch, capsys):
    assert call(monkeypatch, "--cfg", "job", "data=tcga_blca", "seed=4") == 0
    shown = yaml.safe_load(capsys.readouterr().out)
    assert (shown["data"]["name"], shown["seed"]) == ("tcga_blca", 4)
    assert "attacks" not in shown
    assert call(monkeypatch, "audit", "attacks=canary", "--cfg", "job") == 0
    assert yaml.safe_load(capsys.readouterr().out)["attacks"]["names"] == ["canary"]
    assert list(here.iterdir()) == []


def test_a_damaged_file_of_an_own_config_folder_is_one_sentence(here, monkeypatch, capsys):
    (here / "own" / "data").mkdir(parents=True)
    (here / "own" / "data" / "mine.yaml").write_text("name: [")
    for words in (["data=mine"], ["--multirun", "seed=0,1", "data=mine"]):
        assert call(monkeypatch, "--config-dir", "own", *words) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("error: settings ")
        assert "HYDRA_FULL_ERROR" not in line


@pytest.mark.parametrize("command", ["simulation", "server", "client"])
def test_each_command_prints_the_versions_without_importing_torch(command):
    program = f"import sys; from {command}.__main__ import main; sys.argv = ['x', '--version']\ntry: main()\n"
    program += "except SystemExit as end: print(end.code, {'torch', 'flwr'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    versions, rest = done.stdout.splitlines()
    for name in ("torch", "flwr"):
        assert f"{name} {version(name)}" in versions
    assert versions.startswith(f"memamba-federated {package_version()}, protocol {PROTOCOL_VERSION}, ")
    assert rest == "0 set()"


def test_a_file_in_the_way_is_said(here, monkeypatch, capsys):
    (here / "out").write_text("mine")
    assert call(monkeypatch, *tiny(*GENES_ONLY), "output_dir=out") == 2
    assert "output_dir=out is a file" in capsys.readouterr().err
    assert (here / "out").read_text() == "mine"


MANIFEST = {
    "manifest": MANIFEST_VERSION,
    "overrides": ["seed=1"],
    "settings": {"data": {"name": "synthetic", "synthetic": {}}, "experiment": {}},
}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "not readable as JSON"),
        ("[]", "got a list"),
        ("{}", "setting 'manifest' is missing; setting 'overrides' is missing"),
        (json.dumps({**MANIFEST, "overrides": "seed=1"}), "overrides: got 'seed=1', wanted a list"),
        (json.dumps({**MANIFEST, "settings": []}), "settings: got []"),
        (json.dumps({**MANIFEST, "settings": {**MANIFEST["settings"], "folds": "x"}}), "folds: got 'x'"),
        (json.dumps({**MANIFEST, "settings": {"typo": 1}}), "unknown setting 'typo'"),
    ],
)
def test_a_settings_file_that_is_damaged_is_said(here, monkeypatch, capsys, text, words):
    (here / "out").mkdir()
    (here / "out" / "settings.json").write_text(text)
    assert call(monkeypatch, "resume=out") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: out/settings.json: ")
    assert words in line
    assert line.endswith("restore it, or begin a new run")


def test_a_run_that_version_0_1_0_began_is_not_resumed(here, monkeypatch, capsys):
    (here / "out").mkdir()
    old = {key: value for key, value in MANIFEST.items() if key != "manifest"}
    (here / "out" / "settings.json").write_text(json.dumps(old))
    assert call(monkeypatch, "resume=out") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "was begun by another version of this software (0.1.0" in line
    assert line.endswith("finish it with that version, or begin a new run")


def test_a_run_of_the_coordinator_is_named_as_one(here, monkeypatch, capsys):
    (here / "out").mkdir()
    deployed = {**MANIFEST, "sites": ["a"], "fold": 0, "signatures": None, "config_digest": "0" * 64}
    (here / "out" / "settings.json").write_text(json.dumps(deployed))
    assert call(monkeypatch, "resume=out") == 2
    assert "this run belongs to flower-server" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["resume=out/settings.json"], "resume=out/settings.json is a file; name its folder, out"),
        (["--cfg", "job", "resume=out"], "the settings of a run to resume are in settings.json"),
        (["federaton.num_rounds=3"], "unknown setting 'federaton'; nearest is federation"),
        (["audit=membership"], "unknown setting 'audit'"),
        (["audits"], "or one of the commands that --help lists"),
    ],
)
def test_what_a_newcomer_types_gets_a_hint(here, monkeypatch, capsys, arguments, words):
    (here / "out").mkdir()
    (here / "out" / "settings.json").write_text(json.dumps(MANIFEST))
    assert call(monkeypatch, *arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line


@pytest.mark.ci_slow
def test_what_a_fold_finished_is_damaged(here, monkeypatch, capsys):
    assert call(monkeypatch, *tiny(*GENES_ONLY), "output_dir=out") == 0
    (here / "out" / "fold-0" / "outcome.json").write_text("[]")
    capsys.readouterr()
    assert call(monkeypatch, "resume=out") == 2
    assert (
        "outcome.json is not as this version writes it (file: Input should be an object). Restore the file, or"
        in capsys.readouterr().err
    )
