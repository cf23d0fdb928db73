"""Registry and reader: blocks that a release drew from what it read, and a later release that reads in another way."""

import json

import pytest
from fixtures.strict_site import build_site, cohort_of, opening_request, restarted

from client import cohort_registry, cohort_status
from client.cohort_registry import CohortRegistry
from client.worker import SiteWorker
from memamba_core.data.reader_version import READER_VERSION
from memamba_core.errors import TamperedLogError

EVERYBODY = tuple(range(24))


@pytest.fixture
def site(tmp_path):
    return build_site(tmp_path / "state", cohort_of(EVERYBODY))


def written_by(site, version):
    """Have a release with this reader version draw the blocks; release 0.3.0 (None) wrote no number."""
    site.registry.freeze(site.cohort)
    path = site.config.state / "cohort.json"
    content = json.loads(path.read_text())
    del content["tag"]
    if version is None:
        del content["reader_version"]
    else:
        content["reader_version"] = version
    path.write_text(json.dumps({**content, "tag": site.registry._tag(content)}))


def notice(site, changed=()):
    after = build_site(site.config.state, cohort_of(EVERYBODY, changed=changed))
    return after.registry.status(after.cohort).reader_notice


def test_a_draw_stores_the_version_of_the_reader(site):
    SiteWorker(site).facts(opening_request())
    assert json.loads((site.config.state / "cohort.json").read_text())["reader_version"] == READER_VERSION
    assert restarted(site).site.registry.read().reader_version == READER_VERSION


def test_a_registry_of_release_0_3_0_is_read_as_version_1(site):
    written_by(site, None)
    assert restarted(site).site.registry.read().reader_version == 1
    assert notice(site) is None, "healthy files are read as before"


@pytest.mark.parametrize("edit", ["lowered", "removed"])
def test_the_number_is_authenticated(site, edit):
    site.registry.freeze(site.cohort)
    path = site.config.state / "cohort.json"
    content = json.loads(path.read_text())
    if edit == "lowered":
        content["reader_version"] -= 1
    else:
        del content["reader_version"]
    path.write_text(json.dumps(content))
    with pytest.raises(TamperedLogError):
        restarted(site).site.registry.read()


def test_blocks_that_another_reader_drew_are_explained_when_their_patients_changed(site):
    written_by(site, 1)
    text = notice(site, changed=(3,))
    assert text is not None
    assert f"reader version 1; this release has reader version {READER_VERSION}" in text
    assert "why 1 patient is missing or has other data" in text


def test_patients_who_changed_under_one_reader_are_no_matter_of_the_reader(site):
    written_by(site, READER_VERSION)
    assert notice(site, changed=(3,)) is None


def test_a_patient_who_is_read_under_another_identifier_is_explained_too(site):
    written_by(site, 1)
    after = build_site(site.config.state, cohort_of(EVERYBODY[1:]))
    assert after.registry.status(after.cohort).reader_notice is not None


def test_a_new_draw_and_newcomers_store_the_version_of_today(site, monkeypatch):
    monkeypatch.setattr(cohort_registry, "READER_VERSION", READER_VERSION + 1)
    monkeypatch.setattr(cohort_status, "READER_VERSION", READER_VERSION + 1)
    written_by(site, 1)
    more = cohort_of(tuple(range(36)))
    frozen = CohortRegistry(site.config.state, site.registry.smallest).freeze(more)
    assert len(frozen.blocks) == 5
    assert frozen.reader_version == READER_VERSION + 1
    written_by(site, 1)
    assert site.registry.refreeze(site.cohort, "new reader").reader_version == READER_VERSION + 1


def test_a_withdrawal_keeps_the_version_of_the_draw(site):
    written_by(site, None)
    registry = restarted(site).site.registry
    registry.withdraw(["P07"])
    assert registry.read().reader_version == 1
