"""Section `privacy` of a site.yaml: declared bands, and the largest delta."""

from typing import get_args

import pytest

from memamba_core.config.site import SiteConfig
from memamba_core.config.site_privacy import SizeBand, largest_delta, top_of_band
from memamba_core.errors import ConfigError
from memamba_core.wire.protocol import SIZE_BANDS

DATA = {"root": "data", "clinical": {"file": "clinical.csv"}, "genomics": {"file": "genes.csv"}}
BANDS = {"patients": 100, "pathology": 0, "genomics": 100}


def site(data=DATA, **privacy):
    return SiteConfig.parse({"name": "a", "state": "state", "data": data, "privacy": privacy}, "site.yaml")


def test_bands_are_those_of_the_protocol():
    assert get_args(SizeBand) == SIZE_BANDS
    assert [top_of_band(band) for band in (0, 1, 100, 1000, 10_000)] == [0, 9, 249, 9_999, 99_999]


def test_declared_bands_are_read():
    assert site(bands=BANDS).privacy.bands.model_dump() == BANDS


@pytest.mark.parametrize(
    ("bands", "reason"),
    [
        (None, "privacy needs bands, the public sizes"),
        ({**BANDS, "patients": 110}, "Input should be 0, 1, 10, 25"),
        ({**BANDS, "patients": 0, "genomics": 0}, "greater than or equal to 1"),
        ({**BANDS, "genomics": 250}, "genomics is 250; expected at most patients=100"),
        ({**BANDS, "genomics": 0}, "privacy.bands.genomics is 0; expected at least 1, because data.genomics is set"),
        ({**BANDS, "pathology": 10}, "privacy.bands.pathology is 10; expected 0 without data.features"),
    ],
)
def test_bands_that_cannot_be_are_refused(bands, reason):
    with pytest.raises(ConfigError, match=reason):
        site(**({} if bands is None else {"bands": bands}))


@pytest.mark.parametrize(("patients", "limit"), [(1, 1e-5), (100, 1e-5), (1000, 1e-5), (10_000, 1 / 999_990)])
def test_delta_is_below_a_tenth_of_one_over_the_patients(patients, limit):
    assert largest_delta(patients) == pytest.approx(limit, rel=1e-3)
    assert largest_delta(patients) * 10 * top_of_band(patients) <= 1
    bands = {**BANDS, "patients": patients, "genomics": 1}
    assert site(bands=bands, delta=largest_delta(patients)).privacy.delta == largest_delta(patients)
    with pytest.raises(ConfigError, match="delta"):
        site(bands=bands, delta=largest_delta(patients) * 1.01)


@pytest.mark.parametrize("delta", [0, 1e-10, 0.99])
def test_a_delta_out_of_range_is_refused(delta):
    with pytest.raises(ConfigError, match="delta"):
        site(bands=BANDS, delta=delta)


@pytest.mark.parametrize("mode", ["mut", "mut_counts"])
def test_columns_that_one_value_decides_on_are_refused(mode):
    genomics = {"file": "genes.csv", "bare_columns": mode}
    with pytest.raises(ConfigError, match=f"bare_columns is {mode}: one value of one patient decides"):
        site(data={**DATA, "genomics": genomics}, bands=BANDS)
