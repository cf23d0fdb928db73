"""Files of the Genomic Data Commons, cell by cell."""

import numpy as np
import pytest

from client.exit_codes import ExitCode

CLINICAL = """case_id\tcase_submitter_id\tdays_to_death\tvital_status\tdays_to_last_follow_up\ttreatment_type
u1\tTCGA-05-0001\t365.25\tDead\t'--\tPharmaceutical
u1\tTCGA-05-0001\t365.25\tDead\t'--\tRadiation
u2\tTCGA-05-0002\t'--\tAlive\t30.4375\tPharmaceutical
u2\tTCGA-05-0002\t'--\tAlive\t60.875\tRadiation
u3\tTCGA-05-0003\t'--\tNot Reported\t12\tRadiation
u4\tTCGA-05-0004\t'--\tDead\t12\tRadiation
u5\tTCGA-05-0005\t'--\tAlive\t-3\tRadiation
"""
COUNTS = """# gene-model: GENCODE v36
gene_id\tgene_name\tgene_type\tunstranded\ttpm_unstranded
N_unmapped\t\t\t100\t
ENSG00000141510.18\tTP53\tprotein_coding\t10\t{tp53}
ENSG00000136997.21\tMYC\tprotein_coding\t20\t{myc}
"""
SHEET = "File ID\tFile Name\tData Category\tProject ID\tCase ID\tSample ID\tSample Type\n"
MATRIX = """gene_id\tTCGA-05-0001-01A-11R\tTCGA-05-0001-11A-11R\tTCGA-05-0002-01A-31R\tTCGA-05-0002-01B-11R
ENSG00000141510.18\t1023\t1\t3\t5
ENSG00000136997.21\t7\t1\t0\t5
ENSG00000000001.1\t1\t1\t1\t1
"""


@pytest.fixture
def download(tmp_path):
    folder = tmp_path / "gdc"
    folder.mkdir()
    (folder / "clinical.tsv").write_text(CLINICAL)
    sheet = SHEET
    samples = (("01A", "Primary Tumor", 1), ("11A", "Solid Tissue Normal", 1), ("01A", "Primary Tumor", 2))
    for place, (vial, kind, patient) in enumerate(samples):
        name = f"f{place}.rna_seq.augmented_star_gene_counts.tsv"
        (folder / f"uuid{place}").mkdir()
        (folder / f"uuid{place}" / name).write_text(COUNTS.format(tp53=1023 if place == 0 else 3, myc=7))
        sheet += (
            f"i{place}\t{name}\tTranscriptome\tTCGA-LUAD\tTCGA-05-000{patient}\tTCGA-05-000{patient}-{vial}\t{kind}\n"
        )
    (folder / "gdc_sample_sheet.tsv").write_text(sheet)
    return folder


def test_counts_of_single_samples(importer, download):
    assert importer("gdc", download, "--transform", "log2p1") == ExitCode.DONE
    assert importer.patients() == {"TCGA-05-0001": (12, True, ()), "TCGA-05-0002": (2, False, ())}
    assert importer.genes() == {
        "TCGA-05-0001": {"TP53_rnaseq": 10, "MYC_rnaseq": 3},
        "TCGA-05-0002": {"TP53_rnaseq": 2, "MYC_rnaseq": 3},
    }
    assert "7 rows of 5 cases; 1 are dead without a day of death" in importer.out
    assert "3 of 5 patients are left out, without a time of 0 or more (1 negative)" in importer.out
    assert "left out 1 normal tissue (11)" in importer.out


def test_linear_values_are_a_question(importer, download):
    assert importer("gdc", download) == ExitCode.DONE
    assert importer.genes()["TCGA-05-0001"]["TP53_rnaseq"] == 1023
    assert "QUESTION (data.genomics.file): STAR counts looks like" in importer.out


def test_a_file_that_is_not_in_the_sheet_is_refused(importer, download):
    sheet = download / "gdc_sample_sheet.tsv"
    sheet.write_text("".join(sheet.read_text().splitlines(keepends=True)[:-1]))
    assert importer("gdc", download) == ExitCode.MISTAKE
    assert "lacks 1 of 3 files of counts" in importer.err


