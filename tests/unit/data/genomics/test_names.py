import pytest
from hypothesis import given
from hypothesis import strategies as st

from memamba_core.data.genomics.name_doubts import find_name_doubts
from memamba_core.data.genomics.names import (
    KINDS,
    is_clinical,
    looks_like_gene,
    molecular_name,
)


@pytest.mark.parametrize(
    ("column", "name"),
    [
        ("TP53_CNV", "TP53_cnv"),
        ("TP53_Mut", "TP53_mut"),
        ("TP53_RNASEQ", "TP53_rnaseq"),
        ("TP53.rnaseq", "TP53_rnaseq"),
        ("TP53-rnaseq", "TP53_rnaseq"),
        ("TP53 mut", "TP53_mut"),
        (" TP53_mut ", "TP53_mut"),
        ("TP53 _cnv", "TP53_cnv"),
        ("TP53_RNA-Seq", "TP53_rnaseq"),
        ("TP53\u00a0mut", "TP53_mut"),
        ("NKX2-1-CNV", "NKX2-1_cnv"),
        ("HLA_DRA_cnv", "HLA_DRA_cnv"),
        ("RP11-707M1.1_mut", "RP11-707M1.1_mut"),
        ("TP53_mut.1", None),
        ("TP53_mutation", None),
        ("cnv", None),
        ("_mut", None),
        ("age", None),
    ],
)
def test_a_suffix_is_read_in_any_case_and_with_any_separator(column, name):
    assert molecular_name(column) == name


@given(symbol=st.text("ABC19-._x", min_size=1, max_size=8), kind=st.sampled_from(KINDS))
def test_names_as_documented_are_read_as_they_are(symbol, kind):
    assert molecular_name(f"{symbol}_{kind}") == f"{symbol}_{kind}"


OUTCOMES = (
    "OS_STATUS", "DFS_STATUS", "DEATH_EVENT", "vital.status", "PFI", "days_to_death", "Overall Survival Status",
    "os.event", "Event_OS", "is_dead", "DSS_cr", "EFS_STATUS", "died_5y", "CENSORED", "RFS.event", "Relapse", "alive",
    "event_flag", "verstorben", "time to progression", "Progression-Free", "LAST_FOLLOWUP", "METASTASIS", "exitus",
    "PFI.1", "PFI.time.2", "DFI.cr", "DSS.1.cr",
)  # fmt: skip
CLINICAL = (
    "Rezidiv",
    "RECIDIVE",
    "Exitus_letalis",
    "Fernmetastasen",
    "Raucher",
    "CHEMO",
    "Age",
    "SEX",
    "Case ID",
    "slide-ids",
    "ECOG",
    "is_female",
    "Fold",
    "TSS",
    "Race",
    "STAGE",
)
GENES = (
    "TP53",
    "NKX2-1",
    "HLA-DRB1",
    "EFS",
    "OS9",
    "BCR",
    "MET",
    "T",
    "PDCD1",
    "PDCD1LG2",
    "DCDC2",
    "TIMELESS",
    "AGER",
    "STAG2",
    "CENPA",
)


@pytest.mark.parametrize("name", OUTCOMES + CLINICAL)
def test_an_outcome_and_a_clinical_column_are_never_genes(name):
    assert is_clinical(name)
    assert not looks_like_gene(name)


@pytest.mark.parametrize("name", GENES)
def test_genes_are_not_clinical(name):
    assert not is_clinical(name)


def test_columns_named_by_site_yaml_are_clinical_in_any_spelling():
    assert is_clinical("Time.Last-Seen", ["time_last_seen"])


READ = [f"GENE{i}_rnaseq" for i in range(30)]


