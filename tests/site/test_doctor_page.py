"""Doctor's report for a data manager: JSON and a page that hold no name of a patient or slide."""

import json
import re
import shutil

import pandas as pd
import pytest
import yaml
from fixtures.federation import tiny
from jsonschema import Draft202012Validator

from client.cli import main
from client.doctor import command
from client.doctor.finding import error, ok, warning
from client.doctor.page import render_page
from client.doctor.record import DoctorReport
from client.doctor.redaction import Redaction
from memamba_core.config.compose import compose_simulation
from simulation.cohort import prepare_cohort
from simulation.export import export_sites

FINDINGS = (
    ok("patients", "60, with 34 events"),
    warning("follow-up", "10 patients share one value", "write an empty cell for `unknown`"),
    error("events", "no patient had the event", "check `event`"),
    error("tables", "clinical.csv: <b>&amp; 'column'</b>", ""),
    warning("slides", "a\x1b[31m\u202eb", "x"),
)


def report(findings=FINDINGS, redaction=Redaction(), site="st-elsewhere"):  # noqa: B008 - frozen
    return DoctorReport.of(findings, site, "data", redaction)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    config = compose_simulation(
        tiny("data.synthetic.num_patients=60", "partition.num_sites=1", "data.synthetic.num_sites=1")
    )
    cohort = prepare_cohort(config)
    case_ids = {name: tuple(r.case_id for r in site.cohort.records) for name, site in cohort.sites.items()}
    return export_sites(cohort.cohort, config.data, case_ids, tmp_path_factory.mktemp("sites") / "out")[0]


@pytest.fixture
def broken(exported, tmp_path, monkeypatch):
    """A site with absent and damaged feature files, whose names the screen shows."""
    monkeypatch.setattr("client.doctor.data._dry_run", lambda *_: ())
    site = shutil.copytree(exported, tmp_path / "site")
    absent, *damaged, first, second = sorted((site / "features").rglob("*.h5"))[:5]
    absent.unlink()
    content = damaged[0].read_bytes()
    second.unlink()
    shutil.copy(first, second)
    for path in damaged:
        path.unlink()  # the exported files of two copies may be one
        path.write_bytes(content[: len(content) // 2])
    return site


def doctor(*arguments):
    with pytest.raises(SystemExit) as end:
        main(["doctor", *map(str, arguments)])
    return end.value.code


# Report


def test_findings_are_ordered_by_level_and_counted():
    found = report()
    assert [f.level for f in found.findings] == ["error", "error", "warning", "warning", "ok"]
    assert [f.check for f in found.findings] == ["events", "tables", "follow-up", "slides", "patients"]
    assert (found.ready, found.num_errors, found.num_warnings) == (False, 2, 2)
    assert report(FINDINGS[:2]).ready


def test_findings_that_differ_in_left_out_names_only_are_one():
    found = [error("feature files", f"/data/P-{n}.h5: damaged", "copy it again") for n in range(3)]
    (one,) = report(found, Redaction.of_names([f"P-{n}.h5" for n in range(3)])).findings
    assert (one.text, one.count) == ("/data/[name]: damaged", 3)


# Names


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("2 slides have no features: P-1, P-22, ...", "2 slides have no features (the site's screen names them)"),
        ("/x/P-1.h5: cannot be read", "/x/[name]: cannot be read"),
        ("'P-1' and P-22_a", "'[name]' and [name]_a"),
        ("12 of 34 patients; P-100 is no name of this site", "12 of 34 patients; P-100 is no name of this site"),
        ("Mu\u0308ller-1 is absent", "[name] is absent"),
        ("patients, events", "patients, events"),
        ("12 slides have no features: 12, 13, ...", "12 slides have no features (the site's screen names them)"),
        ("12 slides have no features: 12, P-1", "12 slides have no features (the site's screen names them)"),
        ("slide '12' of 12, 'case_id'", "slide '[name]' of 12, 'case_id'"),
        ("the declared size bands: patients 12, pathology 12", "the declared size bands: patients 12, pathology 12"),
        ("one of: 12 patients", "one of: 12 patients"),
    ],
)
def test_names_are_left_out_and_counts_are_kept(text, wanted):
    redaction = Redaction.of_names(["P-1", "P-22", "P-1.h5", "12", "13", "patients", "M\u00fcller-1", ""])
    assert redaction.apply(text) == wanted


def test_the_names_of_a_site_are_its_patients_slides_and_files(exported):
    from memamba_core.config.site import load_site_config

    names = Redaction.of_site(load_site_config(exported / "site.yaml")).names
    table = pd.read_csv(exported / "clinical.csv")
    assert set(table["case_id"]) <= set(names)
    assert {path.name for path in (exported / "features").rglob("*.h5")} <= set(names)


