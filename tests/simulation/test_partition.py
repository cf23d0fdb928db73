"""Cutting a cohort into hospitals: everybody in one, the same every time, and the names fit a site.yaml."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from memamba_core.config.simulation import (
    DirichletPartition,
    IIDPartition,
    MergedTSSPartition,
    PartitionConfig,
    RegionPartition,
    TSSPartition,
)
from memamba_core.config.site import ClinicalTable, FeatureFolder, GenomicsTable, SiteConfig, SiteDataConfig
from memamba_core.data.manifest import load_cohort
from memamba_core.data.records import Cohort, PatientRecord
from memamba_core.errors import ConfigError, DataError
from simulation.partition import partition_cohort

CODES = ("01", "05", "2F", "A8", "NA", "ZZ")
DATA = SiteDataConfig(root=".", clinical=ClinicalTable(file="x.csv"), features=FeatureFolder(path="x", encoder="x"))


def cohort_of(codes: list[str | None], events: list[bool] | None = None) -> Cohort:
    events = events or [i % 3 == 0 for i in range(len(codes))]
    return Cohort(
        tuple(
            PatientRecord(f"P{i:04d}", time_months=float(i), event=event, tss=code)
            for i, (code, event) in enumerate(zip(codes, events, strict=True))
        )
    )


@st.composite
def cohorts(draw) -> Cohort:
    patients = draw(st.lists(st.tuples(st.sampled_from(CODES), st.booleans()), min_size=1, max_size=60))
    return cohort_of([code for code, _ in patients], [event for _, event in patients])


@st.composite
def partitions(draw) -> tuple[Cohort, PartitionConfig]:
    cohort = draw(cohorts())
    most = len(cohort.records)
    name = draw(st.sampled_from(["tss", "tss_merged", "iid", "dirichlet"]))
    settings = {
        "tss": {},
        "tss_merged": {"min_patients": draw(st.integers(1, most))},
        "iid": {"num_sites": draw(st.integers(1, most))},
        "dirichlet": {
            "num_sites": draw(st.integers(1, most)),
            "alpha": draw(st.sampled_from([1e-3, 0.3, 5.0, 1e6])),
        },
    }
    return cohort, TypeAdapter(PartitionConfig).validate_python({"name": name, **settings[name]})


@given(partitions(), st.integers(0, 2**32 - 1), st.randoms())
def test_everybody_is_in_one_site_and_the_order_of_the_table_plays_no_part(drawn, seed, random):
    cohort, config = drawn
    sites = partition_cohort(cohort, config, seed=seed)
    everybody = [case_id for case_ids in sites.values() for case_id in case_ids]
    assert sorted(everybody) == sorted(r.case_id for r in cohort.records)
    assert all(sites.values())
    assert list(sites) == sorted(sites)
    assert all(list(case_ids) == sorted(case_ids) for case_ids in sites.values())
    for name in sites:
        assert SiteConfig(name=name, data=DATA).name == name
    shuffled = list(cohort.records)
    random.shuffle(shuffled)
    assert partition_cohort(Cohort(tuple(shuffled)), config, seed=seed) == sites


@given(cohorts(), st.integers(1, 60))
def test_merged_sites_all_meet_the_minimum_and_are_blind_to_outcomes(cohort, min_patients):
    config = MergedTSSPartition(min_patients=min_patients)
    if min_patients > len(cohort.records):
        with pytest.raises(ConfigError, match=rf"min_patients={min_patients}.*lower it"):
            partition_cohort(cohort, config)
        return
    sites = partition_cohort(cohort, config)
    assert min(map(len, sites.values())) >= min_patients
    tss_of = {r.case_id: r.tss for r in cohort.records}
    sites_of_code = {}
    for name, case_ids in sites.items():
        for case_id in case_ids:
            sites_of_code.setdefault(tss_of[case_id], set()).add(name)
    assert all(len(names) == 1 for names in sites_of_code.values())
    blind = Cohort(tuple(replace(r, event=not r.event, time_months=0.0) for r in cohort.records))
    assert partition_cohort(blind, config) == sites


@given(cohorts(), st.integers(1, 60), st.integers(0, 100))
def test_iid_sites_are_of_equal_size(cohort, num_sites, seed):
    config = IIDPartition(num_sites=num_sites)
    if num_sites > len(cohort.records):
        with pytest.raises(ConfigError, match=rf"num_sites={num_sites}, but the cohort has"):
            partition_cohort(cohort, config, seed=seed)
        return
    sizes = [len(case_ids) for case_ids in partition_cohort(cohort, config, seed=seed).values()]
    assert len(sizes) == num_sites
    assert max(sizes) - min(sizes) <= 1


def test_sites_are_named_after_codes_and_leading_zeros_stay():
    sites = partition_cohort(cohort_of(["05", "NA", "2F", "05"]), TSSPartition())
    assert sites == {"tss-05": ("P0000", "P0003"), "tss-2F": ("P0002",), "tss-NA": ("P0001",)}


def test_small_sites_are_joined_in_order_of_region_and_code(tmp_path):
    table = tmp_path / "tss.csv"
    table.write_text("tss,flamby_region\nA1,South\nA2,Europe\nA3,South\nA4,Europe\nBIG,Europe\nNA,Europe\n")
    codes = ["A1"] * 2 + ["A2"] * 2 + ["A3"] * 2 + ["A4"] * 2 + ["BIG"] * 5 + ["NA"] + ["ZZ"]
    config = MergedTSSPartition(min_patients=4)
    sites = partition_cohort(cohort_of(codes), config, tss_table=table)
    # Without a region: ZZ. Then Europe A2, A4, NA, then South A1, A3.
    assert {name: len(case_ids) for name, case_ids in sites.items()} == {
        "tss-BIG": 5,
        "tss-ZZ_A2_A4": 5,
        "tss-NA_A1_A3": 5,
    }
    by_code = partition_cohort(cohort_of(codes), config)
    assert set(by_code) == {"tss-BIG", "tss-A1_A2", "tss-A3_A4_NA_ZZ"}  # NA and ZZ: the remainder


def test_a_remainder_joins_a_large_site_where_nothing_was_joined():
    sites = partition_cohort(cohort_of(["A1"] * 5 + ["B1"] * 5 + ["A2"]), MergedTSSPartition(min_patients=4))
    assert {name: len(case_ids) for name, case_ids in sites.items()} == {"tss-A1": 5, "tss-B1_A2": 6}


def test_long_names_are_shortened():
    codes = [f"C{i:02d}" for i in range(40)]
    (name,) = partition_cohort(cohort_of(codes), MergedTSSPartition(min_patients=40))
    assert name == "tss-C00_C01_C02_and_37_more"


def test_regions(tmp_path):
    table = tmp_path / "tss.csv"
    table.write_text("tss,flamby_region\n05,North America\nNA,Europe\n2F,Europe\nA8,\n")
    config = RegionPartition()
    sites = partition_cohort(cohort_of(["05", "NA", "2F"]), config, tss_table=table)
    assert sites == {"europe": ("P0001", "P0002"), "north-america": ("P0000",)}
    partly = cohort_of(["05", "A8", "XX", "XX"])
    with pytest.raises(DataError, match=r"no region for 2 of .* 3 .*\(3 patients\): A8, XX\. Add them"):
        partition_cohort(partly, config, tss_table=table)
    with pytest.raises(ConfigError, match=r"needs a table.*data.tss_table.*partition=tss_merged"):
        partition_cohort(cohort_of(["05"]), config)
    with pytest.raises(DataError, match="no such file"):
        partition_cohort(cohort_of(["05"]), config, tss_table=tmp_path / "absent.csv")
    table.write_text("tss,region\n05,Europe\n")
    with pytest.raises(DataError, match="no column 'flamby_region'"):
        partition_cohort(cohort_of(["05"]), config, tss_table=table)
    table.write_text("tss,flamby_region\n05,Europe\n05,South\n")
    with pytest.raises(DataError, match="'tss' repeats a code in row 2"):
        partition_cohort(cohort_of(["05"]), config, tss_table=table)
    table.write_text("tss,flamby_region\n05,../Europe\n")
    with pytest.raises(DataError, match=r"region '\.\./Europe' of 05; wanted words"):
        partition_cohort(cohort_of(["05"]), config, tss_table=table)


def test_a_site_may_have_a_name():
    records = cohort_of(["north_clinic", "St-Elsewhere", "north_clinic", "A" * 40])
    assert set(partition_cohort(records, TSSPartition())) == {
        "tss-north_clinic",
        "tss-St-Elsewhere",
        f"tss-{'A' * 40}",
    }
    with pytest.raises(DataError, match="wanted at most 40 letters"):
        partition_cohort(cohort_of(["A" * 41]), TSSPartition())


def test_a_joined_name_fits_a_site_and_is_the_only_one():
    long = cohort_of([f"{letter * 30}{i}" for letter in "abc" for i in range(2)])
    (name,) = partition_cohort(long, MergedTSSPartition(min_patients=6))
    assert name == f"tss-{'a' * 30}0_and_5_more"
    alike = cohort_of(["a", "b", "a_b", "a_b"])
    with pytest.raises(DataError, match="two sites would be named tss-a_b"):
        partition_cohort(alike, MergedTSSPartition(min_patients=2))


def test_patients_without_a_code_need_another_partition():
    with pytest.raises(DataError, match=r"2 of 3 patients have no tissue source site.*partition=iid"):
        partition_cohort(cohort_of(["05", None, ""]), TSSPartition())
    with pytest.raises(DataError, match=r"'St\. Elsewhere'; wanted at most 40 letters"):
        partition_cohort(cohort_of(["St. Elsewhere"]), TSSPartition())
    with pytest.raises(DataError, match="has no patients"):
        partition_cohort(Cohort(()), TSSPartition())
    sites = partition_cohort(cohort_of([None, None, None]), IIDPartition(num_sites=2))
    assert sum(map(len, sites.values())) == 3


def test_alpha_says_how_uneven_the_events_are():
    cohort = cohort_of([None] * 400, [i % 2 == 0 for i in range(400)])
    happened = {r.case_id for r in cohort.records if r.event}

    def spread(alpha: float, seed: int) -> tuple[float, float]:
        """Standard deviations of event rate and size among ten sites."""
        config = DirichletPartition(num_sites=10, alpha=alpha)
        sites = partition_cohort(cohort, config, seed=seed).values()
        return (
            float(np.std([len(happened & set(s)) / len(s) for s in sites])),
            float(np.std(list(map(len, sites)))),
        )

    for seed in range(5):
        (rate_uneven, size_uneven), (rate_even, size_even) = spread(0.3, seed), spread(1000.0, seed)
        assert rate_uneven > 3 * rate_even
        assert size_uneven > 3 * size_even


def test_the_seed_decides_who_is_where():
    cohort = cohort_of([None] * 50)
    for config in (
        IIDPartition(num_sites=5),
        DirichletPartition(num_sites=5, alpha=1),
    ):
        assert partition_cohort(cohort, config, seed=1) != partition_cohort(cohort, config, seed=2)


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("table", "num_sites", "num_patients"),
    [
        ("tcga_blca_mcat", 33, 373),
        pytest.param("tcga_gbmlgg_porpoise", 35, 569, marks=pytest.mark.ci_slow),
        pytest.param("tcga_luad_mcat", 33, 453, marks=pytest.mark.ci_slow),
        pytest.param("tcga_brca_porpoise", 37, 956, marks=pytest.mark.ci_slow),  # the one with regions
    ],
)
def test_tcga_by_tissue_source_site(data_root, table, num_sites, num_patients):
    cohort = tcga(data_root, table)
    tss_table = data_root / "reference" / "tcga_tss_codes.csv"
    sites = partition_cohort(cohort, TSSPartition(), tss_table=tss_table)
    assert (len(sites), sum(map(len, sites.values()))) == (num_sites, num_patients)
    merged = partition_cohort(cohort, MergedTSSPartition(min_patients=50), tss_table=tss_table)
    assert 2 < len(merged) < num_sites
    assert min(map(len, merged.values())) >= 50
    if "brca" in table:
        regions = partition_cohort(cohort, RegionPartition(), tss_table=tss_table)
        # FLamby's six, and six patients whom it leaves out.
        assert {name: len(case_ids) for name, case_ids in regions.items()} == {
            "canada": 47,
            "europe": 146,
            "midwest": 148,
            "northeast": 280,
            "other": 6,
            "south": 157,
            "west": 172,
        }
    else:
        with pytest.raises(DataError, match="no region for"):
            partition_cohort(cohort, RegionPartition(), tss_table=tss_table)


def tcga(data_root, table: str) -> Cohort:
    config = SiteDataConfig(
        root=data_root / "cohorts",
        clinical=ClinicalTable(file=f"{table}.csv.gz", tss="tss", slides="slide_ids"),
        genomics=GenomicsTable(file=f"{table}.csv.gz"),
    )
    return load_cohort(config)
