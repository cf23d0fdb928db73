"""Expression on another scale at one site: a warning with numbers, and none where sites differ as tumours do."""

import numpy as np
import pytest

from memamba_core.config.compose import compose_simulation
from memamba_core.data.genomics.table import continuous_columns
from memamba_core.data.statistics import ColumnMoments, column_moments, signed_log, transform_genes
from server.federation.scale_differences import find_scale_differences
from simulation.cohort import prepare_cohort

COLUMNS = tuple(f"G{index:03d}_rnaseq" for index in range(60))


def logs(seed, num=40):
    """log2(TPM + 1) of a site: genes at their own level, sites shifted gene by gene."""
    level = np.random.default_rng(0).uniform(0.5, 9, len(COLUMNS))
    rng = np.random.default_rng(seed)
    return np.clip(rng.normal(level + rng.normal(0, 0.5, len(COLUMNS)), 1.2, (num, len(COLUMNS))), 0, None)


def tpm(seed, num=40):
    return 2 ** logs(seed, num) - 1


def zscores(seed, num=40):
    values = logs(seed, num)
    return (values - values.mean(axis=0)) / values.std(axis=0)


def find(columns=COLUMNS, **values):
    genes = {site: column_moments([signed_log(rows)], len(columns)) for site, rows in values.items()}
    return find_scale_differences(genes, columns)


@pytest.mark.parametrize("scale", [logs, tpm, zscores])
def test_sites_on_one_scale_are_not_warned_of(scale):
    for seed in range(10):
        assert find(**{f"s{site}": scale(10 * seed + site, 15 + 10 * site) for site in range(4)}) == []


@pytest.mark.parametrize(("odd", "usual"), [(tpm, logs), (logs, tpm), (zscores, logs), (logs, zscores), (tpm, zscores)])
def test_one_site_on_another_scale_is_named_with_numbers(odd, usual, caplog):
    (warning,) = find(a=usual(1), b=usual(2), odd=odd(3), z=usual(4))
    assert warning.startswith("odd: expression is on another scale than at a, b, z (3 of 3 sites; the numbers are ")
    assert " standard deviations " in warning
    assert "One table may hold TPM or counts" in warning
    assert warning in caplog.text


def test_of_two_sites_that_differ_one_is_named_against_the_other():
    (warning,) = find(south=tpm(1), north=logs(2))
    assert warning.startswith("south: expression is on another scale than at north: the median of ")


def test_sites_in_two_equal_parties_are_all_named():
    assert [w.partition(":")[0] for w in find(a=logs(1), b=tpm(2), c=logs(3), d=tpm(4))] == ["a", "b", "c", "d"]


def test_only_expression_is_compared():
    columns = tuple(column.replace("_rnaseq", "_cnv") for column in COLUMNS)
    assert find(columns, a=logs(1), b=tpm(2)) == []


def test_sites_that_disclose_nothing_or_have_few_patients_are_not_compared():
    assert find(a=logs(1), b=tpm(2, num=9)) == []
    silent = ColumnMoments.zeros(len(COLUMNS))
    assert find_scale_differences({"a": column_moments([logs(1)], len(COLUMNS)), "b": silent}, COLUMNS) == []
    assert find_scale_differences({}, ()) == []


@pytest.mark.real_data
@pytest.mark.ci_slow
@pytest.mark.parametrize("partition", ["tss", "tss_merged"])
@pytest.mark.parametrize("name", ["tcga_blca", "tcga_brca", "tcga_gbmlgg", "tcga_luad"])
def test_no_ordinary_cohort_is_warned_of(data_root, monkeypatch, name, partition):
    monkeypatch.setenv("MEMAMBA_DATA", str(data_root))
    config = compose_simulation([f"data={name}", f"partition={partition}"])
    cohort = prepare_cohort(config)
    columns, genes = cohort.cohort.genes.columns, {}
    for site, own in cohort.sites.items():
        rows = [r.gene_row for r in own.cohort.records if r.gene_row is not None]
        values = transform_genes(cohort.cohort.genes.values_NC[rows], config.experiment.agreement)
        genes[site] = column_moments([values], len(columns))
    assert len(continuous_columns(columns)) > 1000
    assert find_scale_differences(genes, columns) == []
