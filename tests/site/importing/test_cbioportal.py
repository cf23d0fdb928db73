"""A study of cBioPortal, cell by cell."""

import pytest

from client.exit_codes import ExitCode

PATIENTS = """#Patient Identifier\tOverall Survival (Months)\tStatus\tDisease free\tStatus
#Identifier\tMonths\tStatus\tMonths\tStatus
#STRING\tNUMBER\tSTRING\tNUMBER\tSTRING
#1\t1\t1\t1\t1
PATIENT_ID\tOS_MONTHS\tOS_STATUS\tDFS_MONTHS\tDFS_STATUS
TCGA-05-0001\t10.5\t1:DECEASED\t8\t1:Recurred/Progressed
TCGA-05-0002\t20\t0:LIVING\t20\t0:DiseaseFree
TCGA-05-0003\t3\tLIVING\t[Not Available]\t[Not Available]
TCGA-05-0004\t\t\t4\t0:DiseaseFree
"""
MRNA = """Hugo_Symbol\tEntrez_Gene_Id\tTCGA-05-0001-01\tTCGA-05-0002-01\tTCGA-05-0002-06\tTCGA-05-0003-11
TP53\t7157\t1023\t3\t999\t999
MYC\t4609\t0.5\tNA\t999\t999
\t100134869\t1\t1\t1\t1
"""
CNA = """Hugo_Symbol\tEntrez_Gene_Id\tTCGA-05-0001-01\tTCGA-05-0003-01
TP53\t7157\t-2\t1
"""
MAF = """#version 2.4
Hugo_Symbol\tEntrez_Gene_Id\tVariant_Classification\tTumor_Sample_Barcode
TP53\t7157\tMissense_Mutation\tTCGA-05-0001-01
TP53\t7157\tNonsense_Mutation\tTCGA-05-0001-01
KRAS\t3845\tSilent\tTCGA-05-0001-01
KRAS\t3845\tMissense_Mutation\tTCGA-05-0002-01
"""


@pytest.fixture
def study(tmp_path):
    folder = tmp_path / "luad_tcga"
    (folder / "case_lists").mkdir(parents=True)
    for name, text in {
        "data_clinical_patient.txt": PATIENTS,
        "data_mrna_seq_v2_rsem.txt": MRNA,
        "data_mrna_seq_v2_rsem_zscores_ref_all_samples.txt": MRNA,
        "data_cna.txt": CNA,
        "data_log2_cna.txt": CNA,
        "data_mutations.txt": MAF,
        "case_lists/cases_sequenced.txt": "cancer_study_identifier: luad\n"
        "case_list_ids: TCGA-05-0001-01\tTCGA-05-0002-01\tTCGA-05-0003-01\n",
    }.items():
        (folder / name).write_text(text)
    return folder


def test_a_study(importer, study):
    assert importer("cbioportal", study, "--min-patients", "1") == ExitCode.DONE
    assert importer.patients() == {
        "TCGA-05-0001": (10.5, True, ()),
        "TCGA-05-0002": (20, False, ()),
        "TCGA-05-0003": (3, False, ()),
    }
    assert importer.genes() == {
        "TCGA-05-0001": {"TP53_rnaseq": 1023, "MYC_rnaseq": 0.5, "TP53_cnv": -2, "KRAS_mut": 0, "TP53_mut": 1},
        "TCGA-05-0002": {"TP53_rnaseq": 3, "MYC_rnaseq": None, "TP53_cnv": None, "KRAS_mut": 1, "TP53_mut": 0},
        "TCGA-05-0003": {"TP53_rnaseq": None, "MYC_rnaseq": None, "TP53_cnv": 1, "KRAS_mut": 0, "TP53_mut": 0},
    }
    assert importer.data().clinical.tss == "tss"
    assert "4 samples, one read of each of 2 patients; left out 1 metastasis (06), 1 normal tissue (11)" in importer.out
    assert "1 of 3 rows have no gene symbol" in importer.out
    assert "1 of 4 patients are left out" in importer.out
    assert "looks like linear values" in importer.out
    assert (
        "QUESTION (data.genomics.file): data_mrna_seq_v2_rsem.txt was read, and not data_mrna_seq_v2_rsem_zscores"
        in importer.out
    )
    assert "import again with --transform log2p1" in importer.out


def test_logarithms_are_taken_when_asked(importer, study):
    assert importer("cbioportal", study, "--min-patients", "1", "--transform", "log2p1") == ExitCode.DONE
    assert importer.genes()["TCGA-05-0001"]["TP53_rnaseq"] == 10
    assert importer.genes()["TCGA-05-0002"]["TP53_rnaseq"] == 2
    assert importer.genes()["TCGA-05-0002"]["MYC_rnaseq"] is None
    assert "--transform" not in importer.draft()


