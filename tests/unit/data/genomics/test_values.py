import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memamba_core.config.site import GenomicsTable
from memamba_core.data.genomics.mixed_scales import find_mixed_scales
from memamba_core.data.genomics.table import find_gene_doubts, read_genes
from memamba_core.data.genomics.values import find_codes, find_value_doubts
from memamba_core.data.records import GeneTable
from memamba_core.errors import DataError

PATIENTS, GENES = 40, 30


def healthy(seed=0, scale="log2", patients=PATIENTS):
    """Return a table of expression on one scale, GISTIC copy numbers and mutations."""
    rng = np.random.default_rng(seed)
    log2 = np.clip(rng.normal(rng.normal(5, 2.5, GENES), 0.8, (patients, GENES)), 0, None)
    expression = {
        "log2": log2,
        "log2 of 0.001": np.log2(2**log2 - 0.999),
        "tpm": 2**log2 - 1,
        "counts": np.round((2**log2 - 1) * 40),
        "z": (log2 - log2.mean(0)) / (log2.std(0) + 0.1) * np.where(rng.random((patients, 1)) < 0.1, 2, 1),
    }[scale]
    cnv = rng.choice([-2, -1, 0, 1, 2], (patients, GENES), p=[0.02, 0.2, 0.5, 0.25, 0.03])
    mut = rng.random((patients, GENES)) < 0.1
    columns = [f"G{i}_{kind}" for kind in ("rnaseq", "cnv", "mut") for i in range(GENES)]
    return GeneTable(tuple(columns), np.hstack([expression, cnv, mut]).astype(np.float32))


@settings(max_examples=25)
@given(
    seed=st.integers(0, 2**32 - 1),
    scale=st.sampled_from(["log2", "log2 of 0.001", "tpm", "counts", "z"]),
    patients=st.integers(6, 60),
    absent=st.sampled_from([0, 0.3]),
)
def test_healthy_tables_raise_no_doubt(seed, scale, patients, absent):
    table = healthy(seed, scale, patients)
    table.values_NC[np.random.default_rng(seed).random(table.values_NC.shape) < absent] = np.nan
    assert list(find_gene_doubts("g.csv", table)) == []
    assert find_codes(table.columns, table.values_NC) == {}


def part(table, kind):
    start = {"rnaseq": 0, "cnv": GENES, "mut": 2 * GENES}[kind]
    return table.values_NC[:, start : start + GENES]


@pytest.mark.parametrize("scale", ["log2", "tpm", "z", "counts"])
@pytest.mark.parametrize(
    ("kind", "code"),
    [("mut", -9), ("mut", 9), ("mut", -1), ("mut", 999), ("mut", -2.5)]
    + [("cnv", code) for code in (-999, -9, 9, 99, 9999, -99)]
    + [("rnaseq", code) for code in (-999, -99, -9999, 99999, 999999)],
)
def test_codes_are_found_in_the_cells_that_hold_them(scale, kind, code):
    table = healthy(1, scale)
    for row, column in ((3, 0), (5, 0), (5, 7)):
        part(table, kind)[row, column] = code
    ((found, cells),) = find_codes(table.columns, table.values_NC).items()
    assert found == code
    assert int(cells.sum()) == 3
    np.testing.assert_array_equal(part(GeneTable(table.columns, cells), kind), part(table, kind) == code)


def test_a_column_of_nothing_but_a_code_is_found():
    table = healthy(8)
    part(table, "rnaseq")[:, 4] = -999
    ((code, cells),) = find_codes(table.columns, table.values_NC).items()
    assert code == -999
    assert np.flatnonzero(cells.all(axis=0)).tolist() == [4]


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("mut", [2, 3, 12, 9]),  # counts
        ("mut", [0.37, 0.5, 0.12, 0.9]),  # shares of reads
        ("cnv", [-5.2, 3.1, 4.0, -9.6]),  # logarithms of ratios
        ("cnv", [3, 4, 5, 9]),  # copies
        ("rnaseq", [9, 7.5, -8.25, -9]),  # logarithms of ratios
    ],
)
def test_other_codings_are_no_codes(kind, values):
    table = healthy(2, "z")
    for row, value in enumerate(values):
        part(table, kind)[row::4] = value
    assert find_codes(table.columns, table.values_NC) == {}


def edit(change, scale="log2"):
    table = healthy(3, scale)
    change(table.values_NC)
    return table


