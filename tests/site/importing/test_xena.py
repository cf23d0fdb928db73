"""Files of UCSC Xena, cell by cell."""

import pytest

from client.exit_codes import ExitCode
from memamba_core.data.clinical.table import DAYS_PER_MONTH

SURVIVAL = """sample\t_PATIENT\tOS\tOS.time\tPFI\tPFI.time
TCGA-05-0001-01\tTCGA-05-0001\t1\t365.25\t1\t100
TCGA-05-0001-11\tTCGA-05-0001\t1\t365.25\t1\t100
TCGA-05-0002-01\tTCGA-05-0002\t0\t30.4375\t0\t30
TCGA-05-0003-01\tTCGA-05-0003\t0\t\t0\t7
"""
MATRIX = """sample\tTCGA-05-0001-01\tTCGA-05-0001-11\tTCGA-05-0002-01\tTCGA-05-0002-02\tTCGA-05-0009-01
TP53\t10.5\t1\t0\t2\t3
?|100133144\t1\t1\t1\t1\t1
MYC|4609\t7.25\t1\t\t2\t3
"""


@pytest.fixture
def files(tmp_path):
    survival, matrix = tmp_path / "survival%2FLUAD_survival.txt", tmp_path / "TCGA.LUAD.sampleMap_HiSeqV2"
    survival.write_text(SURVIVAL)
    matrix.write_text(MATRIX)
    return survival, matrix


def test_survival_and_expression(importer, files):
    assert importer("xena", *files) == ExitCode.DONE
    assert importer.patients() == {"TCGA-05-0001": (12, True, ()), "TCGA-05-0002": (1, False, ())}
    assert importer.genes() == {
        "TCGA-05-0001": {"TP53_rnaseq": 10.5, "MYC_rnaseq": 7.25},
        "TCGA-05-0002": {"TP53_rnaseq": 0, "MYC_rnaseq": None},
    }
    assert "HiSeqV2: 5 samples, one read of each of 3 patients" in importer.out
    assert "left out 1 recurrent tumour (02), 1 normal tissue (11)" in importer.out
    assert "looks like logarithms" in importer.out
    assert "--transform" not in importer.draft()


def test_another_endpoint(importer, files):
    columns = ("--column", "time=PFI.time", "--column", "event=PFI")
    assert importer("xena", *files, *columns) == ExitCode.DONE
    assert importer.patients()["TCGA-05-0001"][0] == round(100 / DAYS_PER_MONTH, 6)


def test_samples_of_a_patient_with_two_follow_ups_are_refused(importer, files):
    files[0].write_text(SURVIVAL.replace("11\tTCGA-05-0001\t1", "11\tTCGA-05-0001\t0"))
    assert importer("xena", *files) == ExitCode.MISTAKE
    assert "contradicts an earlier row of the same patient in row 2" in importer.err


def test_sums_of_logarithms_are_refused(importer, files):
    files[1].write_text(MATRIX + "TP53\t1\t1\t1\t1\t1\n")
    assert importer("xena", *files, "--duplicates", "sum") == ExitCode.MISTAKE
    assert "sums of logarithms" in importer.err
    assert importer("xena", *files, "--duplicates", "max") == ExitCode.DONE
    assert importer.genes()["TCGA-05-0001"]["TP53_rnaseq"] == 10.5
    assert importer.genes()["TCGA-05-0002"]["TP53_rnaseq"] == 1


def test_a_logarithm_of_negative_values_is_refused(importer, files):
    files[1].write_text(MATRIX.replace("10.5", "-1.5"))
    assert importer("xena", *files, "--transform", "log2p1") == ExitCode.MISTAKE
    assert "has negative values, which have no logarithm" in importer.err
