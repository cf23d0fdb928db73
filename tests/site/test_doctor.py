"""Doctor: findings of a healthy site, and of sites with one fault each."""

import dataclasses
import io
import logging
import re
import shutil
from functools import cache

import pandas as pd
import pytest
import yaml
from fixtures.coordinator_double import authority, coordinator
from fixtures.federation import tiny
from rich.console import Console

from client.doctor import report as doctor
from client.doctor.dry_run import memory_available
from client.doctor.finding import Finding, Level
from client.doctor.report import examine, print_report
from client.keys import SiteKeys
from memamba_core.config.compose import compose_simulation
from memamba_core.privacy.egress import EgressLog, describe_refusal
from simulation.cohort import prepare_cohort
from simulation.export import export_sites

HEALTHY = tiny("data.synthetic.num_patients=60", "partition.num_sites=1", "data.synthetic.num_sites=1")


@cache
def exported(root, *overrides):
    """Export a cohort and return the folder of its first site."""
    config = compose_simulation(overrides)
    cohort = prepare_cohort(config)
    case_ids = {name: tuple(r.case_id for r in site.cohort.records) for name, site in cohort.sites.items()}
    return export_sites(cohort.cohort, config.data, case_ids, root)[0]


@pytest.fixture(scope="module")
def healthy(tmp_path_factory):
    return exported(tmp_path_factory.mktemp("exported") / "sites", *HEALTHY)


@pytest.fixture
def site(healthy, tmp_path):
    """A copy of the healthy site."""
    return shutil.copytree(healthy, tmp_path / "site")


def change(folder, edit):
    """Edit site.yaml."""
    path = folder / "site.yaml"
    values = yaml.safe_load(path.read_text())
    edit(values)
    path.write_text(yaml.safe_dump(values))


def found(folder, part="data", until=None):
    """Return the worst finding of each check; `until` stops after that check, because a dry run takes a second."""
    worst: dict[str, Finding] = {}
    order = list(Level)
    for finding in examine(folder / "site.yaml", part):
        if until in worst and finding.check != until:
            break
        before = worst.get(finding.check)
        if before is None or order.index(finding.level) > order.index(before.level):
            worst[finding.check] = finding
    return worst


def test_a_healthy_site(healthy):
    level = logging.getLogger("memamba_core").level
    findings = found(healthy)
    assert [name for name, f in findings.items() if f.level is not Level.OK] == ["blocks"], "60 patients are one block"
    wanted = ["settings", "permissions", "limits", "state", "disk", "egress log", "device", "patients", "events"]
    assert [name for name in findings if name != "approval"] == [
        *(*wanted, "molecular data", "slides", "feature files", "blocks", "dry run", "memory")
    ]
    table = pd.read_csv(healthy / "clinical.csv")
    assert findings["patients"].text.startswith(f"60, with {table['event'].sum()} events")
    assert "features synthetic, 5 wide" in findings["slides"].text
    assert not (healthy / "state").exists(), "the doctor writes nothing"
    assert logging.getLogger("memamba_core").level == level


def test_a_setting_that_is_unknown_ends_it(site):
    change(site, lambda values: values.update(unit="months"))
    findings = found(site, None)
    assert list(findings) == ["settings"]
    assert findings["settings"].level is Level.ERROR
    assert "unknown setting 'unit'" in findings["settings"].text


def test_a_table_that_is_not_as_described(site):
    change(site, lambda values: values["data"]["clinical"].update(time="followup"))
    findings = found(site)
    assert findings["tables"].level is Level.ERROR
    assert "followup" in findings["tables"].text
    assert "patients" not in findings


def test_an_event_column_that_says_the_same_of_all(site):
    table = pd.read_csv(site / "clinical.csv").assign(event=1)
    table.to_csv(site / "clinical.csv", index=False)
    assert "every patient had the event" in found(site, until="events")["events"].text


