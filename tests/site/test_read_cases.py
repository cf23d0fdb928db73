"""Real files that were read wrongly by version 0.1.0: each is read right now, or refused with the right reason.

`MEMAMBA_CASES` names a folder of cases, each with the tables of a site, `cmd.sh` (the commands to run) and `EXPECT.md`
(what was fed, what is right). The table below says the same as EXPECT.md in words that a finding must hold; a row has
several expectations where several answers are right.
"""

import os
import re
import shlex
import shutil
from pathlib import Path

import pytest
from fixtures.read_cases import AllOf, Expectation, Noticed, Reads, check, doctor_findings, simulate_findings
from fixtures.site_folders import GENES, run_site_folders

from client import cli as client_cli
from client.doctor.finding import Level
from client.doctor.record import DoctorReport
from client.doctor.redaction import Redaction
from memamba_core.config.site import load_site_config

pytestmark = pytest.mark.slow

_VARIABLE = "MEMAMBA_CASES"


def noticed(*words: str) -> Noticed:
    """Expect a warning or an error that holds all of these words."""
    return Noticed(words)


def fails(*words: str) -> Noticed:
    """Expect an error that holds all of these words."""
    return Noticed(words, Level.ERROR)


def reads(*words: str, never: tuple[str, ...] = ()) -> Reads:
    """Expect no error, these words, and none of the others."""
    return Reads(words, never)


ALL_SLIDES = reads("slides:? 40( of 40)?\\b", never=("have no features", "left out", "excluded"))
RUNS = reads()
Row = tuple[Expectation, ...]

DOCTOR: dict[str, Row] = {
    "01": (reads(r"slides: \d+ of"), fails("STAMP", "micromet")),
    "03": (noticed("link", "mount"),),
    "04": (fails("10x", "20x|magnification.{0,20}20"),),
    "05": (fails("patch size", r"data\.features\.path"),),
    "06": (reads(r"slides: \d+ of"), fails("slide-level|one vector", "patch")),
    "08": (noticed(r"\b6\b", r"\.pt\b"),),
    "09": (noticed(r"\bzero"),),
    "10": (noticed("coordinates|patches", "repeat|twice|double"),),
    "11": (ALL_SLIDES,),
    "12": (ALL_SLIDES, fails(";", "slide")),
    "14": (fails("32015", "hdf5plugin", "gzip"),),
    "18": (reads(r"slides: \d+ of"), fails("20x/features")),
    "20": (noticed(r"\b3 (of \d+ )?patients"),),
    "21": (reads("median follow-up 28", never=(r"\d{6,} months",)), fails("timedelta|duration")),
    "22": (fails("row", "quot"), reads("patients: 60,")),
    "24": (noticed("three decimals|thousands"),),
    "25": (reads("patients: [1-9]"), fails("semicolon")),
    "28": (reads("patients: [1-9]"),),
    "30": (noticed("year"),),
    "31": (noticed("days"),),
    "40b": (fails("genes", "rows"), fails("transpose")),
    "43": (noticed("1-Mar", "2-Sep"),),
    "46": (reads(r"\d+ cnv", r"\d+ mut"), noticed("30 columns")),
    "47": (noticed("TPM|scale|log"),),
    "49": (noticed("follow-up", "share|same value|one value"),),
    "54": (noticed("year"),),
    "55": (reads("patients: [1-9]"),),
    "66": (noticed("event"), RUNS),
    "89": (noticed("24", "leading zeros"),),
    "90": (noticed("24", "fold"),),
    "96": (fails("64", "32"),),
    "99": (ALL_SLIDES,),
    "9a": (ALL_SLIDES,),
    "9e": (reads(r"\(10 mut\)"), noticed("OS_STATUS"), noticed("outcome|equals the event")),
    "9f": (reads(r"\(10 mut\)"), AllOf((noticed("TP53"), noticed("TTN"), noticed("KRAS")))),
    "a5": (reads("patients: [1-9]"),),
    "a7": (noticed(r"\b15\b", r"\.h5\b"),),
    "c1": (AllOf((noticed("_mut|mutation"), noticed("_cnv|copy number"))), fails("_cnv|_mut", "-999|-9")),
}
"""Beginning of the name of a case -> right answers of `flower-client doctor site.yaml --part data`."""

SIMULATE: dict[str, Row] = {
    "04": (fails("10x", "20x|magnification.{0,20}20"),),
    "08": (RUNS,),
    "11": (ALL_SLIDES,),
    "12": (ALL_SLIDES, fails(";", "slide")),
    "14": (fails("32015"),),
    "20": (noticed(r"\b3 (of \d+ )?patients", "left out"),),
    "21": (RUNS, fails("timedelta|duration")),
    "43": (noticed("1-Mar", "2-Sep"),),
    "47": (noticed("TPM|scale|log"),),
    "64": (RUNS,),
    "66": (noticed("event"),),
    "74": (RUNS, fails("quot")),
    "76": (
        noticed("group|set", "symbol|row"),
        reads("9 of 90 gene columns are in a gene group"),
    ),  # read across rows: 4
    "77": (noticed("symbol"),),
    "96": (fails("64", "32"),),
    "9b": (fails("name", "letters"),),
    "9e": (RUNS, noticed("OS_STATUS"), noticed("outcome|equals the event")),
}
"""The same of `flower-simulate`."""

NEVER_AMONG_THE_INPUTS = {"9e": r"OS_STATUS|DFS_STATUS|DEATH_EVENT|vital"}
"""Case -> columns that the model of a simulation must not read."""
NEVER_SHOWN = {"66": r"Federated\W+1\.000"}
"""Case -> what a simulation must not print: a number that says more than the data."""

