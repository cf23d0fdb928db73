from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from memamba_core.config.site import GenomicsTable, SiteDataConfig
from memamba_core.data.genomics.names import KINDS
from memamba_core.data.genomics.table import find_gene_doubts, read_genes
from memamba_core.data.manifest import load_cohort
from memamba_core.errors import DataError


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


def test_bare_columns_may_be_allowed_and_absent(tmp_path):
    text = "case_id,TP53_mut,vital_status\np1,1,1\np2,0,0\n"
    assert read(tmp_path, text, bare_columns="mut")[1].columns == ("TP53_mut",)


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
        ("case_id,A_cnv,A_CNV\np,1,0\n", {}, ("'A_cnv' and 'A_CNV'", "both read as 'A_cnv'", "not_genes")),
        ("case_id,A_cna,B_cna\np,1,0\n", {}, ("2 columns of the table look molecular", "'A_cna'")),
        (
            "case_id,A_cnv\np1,1\np1,2\n",
            {},
            ("repeats a patient with other molecular values", "row 2", "only equal rows"),
        ),
        (
            "case_id,TP53,TTN,KRAS,MYC\np,2,0,1,0\nq,0,3,1,1\nr,0,0,0,1\n",
            {"bare_columns": "mut"},
            ("columns 'TP53', 'TTN' hold whole numbers beyond 1", "mut_counts", "not_genes"),
        ),
        (
            "case_id,TP53,MYC\n" + "p,1,0\n" + "".join(f"q{i},0,1\n" for i in range(8)) + "r,WT,1\n",
            {"bare_columns": "mut"},
            ("column 'TP53' holds words for mutations, or few values besides 0 and 1", "not_measured", "not_genes"),
        ),
        (
            "case_id,TP53,KRAS,MYC,RB1,HISTOLOGY\np,WT,p.G12D,1,True,SCC\nq,Mut,,0,FALSE,ADC\nr,,Q61_splice,0,true,ADC\n",
            {"bare_columns": "mut"},
            ("columns 'TP53', 'KRAS', 'RB1' hold words for mutations",),
        ),
        (
            "case_id,A_mut,B_mut,C_cnv,D_cnv\np,0,-9,1,1\nq,1,0,-999,0\nr,0.37,0,-999,2\n",
            {},
            ("column 'C_cnv' holds -999 in rows 2, 3", "not_measured to [-999, -9]", "to [] to take"),
        ),
        ("case_id,A_cnv\np,1\n", {"not_genes": ["B"]}, ("no column 'B'", "data.genomics.not_genes")),
    ],
)
def test_refusals_name_file_column_row_and_remedy(tmp_path, text, settings, words):
    with pytest.raises(DataError) as raised:
        read(tmp_path, text, **settings)
    for word in (str(tmp_path / "genes.csv"), *words):
        assert word in str(raised.value)
    assert "high" not in str(raised.value)


@pytest.mark.parametrize("form", ["TP53_MUT", "TP53.mut", "TP53-mut", " TP53 mut", "TP53 _mut", "TP53_Mut "])
def test_suffixes_are_read_in_other_spellings(tmp_path, form):
    assert read(tmp_path, f"case_id,{form},A_rnaseq\np1,1,0.5\n")[1].columns == ("TP53_mut", "A_rnaseq")


def test_counts_of_mutations_are_read_if_declared(tmp_path):
    text = "case_id,TP53,TTN,MYC,age,ECOG\np,2,0,,61,3\nq,0,3,1,60,0\nr,1,,0,62,1\n"
    _, genes = read(tmp_path, text, bare_columns="mut_counts")
    assert genes.columns == ("TP53_mut", "TTN_mut", "MYC_mut")
    np.testing.assert_array_equal(genes.values_NC, np.float32([[1, 0, np.nan], [0, 1, 1], [1, np.nan, 0]]))
    assert genes.ignored == ("age", "ECOG")


@pytest.mark.parametrize("name", ["OS_STATUS", "DFS_STATUS", "DEATH_EVENT", "vital.status", "PFI.event", "GRP x"])
@pytest.mark.parametrize("mode", ["mut", "mut_counts"])
def test_an_outcome_is_never_a_mutation(tmp_path, name, mode):
    write(tmp_path / "genes.csv", f"case_id,TP53,{name}\np,0,1\nq,1,0\n")
    config = GenomicsTable(file="genes.csv", bare_columns=mode)
    assert read_genes(config, tmp_path, clinical_columns=["grp_x"])[1].columns == ("TP53_mut",)


def test_columns_that_are_no_genes_are_not_read(tmp_path):
    text = "case_id,TP53,RESPONSE,x_mut\np,0,1,1\nq,1,0,1\n"
    assert read(tmp_path, text, bare_columns="mut", not_genes=["RESPONSE", "x_mut"])[1].columns == ("TP53_mut",)


@pytest.mark.parametrize("settings", [{"bare_columns": "mut"}, {}])
def test_declared_codes_are_read_as_empty(tmp_path, settings):
    suffix = "" if settings else "_mut"
    text = f"case_id,TP53{suffix},A_cnv,B_rnaseq\np,-9,2,0.5\nq,1,-999,-999\nr,0,0,1.5\n"
    _, genes = read(tmp_path, text, not_measured=[-9, -999], **settings)
    nan = np.nan
    np.testing.assert_array_equal(genes.values_NC, np.float32([[nan, 2, 0.5], [1, nan, nan], [0, 0, 1.5]]))


def test_all_numbers_are_measurements_if_the_site_says_so(tmp_path):
    _, genes = read(tmp_path, "case_id,A_cnv\np,-999\nq,1\n", not_measured=[])
    assert genes.values_NC[0, 0] == -999


def test_equal_rows_of_the_slides_of_a_patient_are_one(tmp_path):
    text = "case_id,slide_id,A_cnv,B_rnaseq\np,s1,1,0.5\nq,s2,0,\np,s3,1,0.5\nq,s4,0,\n"
    case_ids, genes = read(tmp_path, text)
    assert case_ids == ("p", "q")
    np.testing.assert_array_equal(genes.values_NC, np.float32([[1, 0.5], [0, np.nan]]))


def test_doubts_of_a_table_reach_the_cohort(tmp_path):
    write(tmp_path / "genes.csv", "case_id,1-Mar_rnaseq,A_rnaseq\np,0.1,0.5\nq,0.3,1.5\n")
    write(tmp_path / "clinical.csv", "case_id,survival_months,event\np,10,1\nq,20,0\n")
    data = {"root": tmp_path, "clinical": {"file": "clinical.csv"}, "genomics": {"file": "genes.csv"}}
    (doubt,) = load_cohort(SiteDataConfig.model_validate(data)).doubts
    assert "'1-Mar'" in doubt.text


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
    assert list(find_gene_doubts(config.file, genes)) == []


@pytest.mark.ci_slow
@pytest.mark.real_data
def test_real_profiles_of_other_patients_may_be_missing(data_root):
    config = GenomicsTable(file="cbioportal/cbioportal1066_mut.csv.gz", bare_columns="mut")
    case_ids, genes = read_genes(config, data_root)
    assert len(case_ids) == 3151
    assert genes.values_NC.shape[1] == 1066
    assert list(find_gene_doubts(config.file, genes)) == []