def test_slides_without_features_are_named(site):
    (file, *_) = sorted((site / "features").rglob("*.h5"))
    file.unlink()
    finding = found(site, until="feature files")["feature files"]
    assert finding.level is Level.WARNING
    assert file.stem in finding.text


def test_a_file_that_is_damaged_is_named(site):
    _, file, *_ = sorted((site / "features").rglob("*.h5"))
    content = file.read_bytes()
    file.unlink()  # the exported files of two copies may be one
    file.write_bytes(content[: len(content) // 2])
    finding = found(site, until="feature files")["feature files"]
    assert finding.level is Level.ERROR
    assert file.name in finding.text


def test_patients_without_anything_are_counted(site):
    table = pd.read_csv(site / "clinical.csv")
    more = table.iloc[[0]].assign(case_id="EMPTY", slide_ids="")
    pd.concat([table, more]).to_csv(site / "clinical.csv", index=False)
    finding = found(site, until="patients")["patients"]
    assert finding.level is Level.WARNING
    assert finding.text.startswith("1 of 61 patients are excluded")


def test_a_site_without_a_block(site):
    change(site, lambda values: values["disclosure"].update(min_round_patients=61))
    finding = found(site, until="blocks")["blocks"]
    assert finding.level is Level.ERROR
    assert "this site refuses every run: 60 patients" in finding.text
    assert "a block needs 61" in finding.text
    change(
        site, lambda values: values.update(privacy={"bands": dict.fromkeys(("patients", "pathology", "genomics"), 50)})
    )
    assert found(site, until="blocks")["blocks"].level is Level.OK


@pytest.mark.parametrize(("patients", "level"), [(50, Level.OK), (100, Level.WARNING)])
def test_declared_bands_are_compared_with_the_data(site, patients, level):
    bands = {"patients": patients, "pathology": 50, "genomics": 50}
    change(site, lambda values: values.update(privacy={"bands": bands}))
    finding = found(site, until="bands")["bands"]
    assert finding.level is level
    assert ("the site has 60" in finding.text) is (level is Level.WARNING)


def test_a_site_that_does_not_say_who_approves(site):
    change(site, lambda values: values.pop("approve"))
    assert found(site, until="approval")["approval"].level is Level.ERROR


def test_a_site_with_one_block(site):
    change(site, lambda values: values["disclosure"].update(min_round_patients=58))
    finding = found(site, until="blocks")["blocks"]
    assert finding.level is Level.WARNING
    assert "will draw in its first run one block of 60 patients" in finding.text
    assert not (site / "state" / "cohort.key").exists(), "the doctor draws nothing"


def test_a_site_where_nearly_everybody_had_the_event(site):
    """The difference of two counts would reveal the few patients without the event."""
    table = pd.read_csv(site / "clinical.csv")
    table["event"] = [0] * 4 + [1] * (len(table) - 4)
    table.to_csv(site / "clinical.csv", index=False)
    finding = found(site, until="blocks")["blocks"]
    assert finding.level is Level.ERROR
    assert "60 patients, 56 with and 4 without the event" in finding.text


def test_a_rule_that_names_no_setting(site):
    change(site, lambda values: values["limits"].update(settings=["federation", "training.learning_rate<=1"]))
    finding = found(site, until="settings")["settings"]
    assert finding.level is Level.ERROR
    assert "'training.learning_rate' is no setting of an experiment" in finding.text


def test_memory_that_does_not_suffice(site, monkeypatch):
    monkeypatch.setattr("client.doctor.data.memory_available", lambda: 1_000_000)
    finding = found(site)["memory"]
    assert finding.level is Level.WARNING
    assert "limits.max_patches" in finding.remedy


def test_the_memory_of_this_machine_is_known():
    available = memory_available()
    assert available is None or 1e8 < available < 1e14


def test_a_device_that_is_not_there(site, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    change(site, lambda values: values.update(device="cuda"))
    assert found(site, until="device")["device"].level is Level.ERROR


def test_a_registry_that_was_edited(site):
    (site / "state").mkdir(mode=0o700)
    (site / "state" / "cohort.json").write_text("{}")
    assert found(site, until="blocks")["blocks"].level is Level.ERROR


def test_a_state_folder_that_cannot_be_written(site, monkeypatch):
    monkeypatch.setattr(doctor.os, "access", lambda *_arguments: False)
    assert found(site, until="state")["state"].level is Level.ERROR


def test_a_state_folder_for_everybody(site):
    """The folder holds models, full reasons of refusals, and possibly predictions."""
    (site / "state").mkdir(exist_ok=True)
    (site / "state").chmod(0o755)
    assert "chmod 700" in found(site, until="egress log")["state"].remedy
    (site / "state").chmod(0o700)
    assert found(site, until="egress log")["state"].level is Level.OK


def test_an_egress_log_that_was_edited(site):
    log = EgressLog(site / "state")
    log.append(describe_refusal(1, "x", run_id="", phase="train", server_round=0))
    log.path.write_text(log.path.read_text().replace('"num_bytes": ', '"num_bytes": 1'))
    assert found(site, until="egress log")["egress log"].level is Level.ERROR


def test_the_network_part_looks_at_no_data(site, tmp_path):
    pki = authority(tmp_path / "pki")
    shutil.copy(pki.ca_certificate, site / "ca.crt")
    SiteKeys(site / "keys").generate()
    (site / "clinical.csv").unlink()
    with coordinator(pki) as double:
        change(site, lambda values: values.update(coordinator={"address": f"localhost:{double.port}"}))
        findings = found(site, "network")
    assert list(findings) == ["settings", "permissions", "authority", "name", "port", "certificate", "clock", "key"]
    assert {f.level for f in findings.values()} == {Level.OK}


def test_a_site_of_no_federation(site):
    assert found(site, "network")["coordinator"].level is Level.ERROR


@pytest.mark.parametrize(
    ("levels", "healthy", "last"),
    [
        ([Level.OK], True, "ready to run; 0 warnings"),
        ([Level.OK, Level.WARNING], True, "ready to run; 1 warning"),
        ([Level.ERROR, Level.WARNING], False, "1 error, 1 warning: not ready"),
    ],
)
@pytest.mark.parametrize("terminal", [True, False])
def test_the_report(levels, healthy, last, terminal):
    screen = io.StringIO()
    findings = [Finding(level, "check", "a [text] with marks", "do this") for level in levels]
    findings[-1] = dataclasses.replace(findings[-1], text=f"a [text] with marks {'AB:' * 32}")
    console = Console(file=screen, width=80, force_terminal=terminal, color_system=None)
    assert print_report(findings, console) is healthy
    lines = screen.getvalue().splitlines()
    assert (max(map(len, lines)) <= 80) is terminal, "output to a file or a pipe is not wrapped"
    assert lines[-1] == last
    assert "a [text] with marks" in lines[0]
    assert "".join(screen.getvalue().split()).count("AB:" * 32) == 1, "a long word is printed in full"
    assert "-> do this" in screen.getvalue()


@pytest.mark.slow
@pytest.mark.real_data
def test_a_real_site(data_root, tmp_path, monkeypatch):
    """LUAD's tissue source sites, small ones joined; model and dry run have their real size."""
    monkeypatch.setenv("MEMAMBA_DATA", str(data_root))
    settings = ("data=tcga_luad", "partition=tss_merged", "partition.min_patients=60")
    folder = exported(tmp_path / "sites", *settings)
    findings = found(folder)
    assert all(f.level is Level.OK for f in findings.values()), [dataclasses.asdict(f) for f in findings.values()]
    patients, events = map(int, re.match(r"(\d+), with (\d+) events", findings["patients"].text).groups())
    table = pd.read_csv(folder / "clinical.csv")
    assert (patients, events) == (len(table), table["event"].sum())
    assert "none, as set in site.yaml" in findings["slides"].text