@pytest.mark.parametrize(
    ("change", "check", "words"),
    [
        (lambda v: v[:, 60:62].__setitem__((slice(3), 0), 0.37), "mutations", ("1 of 30 columns _mut", "fractions")),
        (lambda v: v.__setitem__((slice(2), slice(60, 64)), 3), "mutations", ("4 of 30", "whole numbers")),
        (lambda v: v.__setitem__((slice(None), slice(30, 60)), v[:, 30:60] * 0.4), "copy number", ("logarithms",)),
        (lambda v: v.__setitem__((slice(None), slice(30, 60)), v[:, 30:60] + 2), "copy number", ("around 2",)),
        (lambda v: v.__setitem__((4, 35), 3), "copy number", ("beyond -2 and 2",)),
        (lambda v: v.__setitem__((4, slice(30)), 0), "expression", ("1 of 40 patients", "same number, or zero")),
        (lambda v: v.__setitem__((slice(2), slice(28)), 0), "expression", ("2 of 40 patients", "same number, or zero")),
        (lambda v: v.__setitem__(slice(2), v[2]), "expression", ("3 of 40 patients", "of another patient")),
        (lambda v: v.__setitem__((slice(None), 3), 5.5), "expression", ("1 of 30 columns", "one number")),
    ],
)
def test_values_that_may_be_a_mistake_are_counted(change, check, words):
    (doubt,) = find_value_doubts("g.csv", edit(change))
    assert doubt.check == check
    for word in ("g.csv", *words):
        assert word in str(doubt)


def test_one_patient_with_gains_throughout_raises_no_doubt():
    table = healthy(9, patients=1)
    part(table, "cnv")[:] = 2
    assert list(find_value_doubts("g.csv", table)) == []


def test_silent_genes_and_a_quiet_genome_raise_no_doubt():
    def silence(values):
        values[:, :5] = 0
        values[7, 30:] = 0

    assert list(find_value_doubts("g.csv", edit(silence))) == []


SCALES = {"log2": lambda u: u, "tpm": lambda u: 2**u - 1, "counts": lambda u: np.round(2**u * 50), "z": lambda u: u - 5}


@pytest.mark.parametrize("others", [1, 2, 8, 20])
@pytest.mark.parametrize(("one", "other"), [("log2", "tpm"), ("log2", "counts"), ("tpm", "log2"), ("counts", "tpm")])
def test_two_scales_in_one_table_are_doubted(one, other, others):
    table = healthy(4)
    log2 = table.values_NC[:, :GENES].copy()
    table.values_NC[:, :GENES] = SCALES[one](log2)
    table.values_NC[:others, :GENES] = SCALES[other](log2[:others])
    (doubt,) = find_mixed_scales("g.csv", table)
    groups = sorted((others, PATIENTS - others), key=lambda n: (n == others) == ("log2" in (one,) or other == "counts"))
    assert doubt.check == "expression"
    assert {f"{groups[0]} and {groups[1]} patients", f"{groups[1]} and {groups[0]} patients"} & {
        doubt.text.split(" of g.csv")[0]
    }


def test_values_of_both_signs_beside_logarithms_are_doubted():
    table = healthy(5)
    table.values_NC[:15, :GENES] -= 5
    (doubt,) = find_mixed_scales("g.csv", table)
    assert (
        "15 patients of g.csv have negative values" in doubt.text
        or "patients of g.csv have expression on" in doubt.text
    )


@pytest.mark.ci_slow
@pytest.mark.real_data
@pytest.mark.parametrize("cohort", ["tcga_gbmlgg_porpoise", "tcga_brca_porpoise"])
def test_parts_of_real_cohorts_raise_no_doubt(data_root, cohort):
    _, table = read_genes(GenomicsTable(file=f"cohorts/{cohort}.csv.gz"), data_root)
    rng = np.random.default_rng(0)
    for size in rng.integers(6, 100, 60):
        rows = rng.choice(len(table.values_NC), size, replace=False)
        columns = rng.choice(len(table.columns), rng.integers(40, 900), replace=False)
        names = tuple(table.columns[i] for i in columns)
        assert list(find_gene_doubts("g.csv", GeneTable(names, table.values_NC[np.ix_(rows, columns)]))) == []


def test_batches_and_few_patients_raise_no_doubt():
    table = healthy(6, "z")
    table.values_NC[:20, :GENES] = table.values_NC[:20, :GENES] * 1.4 + 0.3
    assert list(find_mixed_scales("g.csv", table)) == []
    few = healthy(7, patients=5)
    few.values_NC[:2, :GENES] *= 1000
    assert list(find_mixed_scales("g.csv", few)) == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda part: np.where(part == 1, 1, np.nan), "hold no 0, only 1 and empty cells"),
        (lambda part: 1 - part, "of the cells in the 30 columns _mut"),
    ],
)
def test_mutations_without_a_zero_or_reversed_are_doubted(change, words):
    table = healthy(2)
    part(table, "mut")[:] = change(part(table, "mut"))
    assert [words in doubt.text for doubt in find_gene_doubts("g.csv", table) if doubt.check == "mutations"] == [True]


@pytest.mark.parametrize("code", ["-0.37", "-7", "-1"])
def test_a_negative_mutation_that_is_no_usual_code_is_not_shown(tmp_path, code):
    (tmp_path / "g.csv").write_text(f"case_id,TP53_mut,RB1_mut\np1,0,1\np2,{code},0\n")
    with pytest.raises(DataError, match="'TP53_mut' holds a negative number in row 2") as raised:
        read_genes(GenomicsTable(file="g.csv"), tmp_path)
    assert code not in str(raised.value).replace(str(tmp_path), "")
    declared = GenomicsTable(file="g.csv", not_measured=[float(code)])
    assert np.isnan(read_genes(declared, tmp_path)[1].values_NC[1, 0])
