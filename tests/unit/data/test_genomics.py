import gzip
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memamba_core.config.site import GenomicsTable
from memamba_core.data.genomics import KINDS, build_gene_groups, read_genes, read_signatures
from memamba_core.errors import ConfigError, DataError


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def read(folder: Path, text: str, **settings):
    write(folder / "genes.csv", text)
    return read_genes(GenomicsTable(file="genes.csv", **settings), folder)


def test_molecular_columns_are_read_unscaled_and_the_rest_is_ignored(tmp_path):
    case_ids, genes = read(
        tmp_path, "case_id,age,TP53_mut,ERBB2_cnv,NOTE,A_rnaseq\np1,60,1,-2,text,14071.5\np2,,0,,x, 0.25 \n"
    )
    assert case_ids == ("p1", "p2")
    assert genes.columns == ("TP53_mut", "ERBB2_cnv", "A_rnaseq")
    assert genes.values_NC.dtype == np.float32
    np.testing.assert_array_equal(genes.values_NC, np.array([[1, -2, 14071.5], [0, np.nan, 0.25]], np.float32))


def test_parquet_and_gzip_hold_the_same_as_csv(tmp_path):
    frame = pd.DataFrame(
        {"case_id": ["p1", "p2"], "A_cnv": [1, None], "B_rnaseq": [0.5, -3.25], "C_mut": [True, False]}
    )
    frame.to_parquet(tmp_path / "g.parquet", index=False)
    frame.astype({"C_mut": int}).to_csv(tmp_path / "g.csv.gz", index=False)
    a, b = (read_genes(GenomicsTable(file=f"g.{kind}"), tmp_path) for kind in ("parquet", "csv.gz"))
    assert a[0] == b[0]
    assert a[1].columns == b[1].columns
    np.testing.assert_array_equal(a[1].values_NC, b[1].values_NC)


@pytest.mark.parametrize("kind", ["lists", "bytes"])
def test_columns_of_another_kind_are_ignored_or_refused_by_name(tmp_path, kind):
    cells = {"lists": [["a"], ["b"]], "bytes": [b"\xff", b"\xfe"]}[kind]
    frame = pd.DataFrame({"case_id": ["p1", "p2"], "TP53": [0, 1], "other": cells})
    frame.to_parquet(tmp_path / "g.parquet", index=False)
    table = GenomicsTable(file="g.parquet", bare_columns="mut")
    assert read_genes(table, tmp_path)[1].columns == ("TP53_mut",)
    with pytest.raises(DataError, match=r"column 'other' is of type .*; expected text"):
        read_genes(table.model_copy(update={"case_id": "other"}), tmp_path)
    frame.rename(columns={"other": "A_cnv"}).to_parquet(tmp_path / "g.parquet", index=False)
    with pytest.raises(DataError, match=r"column 'A_cnv' is of type .*, not of numbers, in rows 1, 2"):
        read_genes(table, tmp_path)


def test_bare_mutation_columns_are_renamed_and_clinical_ones_never(tmp_path):
    text = "case_id,Event,is_female,grp,age,TP53,KRAS,A_cnv,note\np1,1,0,1,60,1,,2,x\np2,0,1,0,61,0,0,1,y\n"
    write(tmp_path / "genes.csv", text)
    config = GenomicsTable(file="genes.csv", bare_columns="mut")
    _, genes = read_genes(config, tmp_path, clinical_columns=["GRP"])
    assert genes.columns == ("TP53_mut", "KRAS_mut", "A_cnv")  # age and note are not 0/1
    assert read(tmp_path, text)[1].columns == ("A_cnv",)


@pytest.mark.parametrize(
    ("text", "settings", "words"),
    [
        ("case_id,A_cnv\np1,1\np2,high\n", {}, ("'A_cnv'", "row 2", "decimal point")),
        ("case_id,A_cnv\np1,inf\n", {}, ("'A_cnv'", "row 1", "infinite", "empty")),
        ("case_id,A_cnv\np1,1e50\n", {}, ("'A_cnv'", "row 1", "float32")),
        ("case_id,A_cnv\np1, 1e50\n", {}, ("'A_cnv'", "row 1", "float32")),
        (
            "case_id,A_cnv\np1,1\np1,2\n",
            {},
            ("'case_id'", "repeats a patient", "row 2", "one row per patient"),
        ),
        ("case_id,A_cnv\n,1\n", {}, ("'case_id'", "is empty", "row 1", "identifier")),
        ("Case_ID,A_cnv\np,1\n", {}, ("'case_id'", "'Case_ID'", "data.genomics.case_id")),
        ("case_id,A,B\np,1,0\n", {}, ("SYMBOL_rnaseq", "data.genomics.bare_columns")),
        ("case_id,A,A_mut\np,1,0\n", {"bare_columns": "mut"}, ("'A'", "'A_mut'", "Keep one")),
        ("case_id,A_cnv,A_cnv\np,1,0\n", {}, ("'A_cnv'", "2 times", "Keep one")),
    ],
)
def test_refusals_name_file_column_row_and_remedy(tmp_path, text, settings, words):
    with pytest.raises(DataError) as raised:
        read(tmp_path, text, **settings)
    for word in (str(tmp_path / "genes.csv"), *words):
        assert word in str(raised.value)
    assert "high" not in str(raised.value)


def test_signatures_may_be_ragged_and_share_symbols(tmp_path):
    path = write(tmp_path / "s.csv", "Kinases, Onco \nAKT1,MYC\nEGFR,EGFR\nEGFR,\n,KRAS\n")
    assert read_signatures(path) == {"Kinases": ("AKT1", "EGFR"), "Onco": ("MYC", "EGFR", "KRAS")}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ("is empty", "one column")),
        ("A,\nX,Y\n", ("column 2", "no name")),
        ("A,B\nX,\n", ("group 'B'", "no gene symbol")),
        ("A,A\nX,Y\n", ("'A'", "own name")),
    ],
)
def test_signatures_refusals(tmp_path, text, words):
    path = write(tmp_path / "s.csv", text)
    with pytest.raises(DataError) as raised:
        read_signatures(path)
    for word in (str(path), *words):
        assert word in str(raised.value)