@pytest.mark.parametrize(
    ("read", "ignored", "check", "words"),
    [
        (READ, [f"G{i}_cna" for i in range(30)], "molecular columns", ("30 columns", "look molecular", "'G0_cna'")),
        (READ, ["A_mutation", "B_expr"], "molecular columns", ("2 columns", "'A_mutation', 'B_expr'")),
        (READ, ["A-TPM", "B.fpkm", "age"], "molecular columns", ("2 columns", "'A-TPM', 'B.fpkm'")),
        (READ, ["mut_A", "mut_B", "CNV.C"], "molecular columns", ("3 columns", "'mut_A'")),
        (READ, [f"TP{i}" for i in range(20)], "molecular columns", ("20 columns", "without a suffix", "bare_columns")),
        (READ, [f"ENSG000001415{i}" for i in range(10, 40)], "molecular columns", ("30 columns", "without a suffix")),
        (
            READ,
            ["GENE1_rnaseq.1"],
            "molecular columns",
            ("1 column of genes.csv is named", "copies of another column", "'GENE1_rnaseq.1'"),
        ),
        ([*READ, "GENE9.9_rnaseq"], [], "molecular columns", ("copies", "'GENE9.9_rnaseq'")),
        (
            ["1-Mar_rnaseq", *READ],
            [],
            "gene symbols",
            ("1 column of genes.csv is named", "like dates", "'1-Mar'", "MARCH1", "SEPTIN2"),
        ),
        (["44256_rnaseq", "2023-09-01 00:00:00_mut", *READ], [], "gene symbols", ("2 columns", "like dates")),
        (["Mar-01_cnv", "2-Sep_cnv", "2021-03-01_cnv", "01. Mrz_cnv", *READ], [], "gene symbols", ("4 columns",)),
        (["1. Okt_mut", "Dez 01_mut", "2-sept_mut", "3/1/2023_mut", "01.03._mut", *READ], [], "gene symbols", ("5 c",)),
        (READ, ["1-Dec"], "gene symbols", ("1 column of genes.csv is named", "'1-Dec'")),
        (["ENSG00000141510.17_rnaseq"], [], "gene symbols", ("1 columns", "with a version")),
        (["HLA.A_rnaseq", *READ], [], "gene symbols", ("1 gene symbols", "dot between", "'HLA.A'")),
        ([c.lower() for c in READ], [], "gene symbols", ("30 of 30", "lower case")),
        (["tp53_mut", "TP53_mut"], [], "gene symbols", ("2 gene symbols", "differ only in case")),
        (READ, [f"TP{i}_zscore" for i in range(10)], "molecular columns", ("10 columns", "look molecular")),
        (READ, [f"GENE{i} (TPM)" for i in range(10)], "molecular columns", ("10 columns", "look molecular")),
        (READ, [f"RNA:TP{i}" for i in range(10)], "molecular columns", ("10 columns", "look molecular")),
        (READ, [f"TP{i}\u2013rnaseq" for i in range(10)], "molecular columns", ("10 columns", "look molecular")),
        (READ, [f"TP{i}_rnaseq_x" for i in range(10)], "molecular columns", ("10 columns", "look molecular")),
        (["2.31E+13_rnaseq", "nan_mut", *READ], [], "gene symbols", ("2 gene symbols", "rounded", "'2.31E+13'")),
        (["Rezidiv_mut", "Diabetes_mellitus_mut", *READ], [], "gene symbols", ("2 symbols", "words", "not_genes")),
        (["HLA-A_mut", "HLA_A_cnv"], [], "gene symbols", ("2 gene symbols", "separators")),
    ],
)
def test_names_that_are_nearly_molecular_are_counted(read, ignored, check, words):
    (doubt,) = find_name_doubts("genes.csv", read, ignored)
    assert doubt.check == check
    for word in ("genes.csv", *words):
        assert word in str(doubt)


@pytest.mark.parametrize(
    ("read", "ignored"),
    [
        (READ, ["case_id", "age", "survival_months", "mut_count", "cnv_burden", "Y_RNA", "AGE", "OS_MONTHS"]),
        (["RP11-707M1.1_mut", "AC000123.4_mut", "C1orf112_mut", "Y_RNA_mut", "CXorf22_mut", "T_mut"], ()),
        ([f"{i}_rnaseq" for i in range(40_000, 40_030)], ()),  # Entrez numbers
        (["MARCH1_mut", "SEPT2_mut", "DEC1_mut", "MAY1_mut", "NOV_mut", "HLA-A_mut", "HLA-B_mut"], ()),
        (READ, [f"TP{i}" for i in range(10)]),
        (READ, [f"TP{i}_zscore" for i in range(9)]),
        (READ, [f"HLA-DR{i}" for i in range(12)]),
        ([f"Trp{i}_Abcdefgh_mut" for i in range(30)], ()),
        (["aatf_rnaseq", "notch1_rnaseq", *READ], ()),
    ],
)
def test_usual_names_raise_no_doubt(read, ignored):
    assert list(find_name_doubts("genes.csv", read, ignored)) == []