def test_folders_in_the_folder_of_an_encoder_are_names_and_those_of_the_layout_are_not(exported, tmp_path):
    from memamba_core.config.site import load_site_config

    site = shutil.copytree(exported, tmp_path / "site")
    for folder in ("uni-5f3a/Doe_Jane", "20x_256px_0px_overlap/features_uni_v1", "20x_256px_0px_overlap/patches"):
        (site / "features" / folder).mkdir(parents=True)
    redaction = Redaction.of_site(load_site_config(site / "site.yaml"))
    assert redaction.apply("features/uni-5f3a/Doe_Jane/a: is empty") == "features/uni-5f3a/[name]/a: is empty"
    layout = "features/20x_256px_0px_overlap/features_uni_v1, patches, h5_files"
    assert redaction.apply(layout) == layout


def test_no_name_is_in_the_page_or_the_json_and_the_screen_keeps_them(broken, tmp_path, capsys):
    page = tmp_path / "page.html"
    assert doctor(broken / "site.yaml", "--part", "data", "--html", page) == 1
    screen = capsys.readouterr().out
    assert doctor(broken / "site.yaml", "--part", "data", "--json") == 1
    printed = capsys.readouterr().out
    names = set(pd.read_csv(broken / "clinical.csv")["case_id"])
    stems = {path.stem for path in (broken / "features").rglob("*.h5")}
    assert any(stem in screen for stem in stems)
    for text in (page.read_text(), printed):
        assert not [name for name in names | stems if name in text]
        assert "slides in the table have no features (the site" in text.replace("&#39;", "'")
        assert "hold the same features as the file of another slide (the site" in text.replace("&#39;", "'")
        assert str(broken / "features") not in text, "paths begin below the folder of the data"
    assert re.search(r"file of another slide: \S+\.h5, \S+\.h5\n", screen)
    assert '"count": 2' in printed
    assert re.search(r"per patient-year, all under \d+ years", printed), "the longest follow-up is one patient's"


# Page


def test_every_text_is_escaped_and_control_characters_are_replaced():
    page = render_page(report(site="<script>alert(1)</script>"))
    assert "<script" not in page
    assert "&lt;b&gt;&amp;amp; &#39;column&#39;&lt;/b&gt;" in page
    assert "\x1b" not in page
    assert "\u202e" not in page
    assert "<code>unknown</code>" in page


def test_an_unpaired_backtick_stays_one():
    page = render_page(report([ok("tables", "column `a<b")]))
    assert "column `a&lt;b" in page


def test_the_page_needs_nothing_from_elsewhere():
    page = render_page(report())
    assert not re.findall(r"(?:src|href|url|@import|http)\s*[=(:]", page.replace("http-equiv=", ""))
    assert "default-src 'none'" in page
    assert "@media print" in page


@pytest.mark.parametrize(
    ("findings", "verdict"),
    [
        (FINDINGS, "Not ready: 2 errors to fix, 2 doubts to look at"),
        (FINDINGS[2:3], "Not ready: 1 error to fix"),
        (FINDINGS[:2], "Ready to run; 1 doubt to look at"),
        (FINDINGS[:1], "Ready to run; nothing to look at"),
    ],
)
def test_the_verdict_comes_first(findings, verdict):
    page = render_page(report(findings))
    assert f">{verdict}</p>" in page
    assert page.index(verdict) < page.index("<h2")
    assert ("Errors (" in page) == any(f.level.value == "error" for f in findings)


# Command


def test_findings_still_stream_to_the_screen(monkeypatch, tmp_path):
    events = []

    def examine(*_):
        for finding in FINDINGS[:2]:
            events.append(f"found {finding.check}")
            yield finding

    def show(findings):
        events.extend(f"shown {finding.check}" for finding in findings)
        return True

    monkeypatch.setattr(command, "examine", examine)
    monkeypatch.setattr(command, "print_report", show)
    assert command.run_doctor(tmp_path / "site.yaml", "data", as_json=False, html=tmp_path / "page.html")
    assert events == ["found patients", "shown patients", "found follow-up", "shown follow-up"]
    assert "10 patients share one value" in (tmp_path / "page.html").read_text()


def test_json_obeys_its_schema_and_is_all_that_is_printed(broken, repository, capsys):
    assert doctor(broken / "site.yaml", "--part", "data", "--json") == 1
    printed = json.loads(capsys.readouterr().out)
    schema = json.loads((repository / "docs/reference/schemas/doctor_report.schema.json").read_text())
    Draft202012Validator(schema).validate(printed)
    assert printed["site"] == "site-01"


def test_settings_that_cannot_be_read_are_reported_too(tmp_path, capsys):
    (tmp_path / "site.yaml").write_text(yaml.safe_dump({"name": "x", "unit": "months"}))
    assert doctor(tmp_path / "site.yaml", "--json", "--html", tmp_path / "page.html") == 1
    assert json.loads(capsys.readouterr().out)["site"] is None
    assert "Check of a site" in (tmp_path / "page.html").read_text()


def test_a_place_where_no_page_can_be_written_is_refused_before_the_checks(exported, tmp_path, capsys):
    assert doctor(exported / "site.yaml", "--html", tmp_path / "absent" / "page.html") == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "expected a file in a folder that exists" in captured.err