def test_signatures_that_are_absent_or_no_text(tmp_path):
    with pytest.raises(DataError, match=r"none\.csv: no such file; expected a CSV with one column"):
        read_signatures(tmp_path / "none.csv")
    (tmp_path / "z.csv").write_bytes(gzip.compress(b"A\nX\n"))
    with pytest.raises(DataError, match=r"z\.csv: cannot be read as CSV.*Export it again"):
        read_signatures(tmp_path / "z.csv")


def test_a_group_catches_every_kind_of_its_symbols():
    columns = ("A_rnaseq", "B_mut", "A_mut", "C_cnv", "A_cnv", "HLA_DRA_cnv")
    groups = build_gene_groups(columns, {"x": ("A",), "none": ("Q",), "y": ("HLA_DRA", "A", "B")}, "signatures")
    assert groups == {"x": (0, 2, 4), "y": (0, 1, 2, 4, 5)}
    assert list(groups) == ["x", "y"]
    assert build_gene_groups(columns, None, "kind") == {"rnaseq": (0,), "cnv": (3, 4, 5), "mut": (1, 2)}


SYMBOLS = st.text("ABC", min_size=1, max_size=2)


@given(
    columns=st.lists(st.tuples(SYMBOLS, st.sampled_from(KINDS)), min_size=1, unique=True),
    signatures=st.dictionaries(st.text("xyz", min_size=1), st.lists(SYMBOLS, min_size=1), min_size=1),
)
def test_groups_hold_a_column_exactly_if_they_hold_its_symbol(columns, signatures):
    names = [f"{symbol}_{kind}" for symbol, kind in columns]
    try:
        groups = build_gene_groups(names, signatures, "signatures")
    except DataError:
        groups = {}
    for name, symbols in signatures.items():
        slow = tuple(i for i, (symbol, _) in enumerate(columns) if symbol in symbols)
        assert groups.get(name, ()) == slow
    assert sorted(i for g in build_gene_groups(names, None, "kind").values() for i in g) == list(range(len(names)))


def test_groups_refuse_what_they_cannot_use():
    with pytest.raises(ConfigError, match=r"data\.signatures, or set agreement.gene_groups=kind"):
        build_gene_groups(("A_cnv",), None, "signatures")
    with pytest.raises(DataError, match=r"none of the 1 gene groups .* any of the 1 .* agreement\.gene_groups=kind"):
        build_gene_groups(("A_cnv",), {"x": ("B",)}, "signatures")
    with pytest.raises(DataError, match="column 'age' is not molecular; expected SYMBOL_rnaseq"):
        build_gene_groups(("age",), None, "kind")


COUNTS = {  # DATA.md: rows, _rnaseq, _cnv, _mut, bare
    "tcga_blca_mcat": (373, 2814, 248, 0, 0),
    "tcga_luad_mcat": (453, 2812, 284, 0, 0),
    "tcga_ucec_mcat": (480, 0, 123, 0, 0),
    "tcga_ucec_mcatfull": (480, 0, 935, 0, 8137),
    "tcga_ucec_porpoise": (480, 0, 5, 1406, 0),
    "tcga_brca_porpoise": (956, 1558, 1333, 21, 0),
    "tcga_gbmlgg_porpoise": (569, 1544, 30, 16, 0),
    "tcga_blca_porpoise_cnvmut": (373, 0, 256, 371, 0),
    "tcga_luad_porpoise_cnvmut": (453, 0, 517, 864, 0),
}


WITH_ALL_KINDS = "tcga_gbmlgg_porpoise"


@pytest.mark.real_data
@pytest.mark.parametrize(
    "cohort", [c if c == WITH_ALL_KINDS else pytest.param(c, marks=pytest.mark.ci_slow) for c in COUNTS]
)
def test_real_tables_have_the_columns_that_data_md_counts(data_root, cohort):
    rows, *kinds, bare = COUNTS[cohort]
    config = GenomicsTable(file=f"cohorts/{cohort}.csv.gz", bare_columns="mut" if bare else "ignore")
    _, genes = read_genes(config, data_root)
    assert genes.values_NC.shape == (rows, sum(kinds) + bare)
    kinds[2] += bare
    assert [sum(c.endswith(f"_{kind}") for c in genes.columns) for kind in KINDS] == kinds
    assert not np.isnan(genes.values_NC).any()


@pytest.mark.ci_slow
@pytest.mark.real_data
def test_real_signatures_keep_the_mutations(data_root):
    signatures = read_signatures(data_root / "reference" / "signatures.csv")
    assert [len(symbols) for symbols in signatures.values()] == [82, 328, 513, 443, 1536, 452]
    config = GenomicsTable(file="cohorts/tcga_ucec_mcatfull.csv.gz", bare_columns="mut")
    _, genes = read_genes(config, data_root)
    groups = build_gene_groups(genes.columns, signatures, "signatures")
    assert list(groups) == list(signatures)
    assert len({i for indices in groups.values() for i in indices}) == 1589  # 123 without mutations


@pytest.mark.ci_slow
@pytest.mark.real_data
def test_real_profiles_of_other_patients_may_be_missing(data_root):
    config = GenomicsTable(file="cbioportal/cbioportal1066_mut.csv.gz", bare_columns="mut")
    case_ids, genes = read_genes(config, data_root)
    assert len(case_ids) == 3151
    assert genes.values_NC.shape[1] == 1066
