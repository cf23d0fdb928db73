"""Mutations of a MAF, cell by cell."""

import gzip

import pytest

from client.exit_codes import ExitCode

CLINICAL = "case_id,survival_months,event\nTCGA-05-0001,1,1\nTCGA-05-0002,2,0\nTCGA-05-0003,3,0\n"
MAF = """#version gdc-1.0.0
Hugo_Symbol\tVariant_Classification\tTumor_Sample_Barcode
TP53\tMissense_Mutation\tTCGA-05-0001-01A-11D
KRAS\tSilent\tTCGA-05-0001-01A-11D
KRAS\tFrame_Shift_Del\tTCGA-05-0002-01A-11D
TTN\tIntron\tTCGA-05-0002-01A-11D
EGFR\tMissense_Mutation\tTCGA-05-0002-06A-11D
MYC\tFusion\tTCGA-05-0002-01A-11D
"""


@pytest.fixture
def files(tmp_path):
    maf, clinical = tmp_path / "luad.maf.gz", tmp_path / "clinical.csv"
    maf.write_bytes(gzip.compress(MAF.encode()))
    clinical.write_text(CLINICAL)
    return maf, clinical


def test_all_sequenced_samples_are_known(importer, files, tmp_path):
    (tmp_path / "sequenced.csv").write_text(
        "sample_id\nTCGA-05-0001-01\nTCGA-05-0002-01\nTCGA-05-0002-06\nTCGA-05-0003-01\n"
    )
    assert importer("maf", *files, "--samples", tmp_path / "sequenced.csv", "--min-patients", "1") == ExitCode.DONE
    assert importer.genes() == {
        "TCGA-05-0001": {"KRAS_mut": 0, "TP53_mut": 1},
        "TCGA-05-0002": {"KRAS_mut": 1, "TP53_mut": 0},
        "TCGA-05-0003": {"KRAS_mut": 0, "TP53_mut": 0},
    }
    assert "6 mutations, 3 of them non-silent" in importer.out
    assert "1 rows are of classes that are not known to change a protein and are left out: 'Fusion'" in importer.out
    assert "With `privacy`, give a public list instead: --genes FILE" in importer.out
    assert importer.patients()["TCGA-05-0003"] == (3, False, ())


def test_a_list_of_patients(importer, files, tmp_path):
    (tmp_path / "p.csv").write_text("patient\nTCGA-05-0001\nTCGA-05-0002\nTCGA-05-0003\n")
    assert importer("maf", *files, "--samples", tmp_path / "p.csv", "--min-patients", "1") == ExitCode.DONE
    assert importer.genes() == {
        "TCGA-05-0001": {"KRAS_mut": 0, "TP53_mut": 1},
        "TCGA-05-0002": {"KRAS_mut": 1, "TP53_mut": 0},
        "TCGA-05-0003": {"KRAS_mut": 0, "TP53_mut": 0},
    }


def test_patients_without_a_mutation_are_a_question(importer, files):
    assert importer("maf", *files, "--min-patients", "1") == ExitCode.DONE
    assert "TCGA-05-0003" not in importer.genes()
    assert "count as not measured, and not as 0" in importer.out


def test_a_public_list_of_genes_decides_the_columns(importer, files, tmp_path):
    (tmp_path / "genes.txt").write_text("TP53\nEGFR\nBRAF\n")
    assert importer("maf", *files, "--genes", tmp_path / "genes.txt") == ExitCode.DONE
    assert importer.genes()["TCGA-05-0001"] == {"TP53_mut": 1, "EGFR_mut": 0, "BRAF_mut": 0}
    assert importer.genes()["TCGA-05-0002"] == {
        "TP53_mut": 0,
        "EGFR_mut": 0,
        "BRAF_mut": 0,
    }  # its EGFR is of a metastasis
    assert "--genes" not in importer.out


def test_few_patients(importer, files):
    assert importer("maf", *files) == ExitCode.MISTAKE
    assert "no gene is mutated in 10 or more patients" in importer.err


def test_a_list_that_lacks_a_sample_is_refused(importer, files, tmp_path):
    (tmp_path / "sequenced.csv").write_text("sample_id\nTCGA-05-0001-01\n")
    assert importer("maf", *files, "--samples", tmp_path / "sequenced.csv") == ExitCode.MISTAKE
    assert "2 samples are not in the list of sequenced samples" in importer.err
    assert "TCGA-05" not in importer.err