def test_a_merged_matrix_with_a_map(importer, tmp_path):
    clinical, matrix, genes = tmp_path / "clinical.tsv", tmp_path / "tpm.tsv", tmp_path / "genes.tsv"
    clinical.write_text(CLINICAL)
    matrix.write_text(MATRIX)
    assert importer("gdc", clinical, matrix) == ExitCode.MISTAKE
    assert "names 3 genes by ENSEMBL ids" in importer.err
    genes.write_text("id\tsymbol\nENSG00000141510.5\tTP53\nENSG00000136997\tMYC\n")
    assert importer("gdc", clinical, matrix, "--gene-map", genes, "--transform", "none") == ExitCode.DONE
    assert importer.genes() == {
        "TCGA-05-0001": {"TP53_rnaseq": 1023, "MYC_rnaseq": 7},
        "TCGA-05-0002": {"TP53_rnaseq": 3, "MYC_rnaseq": 0},
    }
    assert "1 of 3 rows have no gene symbol" in importer.out
    assert "1 patients have several that could be read" in importer.out


def test_two_ids_of_a_symbol_are_summed_when_asked(importer, tmp_path):
    clinical, matrix, genes = tmp_path / "clinical.tsv", tmp_path / "tpm.tsv", tmp_path / "genes.tsv"
    clinical.write_text(CLINICAL)
    matrix.write_text(MATRIX)
    genes.write_text("gene_id\tgene_name\nENSG00000141510\tTP53\nENSG00000136997\tTP53\n")
    arguments = (clinical, matrix, "--gene-map", genes, "--transform", "log2p1")
    assert importer("gdc", *arguments) == ExitCode.MISTAKE
    assert "1 genes stand in several rows (first 'TP53')" in importer.err
    assert importer("gdc", *arguments, "--duplicates", "sum") == ExitCode.DONE
    assert importer.genes()["TCGA-05-0001"]["TP53_rnaseq"] == round(float(np.log2(1031)), 5)


def test_a_newer_export(importer, tmp_path):
    """Columns carry the name of their part, and the identifier of the case is a UUID."""
    head = "project.project_id\tdiagnoses.submitter_id\tcases.case_id\tcases.submitter_id\tdemographic.days_to_death"
    head += "\tdemographic.vital_status\tdiagnoses.days_to_last_follow_up\n"
    (tmp_path / "clinical.tsv").write_text(
        head + "T\td1\tu1\tTCGA-05-0001\t365.25\tDead\t'--\nT\td2\tu2\tTCGA-05-0002\t'--\tAlive\t60.875\n"
    )
    (tmp_path / "tpm.tsv").write_text("gene_name\tTCGA-05-0001-01A\tTCGA-05-0002-01A\nTP53\t1\t2\n")
    assert importer("gdc", tmp_path / "clinical.tsv", tmp_path / "tpm.tsv") == ExitCode.DONE
    assert importer.patients() == {"TCGA-05-0001": (12, True, ()), "TCGA-05-0002": (2, False, ())}


@pytest.mark.parametrize(
    ("old", "new", "word"),
    [
        (
            "365.25\tDead\t'--\tRadiation",
            "366\tDead\t'--\tRadiation",
            "'days_to_death' differs between the rows of 1 cases",
        ),
        ("Alive\t60.875", "Dead\t60.875", "'vital_status' differs between the rows of 1 cases"),
        ("Alive\t60.875", "Lebt\t60.875", "is neither Alive nor Dead in row 4"),
        ("Alive\t60.875", "Alive\tlong", "is no number in row 4"),
    ],
)
def test_contradictions_are_refused(importer, download, old, new, word):
    (download / "clinical.tsv").write_text(CLINICAL.replace(old, new))
    assert importer("gdc", download) == ExitCode.MISTAKE
    assert word in importer.err
    assert "TCGA-05" not in importer.err
