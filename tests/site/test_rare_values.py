"""A column in which few patients differ would make an update the residual of these few."""

from dataclasses import replace

import numpy as np
import pytest
from fixtures.strict_site import build_site, cohort_of, opening_request, statistics_request
from hypothesis import given
from hypothesis import strategies as st

from client.rare_values import count_others
from client.worker import SiteWorker
from memamba_core.config.site import DisclosureConfig
from memamba_core.data.features.slide_tables import SlideTable
from memamba_core.data.records import Cohort, GeneTable

NAN = float("nan")


@pytest.mark.parametrize(
    ("column", "others"),
    [
        ([0, 0, 0, 1], 1),
        ([1, 1, 1, 0], 1),
        ([0, 0, 1, 1], 2),
        ([NAN, NAN, NAN, 5], 1),
        ([NAN, 1, 2, 3], 3),
        ([0.1, 0.2, 0.3, 0.4], 4),
        ([NAN, NAN, NAN, NAN], 0),
    ],
)
def test_patients_who_differ_from_the_most_common_value_are_counted(column, others):
    assert count_others(np.array(column, dtype=np.float32)[:, None]).tolist() == [others]


@given(st.lists(st.sampled_from([0.0, 1.0, 2.0, NAN]), min_size=1, max_size=12))
def test_the_count_is_that_of_a_plain_count(column):
    known = [value for value in column if value == value]
    most = max((known.count(value) for value in known), default=0)
    plain = len(known) - (most if most > 1 else 0)
    assert count_others(np.array(column, dtype=np.float32)[:, None]).tolist() == [plain]


def test_the_carrier_of_a_rare_mutation_is_not_in_the_training_data(tmp_path):
    """The attack: the update of one weight is not zero, so somebody in the block has this mutation."""
    numbers = tuple(range(24))
    plain = cohort_of(numbers)
    values = np.zeros((24, 2), dtype=np.float32)
    values[5, 0] = 1.0  # one carrier
    values[::2, 1] = 1.0  # twelve
    cohort = Cohort(plain.records, GeneTable(("RARE_mut", "COMMON_mut"), values))
    thresholds = DisclosureConfig(min_patients=2, min_events=2, min_round_patients=12)
    site = build_site(tmp_path / "state", cohort, thresholds)
    SiteWorker(site).facts(opening_request())
    trained = site.training_cohort(-1, 0)
    assert np.isnan(trained.genes.values_NC[:, 0]).all()
    assert np.nansum(trained.genes.values_NC[:, 1]) == 12
    assert site.cohort.genes.values_NC[5, 0] == 1.0, "the site's own table is as it was"


def test_a_rare_value_of_a_slide_table_is_not_in_the_training_data(tmp_path):
    """The attack: as for a mutation; a patient with several slides is one carrier."""
    records = tuple(
        replace(r, slides=(f"{r.case_id}-a", f"{r.case_id}-b")) for r in cohort_of(tuple(range(24))).records
    )
    rows = {slide: row for row, slide in enumerate(slide for r in records for slide in r.slides)}
    values = np.zeros((48, 2), dtype=np.float32)
    values[[10, 11, 12], 0] = 1.0  # three slides of two patients
    values[:, 1] = np.arange(48)  # all differ
    table = SlideTable("hif", ("hif_1", "hif_2"), (), values, {slide: (row,) for slide, row in rows.items()}, {})
    thresholds = DisclosureConfig(min_patients=3, min_events=2, min_round_patients=12)
    site = build_site(tmp_path / "state", Cohort(records, features=table), thresholds)
    SiteWorker(site).facts(opening_request())
    trained = site.training_cohort(-1, 0).features
    assert np.isnan(trained.values_SF[:, 0]).all()
    assert trained.values_SF[:, 1].tolist() == list(range(48))
    assert trained.load(records[0]).patches_PF.shape == (2, 2)
    assert table.values_SF[10, 0] == 1.0, "the site's own table is as it was"


def test_two_patients_who_differ_are_not_in_the_sums(tmp_path):
    """The attack: mean and squares of a column in which all but two are zero give the values of the two."""
    numbers = tuple(range(24))
    values = np.zeros((24, 2), dtype=np.float32)
    values[:2, 0] = (1.5, 0.25)
    values[:, 1] = np.linspace(-1, 1, 24)
    cohort = Cohort(cohort_of(numbers).records, GeneTable(("RARE_rnaseq", "COMMON_rnaseq"), values))
    site = build_site(tmp_path / "state", cohort, DisclosureConfig(min_patients=4, min_events=2, min_round_patients=12))
    worker = SiteWorker(site)
    facts = opening_request()
    worker.facts(facts)
    genes = worker.statistics(statistics_request(facts, ("RARE_rnaseq", "COMMON_rnaseq"))).genes
    assert genes["count"].tolist() == [0.0, 24.0]
    assert (genes["mean"][0], genes["m2"][0]) == (0.0, 0.0)