def test_another_endpoint(importer, study):
    columns = ("--column", "time=DFS_MONTHS", "--column", "event=DFS_STATUS")
    assert importer("cbioportal", study, "--min-patients", "1", *columns) == ExitCode.DONE
    assert importer.patients() == {"TCGA-05-0001": (8, True, ()), "TCGA-05-0002": (20, False, ())}


def test_a_gene_in_two_rows_needs_a_rule(importer, study):
    (study / "data_mrna_seq_v2_rsem.txt").write_text(MRNA + "TP53\t7157\t1\t5\t0\t0\n")
    assert importer("cbioportal", study, "--min-patients", "1") == ExitCode.MISTAKE
    assert "1 genes stand in several rows (first 'TP53')" in importer.err
    assert not importer.output.exists()
    assert importer("cbioportal", study, "--min-patients", "1", "--duplicates", "mean") == ExitCode.DONE
    assert importer.genes()["TCGA-05-0001"]["TP53_rnaseq"] == 512
    assert importer.genes()["TCGA-05-0002"]["TP53_rnaseq"] == 4


def test_patients_without_a_primary_sample_are_asked_about(importer, study):
    (study / "data_mrna_seq_v2_rsem.txt").write_text(MRNA.replace("TCGA-05-0001-01", "TCGA-05-0001-06"))
    assert importer("cbioportal", study, "--min-patients", "1") == ExitCode.DONE
    assert "2 patients without a sample of the types 01, 03, 09" in importer.out
    assert importer.genes()["TCGA-05-0001"]["TP53_rnaseq"] is None


def test_both_types_are_read_when_asked(importer, study):
    (study / "data_mrna_seq_v2_rsem.txt").write_text(MRNA.replace("TCGA-05-0001-01", "TCGA-05-0001-06"))
    assert importer("cbioportal", study, "--min-patients", "1", "--sample-types", "01,06") == ExitCode.DONE
    assert importer.genes()["TCGA-05-0001"]["TP53_rnaseq"] == 1023
    assert importer.genes()["TCGA-05-0002"]["TP53_rnaseq"] == 3  # 01 before 06


def test_a_sheet_of_other_names(importer, study):
    """Two primary samples of one patient that nothing tells apart are refused; a metastasis is left out."""
    rows = {
        "P-1-T01": ("TCGA-05-0001", "Primary"),
        "P-1-T02": ("TCGA-05-0001", "Primary"),
        "P-2-T01": ("TCGA-05-0002", "Primary"),
    }
    sheet = "PATIENT_ID\tSAMPLE_ID\tSAMPLE_TYPE\n" + "".join(f"{p}\t{s}\t{t}\n" for s, (p, t) in rows.items())
    for name in ("data_cna.txt", "data_mutations.txt", "data_mrna_seq_v2_rsem_zscores_ref_all_samples.txt"):
        (study / name).unlink()
    (study / "data_clinical_sample.txt").write_text(sheet)
    (study / "data_mrna_seq_v2_rsem.txt").write_text("Hugo_Symbol\tP-1-T01\tP-1-T02\tP-2-T01\nTP53\t1\t2\t3\n")
    assert importer("cbioportal", study) == ExitCode.MISTAKE
    assert "1 samples belong to a patient who has another sample of the same type" in importer.err
    (study / "data_clinical_sample.txt").write_text(sheet.replace("T02\tPrimary", "T02\tMetastasis"))
    assert importer("cbioportal", study) == ExitCode.DONE
    assert importer.genes() == {"TCGA-05-0001": {"TP53_rnaseq": 1}, "TCGA-05-0002": {"TP53_rnaseq": 3}}


def test_two_rows_of_a_patient_are_refused(importer, study):
    (study / "data_clinical_patient.txt").write_text(PATIENTS + "TCGA-05-0001\t99\t0:LIVING\t1\t0:DiseaseFree\n")
    assert importer("cbioportal", study) == ExitCode.MISTAKE
    assert "1 rows repeat a patient" in importer.err


def test_an_option_of_another_format_is_refused(importer, tmp_path):
    (tmp_path / "a.csv").write_text("case_id,survival_months,event,A_mut\nP1,1,1,1\nP2,3,0,0\n")
    assert importer("tables", tmp_path / "a.csv", "--transform", "log2p1") == ExitCode.MISTAKE
    assert "--transform has no meaning for tables, which takes --column" in importer.err
