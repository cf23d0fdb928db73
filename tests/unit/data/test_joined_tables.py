"""Tables whose rows come in different orders: each patient keeps the own genes, slides and test fold."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from memamba_core.config.site import ClinicalTable, FoldTable, GenomicsTable, SiteDataConfig
from memamba_core.data.manifest import load_cohort

CASES = ("p1", "p2", "p3", "p4", "p5")
ORDERS = st.permutations(CASES)


def value_of(case_id):
    """Return the one gene value of a patient; p5 has no row."""
    return 10.0 * CASES.index(case_id) + 1.0


def write_site(root, clinical, genes, folds):
    """Write the three tables with their rows in the orders given."""
    root.mkdir(exist_ok=True)
    pd.DataFrame({"case_id": clinical, "survival_months": 5.0, "event": 1}).to_csv(root / "clinical.csv", index=False)
    rows = [case_id for case_id in genes if case_id != "p5"]
    table = {"case_id": rows, "A_rnaseq": [value_of(case_id) for case_id in rows]}
    pd.DataFrame(table).to_csv(root / "genes.csv", index=False)
    fold_rows = {"case_id": folds, "fold": [CASES.index(case_id) for case_id in folds]}
    pd.DataFrame(fold_rows).to_csv(root / "folds.csv", index=False)
    return SiteDataConfig(
        root=root,
        clinical=ClinicalTable(file="clinical.csv"),
        genomics=GenomicsTable(file="genes.csv"),
        folds=FoldTable(file="folds.csv"),
    )


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=15)
@given(ORDERS, ORDERS, ORDERS)
def test_the_order_of_the_rows_of_a_table_plays_no_part(tmp_path, clinical, genes, folds):
    cohort = load_cohort(write_site(tmp_path / "site", clinical, genes, folds))
    assert cohort.genes is not None
    assert [r.case_id for r in cohort.records] == [case_id for case_id in clinical if case_id != "p5"]
    for record in cohort.records:
        assert record.gene_row is not None
        assert cohort.genes.values_NC[record.gene_row].tolist() == [value_of(record.case_id)]
        assert record.fold == CASES.index(record.case_id)


def test_rows_of_the_gene_table_are_not_taken_in_the_order_of_the_clinical_one(tmp_path):
    """The plain example: the gene table is turned around."""
    cohort = load_cohort(write_site(tmp_path, CASES, CASES[::-1], CASES))
    assert cohort.genes is not None
    values = [cohort.genes.values_NC[r.gene_row, 0] for r in cohort.records]
    np.testing.assert_array_equal(values, [1.0, 11.0, 21.0, 31.0])


@pytest.mark.parametrize("with_table", [True, False])
def test_a_cohort_says_if_its_folds_are_assigned(tmp_path, with_table):
    config = write_site(tmp_path, CASES, CASES, CASES[:2])
    cohort = load_cohort(config if with_table else config.model_copy(update={"folds": None}))
    assert cohort.has_folds is with_table
    assert [r.fold for r in cohort.records] == ([0, 1, None, None] if with_table else [None] * 4)
    assert cohort.subset(["p1"]).has_folds is with_table
