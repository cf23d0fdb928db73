"""`--decimal-mark` answers an ambiguous notation, in each format, in the draft or in the tables that are written."""

import pytest

from client.exit_codes import ExitCode
from memamba_core.data.clinical.table import DAYS_PER_MONTH

DAYS = {"point": (137, 1.903, 2.104), "comma": (137, 1903, 2104)}
MARKS = pytest.mark.parametrize("mark", ["point", "comma"])


def months(mark: str) -> list[float]:
    return [round(days / DAYS_PER_MONTH, 6) for days in DAYS[mark]]


def times_of(importer) -> list[float]:
    return [patient[0] for patient in importer.patients().values()]


def ambiguous(importer, format_name, *arguments) -> None:
    """Check that the sources are refused without the option, and that the error names it."""
    assert importer(format_name, *arguments) == ExitCode.MISTAKE
    assert "--decimal-mark" in importer.err
    assert not importer.output.exists()


@MARKS
def test_tables(importer, tmp_path, mark):
    (tmp_path / "klinik.csv").write_text("case_id,survival_days,event\nP1,137,1\nP2,1.903,0\nP3,2.104,0\n")
    (tmp_path / "gene.csv").write_text("case_id,TP53_rnaseq\nP1,1.234\nP2,0\nP3,12\n")
    sources = (tmp_path / "klinik.csv", tmp_path / "gene.csv")
    ambiguous(importer, "tables", *sources)
    assert importer("tables", *sources, "--decimal-mark", mark) == ExitCode.DONE
    assert (importer.data().clinical.decimal_mark, importer.data().genomics.decimal_mark) == (mark, mark)
    assert times_of(importer) == months(mark)
    assert importer.genes()["P1"]["TP53_rnaseq"] == {"point": 1.234, "comma": 1234}[mark]


@MARKS
def test_one_table_for_both(importer, tmp_path, mark):
    (tmp_path / "a.csv").write_text("case_id,survival_days,event,A_mut\nP1,137,1,1\nP2,1.903,0,0\nP3,2.104,0,0\n")
    assert importer("tables", tmp_path / "a.csv", "--decimal-mark", mark) == ExitCode.DONE
    assert times_of(importer) == months(mark)
    assert (importer.data().clinical.decimal_mark, importer.data().genomics.decimal_mark) == (mark, mark)


def test_no_mark_leaves_the_draft_without_one(importer, tmp_path):
    (tmp_path / "a.csv").write_text("case_id,survival_days,event,A_mut\nP1,137,1,1\nP2,1903,0,0\n")
    assert importer("tables", tmp_path / "a.csv") == ExitCode.DONE
    assert "decimal_mark" not in importer.draft()


@MARKS
def test_mutations_with_a_clinical_table(importer, tmp_path, mark):
    (tmp_path / "a.maf").write_text(
        "Hugo_Symbol\tVariant_Classification\tTumor_Sample_Barcode\nTP53\tMissense_Mutation\tP1\nTP53\tSilent\tP2\n"
    )
    (tmp_path / "klinik.csv").write_text("case_id,survival_days,event\nP1,137,1\nP2,1.903,0\nP3,2.104,0\n")
    sources = (tmp_path / "a.maf", tmp_path / "klinik.csv", "--min-patients", 1)
    ambiguous(importer, "maf", *sources)
    assert importer("maf", *sources, "--decimal-mark", mark) == ExitCode.DONE
    assert importer.data().clinical.decimal_mark == mark
    assert times_of(importer)[:2] == months(mark)[:2]


@MARKS
def test_cbioportal(importer, tmp_path, mark):
    (tmp_path / "data_clinical_patient.txt").write_text(
        "PATIENT_ID\tOS_DAYS\tOS_STATUS\nP1\t137\t1:DECEASED\nP2\t1.903\t0:LIVING\nP3\t2.104\t0:LIVING\n"
    )
    (tmp_path / "data_mrna.txt").write_text("Hugo_Symbol\tP1\tP2\tP3\nTP53\t1.234\t0\t12\n")
    sources = (tmp_path, "--column", "time=OS_DAYS")
    ambiguous(importer, "cbioportal", *sources)
    assert importer("cbioportal", *sources, "--decimal-mark", mark) == ExitCode.DONE
    assert times_of(importer) == months(mark)
    assert importer.genes()["P1"]["TP53_rnaseq"] == {"point": 1.234, "comma": 1234}[mark]
    assert importer.data().clinical.decimal_mark == "point", "the mark of the table that was written"


@MARKS
def test_xena(importer, tmp_path, mark):
    (tmp_path / "survival.txt").write_text("sample\tOS\tOS.time\nP1\t1\t137\nP2\t0\t1.903\nP3\t0\t2.104\n")
    (tmp_path / "HiSeqV2").write_text("sample\tP1\tP2\tP3\nTP53\t1.234\t0\t12\n")
    sources = (tmp_path / "survival.txt", tmp_path / "HiSeqV2")
    ambiguous(importer, "xena", *sources)
    assert importer("xena", *sources, "--decimal-mark", mark) == ExitCode.DONE
    assert times_of(importer) == months(mark)
    assert importer.genes()["P1"]["TP53_rnaseq"] == {"point": 1.234, "comma": 1234}[mark]


@MARKS
def test_gdc(importer, tmp_path, mark):
    cases = [f"TCGA-05-000{i}" for i in (1, 2, 3)]
    (tmp_path / "clinical.tsv").write_text(
        "case_submitter_id\tdays_to_death\tvital_status\tdays_to_last_follow_up\n"
        f"{cases[0]}\t137\tDead\t'--\n{cases[1]}\t'--\tAlive\t1.903\n{cases[2]}\t'--\tAlive\t2.104\n"
    )
    names = "\t".join(f"{case}-01A" for case in cases)
    (tmp_path / "tpm.tsv").write_text(f"gene_name\t{names}\nTP53\t1.234\t0\t12\n")
    ambiguous(importer, "gdc", tmp_path)
    assert importer("gdc", tmp_path, "--decimal-mark", mark) == ExitCode.DONE
    assert times_of(importer) == months(mark)
    assert importer.genes()[cases[0]]["TP53_rnaseq"] == {"point": 1.234, "comma": 1234}[mark]
