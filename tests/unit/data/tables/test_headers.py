"""Headers in messages: names of columns help, and the data of a patient in their place are never shown."""

import io

import openpyxl
import pytest

from memamba_core.config.site import TableFile
from memamba_core.data.tables import open_table
from memamba_core.errors import DataError

PATIENT = "TCGA-2F-A9KO,2F,63,0,24.11,1\nTCGA-4Z-AA7M,4Z,55,1,8.5,0\n"
IN_COLUMNS = "case_id,TCGA-2F-A9KO,TCGA-4Z-AA7M,TCGA-C4-A0EZ\nage,63,55,60\n"


def refusal(path, column="months"):
    with pytest.raises(DataError) as failure:
        open_table(path, TableFile()).require(column, "data.clinical.time")
    return str(failure.value).removeprefix(str(path))


def write(tmp_path, text):
    (tmp_path / "t.csv").write_text(text)
    return tmp_path / "t.csv"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (PATIENT, ("4 of 6 names in the first row are numbers", "Write the names of the columns")),
        (PATIENT.replace(",", ";"), ("are numbers",)),
        ("P7,1,1\nP8,0,1\n", ("the first row holds numbers", "Write the names of the columns")),
        (IN_COLUMNS, ("'case_id'", "3 names with digits are not shown", "transpose")),
        (IN_COLUMNS.replace("4Z-AA7M", "2F-A9KO"), ("columns 2, 3 appears 2 times",)),
        ("month_1,month_2\n1,2\n", ("2 names with digits",)),
        ("time_2,status\n1,2\n", ("'time_2', 'status'",)),
        ("case_id months event\np1 2 1\n", ("Put commas, semicolons or tabs",)),
        ("Export of 2024\n\ncase_id,months,event\np1,2,1\np2,3,0\n", ("as under a title", "Take out the lines above")),
        ("case_id,months\np1,2\np2,3\nSource: registry\n", ("row 3, the last one, has 1 cell", "below the table")),
    ],
)
def test_a_message_about_a_header_names_the_cause_and_no_patient(tmp_path, text, words):
    message = refusal(write(tmp_path, text))
    for word in words:
        assert word in message
    assert not any(value in message for value in ("TCGA", "24.11", "P7", "'2F'"))


def test_molecular_and_plain_names_are_shown(tmp_path):
    assert "column 'TP53_mut' appears 2 times" in refusal(write(tmp_path, "case_id,TP53_mut,TP53_mut\np,1,0\n"))
    assert "nearest are 'Months_OS'" in refusal(write(tmp_path, "case_id,Months_OS\np,1\n"))


def test_columns_that_a_program_has_numbered_are_no_row_of_data(tmp_path):
    message = refusal(write(tmp_path, "case_id,0,1,2\np,1,0,3\n"))
    assert "'case_id'" in message
    assert "row of data" not in message


def test_a_workbook_names_its_other_sheets_and_a_title(tmp_path):
    book = openpyxl.Workbook()
    book.active.title = "Legend"
    book.active.append(["event: 1 = dead"])
    table = book.create_sheet("Patients")
    for row in (["Registry 2024"], ["case_id", "months"], ["p1", 2.0]):
        table.append(row)
    data = io.BytesIO()
    book.save(data)
    (tmp_path / "t.xlsx").write_bytes(data.getvalue())
    assert "sheet 'Legend' was read, and there are 1 others ('Patients')" in refusal(tmp_path / "t.xlsx")
    with pytest.raises(DataError, match="as under a title"):
        open_table(tmp_path / "t.xlsx", TableFile(sheet="Patients"))
