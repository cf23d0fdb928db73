"""Plan and folder of a run, before anything is started."""

import datetime as dt
import json
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from memamba_core.config.coordinator import CoordinatorConfig, RunSettings
from memamba_core.errors import ConfigError
from memamba_core.io.node_key import normalise_public_key
from server import deployment
from server.admin.folder import create_folder
from server.deployment import plan_run

KIND = "agreement.gene_groups=kind"


@pytest.fixture
def federation(tmp_path):
    folder = create_folder(tmp_path / "federation", CoordinatorConfig(addresses=("127.0.0.1",)))
    for name in ("county", "mercy"):
        pem = (
            ec.generate_private_key(ec.SECP384R1())
            .public_key()
            .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        )
        key = normalise_public_key(pem, name)
        folder.change_roster(lambda r, n=name, k=key: r.enroll(n, k, dt.datetime.now(dt.UTC)))
    return folder


def plan(federation, *overrides, **settings):
    return plan_run(federation, RunSettings(**settings), overrides)


def test_without_settings_everybody_is_asked_and_needed(federation):
    planned = plan(federation, KIND)
    assert (planned.sites, planned.min_sites, planned.run.fold) == (("county", "mercy"), 2, -1)
    assert planned.run.run_id == planned.folder.name
    assert not planned.folder.exists()


def test_a_run_is_resumed_as_it_was_begun(federation, tmp_path):
    signatures = tmp_path / "groups.csv"
    signatures.write_text("repair\nTP53\n")
    started = plan(federation, "seed=7", name="first", fold=2, sites=("mercy",), signatures=signatures)
    deployment._begin(started)
    assert plan(federation, resume="first") == replace(started, wait_s=600.0)
    with pytest.raises(ConfigError, match="county did not belong to first when it began"):
        plan(federation, resume="first", sites=("county", "mercy"))


def test_a_run_may_be_resumed_with_fewer_sites_than_it_was_approved_with(federation):
    started = plan(federation, KIND, name="first", sites=("county", "mercy"))
    deployment._begin(started)
    other = plan(federation, resume="first", sites=("mercy",), approval_wait_s=60.0)
    assert (other.sites, other.run) == (("mercy",), replace(started.run, approval_wait_s=60.0))
    assert other.run.roster == ("county", "mercy")


def test_a_resumed_run_may_need_fewer_sites(federation):
    """Only the coordinator uses these settings: the experiment, and with it the sites' approval, stays the same."""
    started = plan(federation, KIND, name="first")
    deployment._begin(started)
    fewer = plan(federation, "federation.min_results=1", resume="first")
    assert (fewer.run, fewer.sites) == (started.run, started.sites)
    assert (fewer.participation.min_results, fewer.min_sites, fewer.enough) == (1, 1, 1)
    named = plan(federation, "federation.required_sites=[county]", "federation.min_patients_share=0.5", resume="first")
    assert str(named.participation) == "federation.required_sites=[county] federation.min_patients_share=0.5"
    assert plan(federation, "federation.min_results=null", resume="first").participation.needs_all
    for override, words in (
        ("federation.min_results=3", "but there are 2 sites"),
        ("federation.min_results=0", "min_results"),
        ("federation.min_results=[", "not readable"),
        (
            "federation.required_sites=[st-elsewhere]",
            "names st-elsewhere; expected sites that are asked: county, mercy",
        ),
        ("federation.num_rounds=3", "but for federation.min_results, .*; leave out federation.num_rounds=3"),
    ):
        with pytest.raises(ConfigError, match=words):
            plan(federation, override, resume="first")


def test_required_sites_are_sites_that_are_asked(federation):
    with pytest.raises(ConfigError, match="names mercy; expected sites that are asked: county"):
        plan(federation, KIND, "federation.required_sites=[mercy]", sites=("county",))


@pytest.mark.parametrize("manifest", [None, 1, 3])
def test_a_run_of_another_version_is_not_resumed(federation, manifest):
    started = plan(federation, KIND, name="first")
    deployment._begin(started)
    path = started.folder / "settings.json"
    values = {key: value for key, value in json.loads(path.read_text()).items() if key != "manifest"}
    path.write_text(json.dumps(values if manifest is None else {**values, "manifest": manifest}))
    with pytest.raises(ConfigError, match=r"was begun by another version .* finish it with that version"):
        plan(federation, resume="first")


def test_a_finished_run_and_a_taken_name(federation):
    started = plan(federation, KIND, name="first")
    deployment._begin(started)
    with pytest.raises(ConfigError, match="continue this run with resume=first"):
        plan(federation, KIND, name="first")
    (started.folder / "summary.json").write_text("{}")
    with pytest.raises(ConfigError, match="is finished"):
        plan(federation, resume="first")
    with pytest.raises(ConfigError, match="there are first"):
        plan(federation, resume="second")


def test_a_site_that_left_has_to_be_named_out_of_a_resumed_run(federation):
    deployment._begin(plan(federation, KIND, name="first"))
    federation.change_roster(lambda roster: roster.remove("mercy"))
    with pytest.raises(ConfigError, match="mercy is not enrolled"):
        plan(federation, resume="first")
    assert plan(federation, resume="first", sites=("county",)).sites == ("county",)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda text: text[:40], "not readable as JSON"),
        (lambda text: "[]", "got a list"),
        (lambda text: text.replace('"fold"', '"fold_"'), "setting 'fold' is missing; unknown setting 'fold_'"),
        (lambda text: text.replace('"mercy"', "7"), "sites.1: got 7"),
        (lambda text: text.replace('"fold": -1', '"fold": "x"'), "fold: got 'x'"),
        (lambda text: text.replace('"kind"', '"kinds"'), "agreement.gene_groups: got 'kinds'"),
        (lambda text: text.replace('"seed": 0', '"seed": 1'), "do not have the digest in the file"),
    ],
)
def test_settings_of_a_run_that_were_damaged_are_said(federation, change, words):
    started = plan(federation, KIND, name="first")
    deployment._begin(started)
    path = started.folder / "settings.json"
    path.write_text(change(path.read_text()))
    with pytest.raises(ConfigError) as caught:
        plan(federation, resume="first")
    assert words in str(caught.value)
    assert "restore it, or begin a new run" in str(caught.value)


def test_krum_is_refused_where_too_few_sites_are_asked(federation):
    krum = ("strategy=krum", "strategy.num_malicious_sites=1", KIND)
    with pytest.raises(ConfigError, match="needs 5 sites, but there are 2 sites; use strategy=fedmedian"):
        plan(federation, *krum)


def test_a_full_disk_at_the_beginning_leaves_nothing_behind(federation, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(deployment, "write_json", full)
    planned = plan(federation, KIND, name="first")
    with pytest.raises(ConfigError, match="No space left on device"):
        deployment._begin(planned)
    assert not planned.folder.exists()
