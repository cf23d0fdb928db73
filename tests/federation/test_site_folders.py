"""Two hospitals whose tables contradict each other: the result names the site. In a deployment, what it can know."""

import pandas as pd
import pytest
from fixtures.federation import composed, tiny
from fixtures.site_folders import GENES, run_site_folders, write_site_folder

from memamba_core.data.records import Cohort
from simulation.cohort import prepare_cohort

SMALL = (*(o for o in GENES if "num_rounds" not in o), "model.d_model=4", "model.d_state=2", "federation.num_rounds=1")


@pytest.fixture(scope="module")
def tables():
    """Return clinical and molecular table of two hospitals of 100 patients, expression as log2(TPM + 1)."""
    cohort: Cohort = prepare_cohort(
        composed(
            tiny(
                "data.synthetic.num_patients=200",
                "data.synthetic.num_sites=2",
                "partition.num_sites=2",
                "data.synthetic.missing_genes=0",
                "data.synthetic.num_genes=24",
            )
        )
    ).cohort

    def of(records):
        clinical = pd.DataFrame(
            {
                "case_id": [r.case_id for r in records],
                "survival_months": [r.time_months for r in records],
                "event": [int(r.event) for r in records],
            }
        )
        genes = pd.DataFrame(cohort.genes.values_NC[[r.gene_row for r in records]], columns=cohort.genes.columns)
        expression = [c for c in genes.columns if c.endswith("_rnaseq")]
        genes[expression] = (5 + 2 * genes[expression]).clip(lower=0)
        genes.insert(0, "case_id", clinical["case_id"])
        return clinical, genes

    return of(cohort.records[:100]), of(cohort.records[100:])


def warnings_of(tmp_path, tables, *, clinical=lambda t: t, genomics=lambda t: t, strict=False):
    """Run a federation in which the tables of the second hospital were changed."""
    (first, genes), (second, other) = tables
    folders = [
        write_site_folder(tmp_path / "site-a", first, genes),
        write_site_folder(tmp_path / "site-b", clinical(second.copy()), genomics(other.copy())),
    ]
    return [w for w in run_site_folders(folders, SMALL, strict=strict).warnings if "of the weight" not in w]


def damage_names(table):
    table.columns = [c.replace("GENE", "GENE.") if c.startswith("GENE00") else c for c in table.columns]
    return table


def as_tpm(table):
    expression = [c for c in table.columns if c.endswith("_rnaseq")]
    return table.assign(**(2 ** table[expression] - 1))


def reverse(table):
    return table.assign(event=1 - table["event"])


@pytest.mark.parametrize("strict", [False, True], ids=["simulation", "deployment"])
class TestBothKindsOfSites:
    """A deployment knows names of columns and moments of expression, as a simulation does."""

    def test_ordinary_tables_raise_no_warning(self, tmp_path, tables, strict):
        assert warnings_of(tmp_path, tables, strict=strict) == []

    def test_lost_columns_are_named_by_site(self, tmp_path, tables, strict):
        first, second = warnings_of(tmp_path, tables, genomics=damage_names, strict=strict)
        assert first.startswith("site-a: ")
        assert second.startswith("site-b: ")
        assert "'GENE001_rnaseq'" in second
        assert "'GENE.001_rnaseq' for 'GENE001_rnaseq'" in second

    def test_another_scale_of_expression_is_named(self, tmp_path, tables, strict):
        (warning,) = warnings_of(tmp_path, tables, genomics=as_tpm, strict=strict)
        assert warning.startswith("site-b: expression is on another scale than at site-a: the median of ")


def test_a_reversed_coding_of_events_is_named_in_a_simulation(tmp_path, tables):
    warning = warnings_of(tmp_path, tables, clinical=reverse)[-1]
    assert warning.startswith("site-b: ")
    assert "The coding of events may be reversed" in warning


def test_a_deployment_cannot_notice_a_reversed_coding_at_the_start(tmp_path, tables):
    assert warnings_of(tmp_path, tables, clinical=reverse, strict=True) == [], "no count of events leaves a site"


def test_days_as_months_are_named_in_a_simulation(tmp_path, tables):
    def as_days(table):
        return table.assign(survival_months=table["survival_months"] * 30.4)

    named = warnings_of(tmp_path, tables, clinical=as_days)
    assert any(w.startswith("site-b: median follow-up lies in cell") for w in named)
