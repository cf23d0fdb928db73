"""Declared size bands: weights of parameter groups, and the comparison with the data on the site's own screen."""

import dataclasses

import pytest
from fixtures.federation import Federation, tiny

from client.declared_bands import bands_of, compare_bands, group_bands
from memamba_core.config.site import DeclaredBands, SitePrivacy
from memamba_core.errors import ConfigError
from memamba_core.model import build_model
from memamba_core.patient import InputSpec


@pytest.fixture(scope="module")
def site():
    federation = Federation(tiny("partition.num_sites=1", "data.synthetic.num_sites=1"))
    return next(iter(federation.cohort.sites.values()))


def declaring(patients, pathology, genomics, delta=1e-5):
    bands = DeclaredBands(patients=patients, pathology=pathology, genomics=genomics)
    return SitePrivacy(delta=delta, bands=bands)


def counts_of(cohort):
    return len(cohort.records), sum(map(cohort.has_slides, cohort.records)), sum(map(cohort.has_genes, cohort.records))


def test_bands_that_fit_yield_nothing(site):
    assert counts_of(site.cohort) == (48, 43, 43)
    assert list(compare_bands(declaring(25, 25, 25), site.cohort)) == []


def test_each_band_that_does_not_fit_is_named_with_the_right_one(site):
    found = list(compare_bands(declaring(100, 10, 25), site.cohort))
    assert [line.split(" is ")[0] for line in found] == ["privacy.bands.patients", "privacy.bands.pathology"]
    assert "the site has 48" in found[0]
    assert found[0].endswith("declare 25")


def test_every_group_of_the_model_has_a_band(site):
    spec = InputSpec(num_bins=3, num_genes=4, gene_groups={"a": (0, 1, 2, 3)}, feature_width=5)
    model = build_model(Federation(tiny()).config.experiment.model, spec, seed=0)
    bands = DeclaredBands(patients=100, pathology=25, genomics=50)
    assert group_bands(bands, model) == {
        "pathology": 25,
        "genomics": 50,
        "synergistic": 25,
        "head": 100,
        "absent_pathology": 100,
        "absent_genomics": 100,
        "absent_synergistic": 100,
    }


def test_a_deployed_site_never_counts(site):
    counted = dataclasses.replace(site, config=site.config.model_copy(update={"privacy": SitePrivacy()}))
    assert bands_of(counted, site.cohort).patients == 25
    strict = dataclasses.replace(counted, registry=object())
    with pytest.raises(ConfigError, match=r"privacy\.bands is missing"):
        bands_of(strict, site.cohort)
    declared = strict.config.model_copy(update={"privacy": declaring(1000, 1, 1)})
    assert bands_of(dataclasses.replace(strict, config=declared), site.cohort).patients == 1000
