"""Over a network the key identifies a site: only the roster is asked, and a site with another name is left out."""

import pytest
from fixtures.federation import GENES_ONLY, Federation, tiny

from memamba_core.errors import FederationError
from server.federation.rounds import run_federation

SETTINGS = tiny(*GENES_ONLY, "federation.num_rounds=1")


def train(federation, enrolled):
    return run_federation(
        federation.grid(), federation.run(), signatures=federation.cohort.signatures, enrolled=enrolled
    )


def nodes(federation):
    return dict(zip(federation.sites, federation.grid().get_node_ids(), strict=True))


def test_only_enrolled_sites_are_asked():
    federation = Federation(SETTINGS)
    enrolled = nodes(federation)
    enrolled.pop("site-02")
    result = train(federation, enrolled)
    assert sorted(result.facts) == sorted(enrolled)
    assert {site for site, _ in federation.asked} == set(enrolled)


def test_the_result_is_that_of_sites_who_tell_their_names():
    federation = Federation(SETTINGS)
    by_key, by_word = train(federation, nodes(federation)), train(federation, None)
    assert by_key.rounds[0].sites == by_word.rounds[0].sites


def test_two_sites_that_change_names_are_both_left_out():
    federation = Federation((*SETTINGS, "federation.min_results=2"))
    enrolled = nodes(federation)
    enrolled["site-01"], enrolled["site-02"] = enrolled["site-02"], enrolled["site-01"]
    result = train(federation, enrolled)
    assert {site: failure.text for site, failure in result.failures.items()} == {
        "site-01": "its name is 'site-02'; expected site-01. Correct name in its site.yaml",
        "site-02": "its name is 'site-01'; expected site-02. Correct name in its site.yaml",
    }
    assert set(result.facts) == {"site-03", "site-04"}


def test_nobody_under_the_right_name():
    federation = Federation(SETTINGS)
    with pytest.raises(FederationError, match="no site gave a usable answer"):
        train(federation, {"county": nodes(federation)["site-01"]})
