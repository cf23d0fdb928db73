"""`blocks=true`: a simulation whose sites answer as those of a deployment."""

import numpy as np
import pytest
from fixtures.federation import BLOCKS, GENES_ONLY, Federation, tiny

from memamba_core.config.compose import compose_simulation
from memamba_core.config.site import DisclosureConfig
from memamba_core.data.genomics.table import continuous_columns
from memamba_core.errors import ConfigError
from simulation.blocks import draw_site_blocks
from simulation.cohort import prepare_cohort


@pytest.fixture(scope="module")
def federation():
    return Federation(tiny(*GENES_ONLY, *BLOCKS))


def test_the_thresholds_are_those_of_a_site_unless_they_are_set():
    strict = compose_simulation(("blocks=true",)).disclosure
    assert strict.model_dump() == DisclosureConfig().model_dump()
    lower = compose_simulation(("blocks=true", "disclosure.min_patients=3")).disclosure
    assert (lower.min_patients, lower.min_round_patients) == (3, DisclosureConfig().min_round_patients)


def test_test_folds_are_unions_of_blocks(federation):
    for site in federation.cohort.sites.values():
        blocks = {block.case_ids for block in site.registry.status(site.cohort).usable}
        for fold in range(5):
            tested = {r.case_id for r in site.test_cohort(fold, 0).records}
            assert tested in ({*block} for block in blocks) or not tested
    union = {r.case_id for r in federation.cohort.test_cohort(0).records}
    assert union == {r.case_id for s in federation.cohort.sites.values() for r in s.test_cohort(0, 0).records}
    assert union


def test_a_run_discloses_what_a_deployment_would(federation):
    result = federation.train()
    assert {fact.boundary for fact in result.facts.values()} == {"deployment"}
    assert all(fact.num_patients is None and fact.num_events is None for fact in result.facts.values())
    assert result.agreement.time_bin_edges == federation.config.experiment.agreement.public_edges
    assert result.evaluation.c_index_histogram is None
    assert result.evaluation.c_index_within_site is None
    assert result.evaluation.num_events is None
    assert result.evaluation.loss is not None
    discrete = [c not in set(continuous_columns(result.agreement.gene_columns)) for c in result.agreement.gene_columns]
    assert any(discrete)
    assert not result.agreement.gene_center[discrete].any()
    assert (result.agreement.gene_scale[discrete] == 1.0).all()
    assert np.count_nonzero(result.agreement.gene_center) == len(discrete) - sum(discrete)


def test_a_loss_that_leaves_is_rounded(federation):
    federation.restart()  # a strict site trains no run twice
    result = federation.train()
    for record in result.rounds:
        for trained in record.trained.values():
            assert trained.train_loss == round(trained.train_loss, 3)


def test_no_site_over_the_thresholds_is_an_error():
    config = compose_simulation(tiny(*GENES_ONLY, "blocks=true"))
    with pytest.raises(ConfigError, match="none of the 4 sites has 32 patients"):
        prepare_cohort(config)


def test_sites_below_the_thresholds_are_counted(federation):
    case_ids = [record.case_id for record in federation.cohort.cohort.records]
    partition = {"large": tuple(case_ids[:36]), "small": tuple(case_ids[36:40]), "single": tuple(case_ids[40:])}
    thresholds = DisclosureConfig(min_patients=5, min_events=2, min_round_patients=5)
    config = federation.config.model_copy(update={"disclosure": thresholds})
    cohort, kept, registries, warnings = draw_site_blocks(federation.cohort.cohort, partition, config)
    assert set(kept) == set(registries) == {"large", "single"}
    assert warnings == (
        "1 of 3 sites are below the thresholds and take no part",
        "1 sites have one block: they train in every fold and are tested in none",
    )
    assert {r.case_id for r in cohort.records if r.fold is not None} == set(partition["large"])
    with pytest.raises(ConfigError, match="no site has two blocks"):
        draw_site_blocks(federation.cohort.cohort, {"single": partition["single"]}, config)


@pytest.mark.parametrize("other", ["federation.curve_holdout=0.2", "fold_source=site_grouped"])
def test_settings_that_no_deployment_has_are_refused(other):
    with pytest.raises(ConfigError, match="blocks=true"):
        compose_simulation(("blocks=true", other))