FEDERATION: dict[str, tuple[str, ...]] = {
    "81": (r"^site-b: .*GENE001_rnaseq", r"^site-a: .*1-Mar_rnaseq|^site-b: .*1-Mar_rnaseq"),
    "85": (r"^site-b: .*scale.*standard deviations",),
    "86": (r"^site-b: .*share of events",),
}
"""Case of two sites -> warnings of a federation of them, each found once at least."""


def cases_folder() -> Path | None:
    """Return the folder of cases that the environment names, if it is there."""
    folder = os.environ.get(_VARIABLE)
    return Path(folder) if folder and Path(folder).is_dir() else None


def case_names() -> list[str]:
    folder = cases_folder()
    return sorted(path.parent.name for path in folder.glob("*/cmd.sh")) if folder else []


def number(case: str) -> str:
    return case.partition("-")[0]


def commands(folder: Path, scratch: Path) -> dict[str, list[str]]:
    """Return the arguments of the commands of `cmd.sh`, by program; temporary folders are `scratch`."""
    found = {}
    for line in (folder / "cmd.sh").read_text(encoding="utf-8").splitlines():
        words = shlex.split(line.replace("$(mktemp -d)", "@scratch@"), comments=True)
        words = [word.replace("@scratch@", str(scratch)).replace("$PWD", str(folder)) for word in words]
        for program in ("flower-client", "flower-simulate"):
            if program in words:
                found[program] = words[words.index(program) + 1 :]
    return found


@pytest.fixture
def case(request, tmp_path):
    """A copy of the folder of a case. Its path has a blank and says nothing of the case, nor do its settings."""
    folder = cases_folder()
    if folder is None:
        pytest.skip(f"no cases; name their folder in the environment variable {_VARIABLE}")
    copy = shutil.copytree(folder / request.param, tmp_path / "a copy", symlinks=True)
    if number(request.param) != "9b":  # the name of the cohort is the case
        for settings in copy.rglob("*.yaml"):
            text = settings.read_text(encoding="utf-8")
            settings.write_text(re.sub(r"^name: (?!site-).*", "name: cohort", text, flags=re.MULTILINE))
    return copy


NO_CASE = [pytest.param("", "", id="none")]


def with_command(program: str) -> list:
    """Return the cases with a command of this program: name and number."""
    folder = cases_folder()
    names = [name for name in case_names() if folder and program in commands(folder / name, folder)]
    return [pytest.param(name, number(name), id=name) for name in names if number(name) not in FEDERATION] or NO_CASE


def of_sites(*numbers: str) -> list:
    """Return the cases of two sites with these numbers."""
    return [pytest.param(name, number(name), id=name) for name in case_names() if number(name) in numbers] or NO_CASE


@pytest.mark.parametrize(("case", "name"), with_command("flower-client"), indirect=["case"])
def test_the_doctor_reads_a_case_right(case, name):
    findings = doctor_findings(case / "site.yaml")
    check(findings, DOCTOR[name], "the doctor")
    config = load_site_config(case / "site.yaml")
    report = DoctorReport.of(findings, config.name, "data", Redaction.of_site(config)).model_dump_json()
    assert not re.search("SYN-|Müller", report), "the report for a data manager names a patient"


@pytest.mark.parametrize(("case", "name"), with_command("flower-simulate"), indirect=["case"])
def test_a_simulation_reads_a_case_right(case, name, tmp_path, monkeypatch, capsys):
    (tmp_path / "results").mkdir()
    arguments = commands(case, tmp_path / "results")["flower-simulate"]
    output = Path(next(word for word in arguments if word.startswith("output_dir=")).removeprefix("output_dir="))
    monkeypatch.setenv("CASE", str(case))
    monkeypatch.setenv("COLUMNS", "500")
    findings = simulate_findings(monkeypatch, capsys, arguments, output)
    check(findings, SIMULATE[name], "the simulation")
    printed = " ".join(finding.text for finding in findings)
    assert name not in NEVER_SHOWN or not re.search(NEVER_SHOWN[name], printed)
    model = output / "model.json"
    if name in NEVER_AMONG_THE_INPUTS and model.exists():
        assert not re.findall(NEVER_AMONG_THE_INPUTS[name], model.read_text(encoding="utf-8"))


@pytest.mark.parametrize(("case", "name"), of_sites(*FEDERATION), indirect=["case"])
def test_a_federation_names_the_site_of_a_case(case, name):
    result = run_site_folders([case / "site-a", case / "site-b"], fold=0)
    for wanted in FEDERATION[name]:
        assert any(re.search(wanted, warning) for warning in result.warnings), result.warnings


@pytest.mark.parametrize(("case", "name"), of_sites("85"), indirect=["case"])
def test_a_model_refuses_patients_on_another_scale(case, name, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("CASE", str(case / "site-a"))
    settings = (*GENES, "data=case", "partition=iid", "partition.num_sites=1", f"output_dir={tmp_path / 'model'}")
    arguments = ["--config-dir", str(case / "site-a" / "conf"), *settings, "threads=1"]
    simulate_findings(monkeypatch, capsys, arguments, tmp_path / "model")
    options = ["--model", str(tmp_path / "model"), "--output", str(tmp_path / "predictions")]
    with pytest.raises(SystemExit) as end:
        client_cli.main(["predict", str(case / "site-b" / "site.yaml"), *options])
    assert end.value.code == 2
    assert re.search("scale", capsys.readouterr().err)
    assert not (tmp_path / "predictions").exists()


def test_every_case_has_a_row():
    if not case_names():
        pytest.skip(f"no cases; name their folder in the environment variable {_VARIABLE}")
    known = DOCTOR.keys() | SIMULATE.keys() | FEDERATION.keys()
    assert [name for name in case_names() if number(name) not in known] == []
