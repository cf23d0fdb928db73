"""Tables as hospitals send them: separators, encodings, compression, workbooks. One table, many files, one answer."""

import datetime as dt
import gzip
import io
import logging
import sys
import zipfile

import numpy as np
import openpyxl
import pandas as pd
import pytest

from memamba_core.config.site import TableFile
from memamba_core.data.tables import is_table, open_table, refuse_genes_in_rows
from memamba_core.errors import DataError, MissingBackendError

ROWS = [("p1", "12.5", "0", "Größe, 5\u00b5m"), ("p2", "3", "1", "ohne")]
FRAME = pd.DataFrame(ROWS, columns=["case_id", "months", "event", "note"])
COMMA = FRAME.to_csv(index=False)


def write(tmp_path, name, data):
    (tmp_path / name).write_bytes(data if isinstance(data, bytes) else data.encode())
    return tmp_path / name


def read(path, **settings):
    table = open_table(path, TableFile(**settings))
    return table.text(table.columns)


def zipped(**members):
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        for name, text in members.items():
            archive.writestr(zipfile.ZipInfo(name.replace("__", "/")), text)
    return data.getvalue()


SEMICOLON = FRAME.to_csv(index=False, sep=";")
TAB = FRAME.to_csv(index=False, sep="\t")


def kind(value):
    """Name a file's content by its type and length: bytes in a name of a test could change from process to process."""
    return f"{type(value).__name__}-{len(value)}" if isinstance(value, bytes) else None


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("t.csv", COMMA),
        ("T.CSV", COMMA),
        ("t.tsv", TAB),
        ("t.txt", TAB),
        ("t.csv", TAB),
        ("t.csv", SEMICOLON),
        ("t.csv", FRAME.to_csv(index=False, sep="|")),
        ("t.csv", "\ufeff" + SEMICOLON),
        ("t.csv", SEMICOLON.encode("utf-16")),
        ("t.csv", SEMICOLON.encode("utf-16-le")),
        ("t.csv", TAB.encode("utf-16-be")),
        ("t.csv", b"\xfe\xff" + TAB.encode("utf-16-be")),
        ("t.csv", SEMICOLON.encode("utf-32")),
        ("t.csv", SEMICOLON.encode("cp1252")),
        ("t.csv", COMMA.encode("latin-1")),
        ("t.csv", COMMA.replace("\n", "\r\n")),
        ("t.csv", COMMA.replace("\n", "\r")),
        ("t.csv", COMMA.rstrip("\n")),
        ("t.csv", COMMA.replace("\n", "\n\n")),
        ("t.csv", COMMA.replace("\n", "\n  \n")),
        ("t.csv", "sep=;\r\n" + SEMICOLON),
        ("t.txt", "#Patient Identifier\t...\n#STRING\n\n#1\n" + TAB),
        ("t.csv", COMMA + ",,,\n , ,,\n"),
        ("t.csv", COMMA.replace("\n", ",,,\n")),
        ("t.csv", COMMA.replace("ohne\n", "ohne,,\n")),
        ("t.csv", COMMA.replace("case_id,months", " case_id ,\tmonths ")),
        ("t.csv", FRAME.to_csv()),  # with the row numbers of pandas
        ("t.csv.gz", gzip.compress(COMMA.encode(), mtime=0)),
        ("t.TSV.GZ", gzip.compress(TAB.encode("utf-16"), mtime=0)),
        ("t.csv.gz", COMMA),  # unpacked by a browser
        ("t.csv", gzip.compress(COMMA.encode(), mtime=0)),
        ("t.csv.zip", zipped(**{"t.csv": COMMA})),
        (
            "t.csv.zip",
            zipped(**{"a__t.csv": SEMICOLON.encode("cp1252"), "__MACOSX__._t.csv": "x", "a__.DS_Store": "x"}),
        ),
    ],
    ids=kind,
)
def test_one_table_in_many_forms(tmp_path, name, data):
    pd.testing.assert_frame_equal(read(write(tmp_path, name, data)), FRAME, check_dtype=False)


@pytest.mark.parametrize("place", [0, 1, 500, 999])
def test_a_letter_in_another_encoding_gives_the_same_answer_everywhere(tmp_path, place, caplog):
    lines = [f"p{i},{i},kein Befund {'x' * 200}" for i in range(1000)]
    lines[place] = f"p{place},{place},Größe"
    mixed = [*lines[:-1], "p999,999,na\u00efve \u20ac"]
    path = write(tmp_path, "t.csv", "\n".join(["case_id,days,note", *lines]).encode("latin-1"))
    with caplog.at_level(logging.INFO):
        frame = read(path)
    assert frame["note"][place] == "Größe"
    assert len(frame) == 1000
    assert "t.csv: 1000 rows, 3 columns; UTF-8 and Windows-1252, comma between cells" in caplog.text
    both = "\n".join(["case_id,days,note", *mixed[:-1]]).encode("cp1252") + b"\n" + mixed[-1].encode()
    assert read(write(tmp_path, "t.csv", both))["note"].iloc[-1] == "na\u00efve \u20ac"


def test_the_separator_is_found_where_header_cells_hold_another(tmp_path):
    path = write(tmp_path, "t.csv", "case_id;OS (Monate, ab Diagnose);event\np1;5,13;1\np2;47,63;0\n")
    assert list(read(path).columns) == ["case_id", "OS (Monate, ab Diagnose)", "event"]
    path = write(tmp_path, "t.csv", 'case_id;"OS; Monate";event\np1;5,13;1\n')
    assert list(read(path).columns) == ["case_id", "OS; Monate", "event"]
    path = write(tmp_path, "t.csv", "case_id,slides (a;b),days,event\np1,s1;s2,5,1\np2,s3;s4,6,0\n")
    assert read(path)["slides (a;b)"].tolist() == ["s1;s2", "s3;s4"]


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("t.csv", b"", "is empty; expected a header"),
        ("t.csv", "# only\n# comments\n", "is empty; expected a header"),
        ("t.csv", ",,\n1,2,3\n", "is empty; expected a header"),
        ("t.csv", "a,b\n1,2\n1,2,3\n", r"row 2 has 3 cells, another number of cells than the header \(2\)\. Put"),
        ("t.csv", "a,b\n1\n2\n3,4\n", r"row 1 has 1 cells.*and so have 1 more of 3 rows"),
        ("t.csv", "a,b\n1,5,2\n2,5,3\n", r"row 1 has 3 cells.*row name \(R\).*hold a comma into double quotes"),
        ("t.csv", "a,a\n1,2\n", "column 'a' appears 2 times"),
        ("t.csv", "a, a\n1,2\n", "column 'a' appears 2 times"),
        ("t.csv", "a,b\n1,\0\n", "holds NUL bytes, the first in line 2"),
        ("t.csv", "ä,b\n".encode("utf-16") + b"\0\xd8\0", "not valid UTF-16-LE"),
        ("t.csv", b"PAR1...", "is a parquet file"),
        ("t.csv", b"\xd0\xcf\x11\xe0...", r"is an Excel workbook of the old kind \(\.xls\)"),
        ("t.csv", "\n<!DOCTYPE HTML><title>Login</title>", "is a web page"),
        ("t.csv", "version https://git-lfs.github.com/spec/v1\n", "is a Git LFS pointer"),
        ("t.csv", zipped(**{"[Content_Types].xml": "x"}), r"is an Excel workbook.* ends in \.xlsx"),
        ("t.csv.gz", gzip.compress(COMMA.encode(), mtime=0)[:-10], "gzip stream is cut off or damaged"),
        ("t.csv.gz", gzip.compress(b"RDX3\nX", mtime=0), "is an R data file"),
        ("t.csv.zip", zipped(**{"a.csv": COMMA, "b.csv": COMMA}), "holds 2 files; expected one table"),
        ("t.csv.zip", zipped(), "holds 0 files; expected one table"),
        ("t.csv.zip", zipped(**{"a.csv": COMMA})[:50], "zip archive is cut off or damaged"),
        ("t.parquet", b"PAR1", "cannot be read as parquet"),
        ("t.xlsx", b"PK\x03\x04", "cannot be read as an Excel workbook"),
        ("t.xlsx", COMMA, "cannot be read as an Excel workbook"),
        ("t.xls", b"", r"is no table; expected a name that ends in \.csv, .*\.xlsx"),
    ],
    ids=kind,
)
def test_files_of_another_kind_are_refused_with_the_cause(tmp_path, name, data, words):
    with pytest.raises(DataError, match=rf"{name}.*{words}"):
        read(write(tmp_path, name, data))


def test_a_link_to_nowhere_and_a_file_without_permission_are_named(tmp_path, monkeypatch):
    (tmp_path / "t.csv").symlink_to("gone.csv")
    with pytest.raises(DataError, match=r"t\.csv: is a link to gone\.csv, which is not there\. Mount"):
        open_table(tmp_path / "t.csv")
    path = write(tmp_path, "u.csv", COMMA)

    def refuse(self):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(type(path), "read_bytes", refuse)
    with pytest.raises(DataError, match=r"u\.csv: cannot be read \(Permission denied\)"):
        open_table(path)


def test_names_of_tables():
    assert all(map(is_table, ("a.csv", "a.CSV.GZ", "a.Tsv.zip", "a.txt", "A.PARQUET", "a.xlsx")))
    assert not any(map(is_table, ("a.xls", "a.csv.bz2", "features", "a.h5", "csv")))


# Workbooks -------------------------------------------------------------------------------------


def workbook(tmp_path, rows, sheet="Tabelle1", others=()):
    book = openpyxl.Workbook()
    book.active.title = sheet
    for row in rows:
        book.active.append(row)
    for name in others:
        book.create_sheet(name).append(["a"])
    book.save(tmp_path / "t.xlsx")
    return tmp_path / "t.xlsx"


HEADER = ["case_id", "x", "event"]
MARCH = dt.datetime.fromisoformat("2021-03-01")


def test_a_workbook_is_read_as_excel_shows_it(tmp_path):
    rows = [[None], ["case_id ", "x", "event", None, "date", "MARCH1"]]
    rows += [
        ["0012", 12.5, True, None, MARCH, 1],
        [13, 3, False, None, MARCH + dt.timedelta(1.5), None],
    ]
    table = open_table(workbook(tmp_path, [*rows, [None] * 7, ["", " "]]))
    frame = table.text(table.columns)
    assert list(frame.columns) == ["case_id", "x", "event", "date", "MARCH1"]
    assert frame["case_id"].tolist() == ["0012", "13"]
    assert frame["x"].tolist() == ["12.5", "3"]
    assert frame["event"].tolist() == ["true", "false"]
    np.testing.assert_array_equal(table.numbers(["x", "MARCH1"]), [[12.5, 1], [3, np.nan]])
    np.testing.assert_array_equal(table.times("x", "months"), [12.5, 3])
    for column in ("date", "event"):
        with pytest.raises(DataError, match=rf"'{column}' is of type"):
            table.times(column, "days")


def test_cells_of_mixed_types_are_named(tmp_path):
    """Excel made dates of 1.3 and 2.5, and texts of what it did not know."""
    cells = [MARCH, 2.5, "NA", None, MARCH + dt.timedelta(62)]
    table = open_table(workbook(tmp_path, [HEADER, *([f"p{i}", cell, 1] for i, cell in enumerate(cells))]))
    with pytest.raises(DataError, match=r"'x' holds dates or times of day in rows 1, 5\."):
        table.numbers(["x"])
    cells = ["12,5", 3, "NA", None]
    table = open_table(workbook(tmp_path, [HEADER, *([f"p{i}", cell, 1] for i, cell in enumerate(cells))]))
    np.testing.assert_array_equal(table.numbers(["x"])[:, 0], [12.5, 3, np.nan, np.nan])


def test_differences_of_dates_in_a_workbook_are_days(tmp_path):
    path = workbook(tmp_path, [HEADER, ["p", dt.timedelta(days=137), 1], ["q", dt.timedelta(days=1903), 1]])
    np.testing.assert_array_equal(open_table(path).times("x", "days"), [137, 1903])


def test_the_sheet_is_the_first_or_the_named_one(tmp_path):
    path = workbook(tmp_path, [HEADER, ["p", 1, 1]], others=["Notizen"])
    assert open_table(path).columns == tuple(HEADER)
    assert open_table(path, TableFile(sheet="Notizen")).columns == ("a",)
    with pytest.raises(DataError, match=r"no sheet 'Daten'; its sheets are 'Tabelle1', 'Notizen'\. Correct"):
        open_table(path, TableFile(sheet="Daten"))
    with pytest.raises(DataError, match=r"has no sheets, and the setting sheet is 'Daten'"):
        open_table(write(tmp_path, "t.csv", COMMA), TableFile(sheet="Daten"))


def test_a_workbook_with_uncomputed_formulas_or_stray_cells_is_refused(tmp_path):
    with pytest.raises(DataError, match="2 formulas have no computed value"):
        open_table(workbook(tmp_path, [HEADER, ["p", "=1+1", 1], ["q", "=1+1", 1]]))
    with pytest.raises(DataError, match=r"row 2 has cells behind the last column of the header \(3\)"):
        open_table(workbook(tmp_path, [HEADER, ["p", 1, 1], ["q", 1, 1, "note"]]))
    with pytest.raises(DataError, match="is empty"):
        open_table(workbook(tmp_path, []))


def test_a_workbook_without_openpyxl_says_what_to_install(tmp_path, monkeypatch):
    path = workbook(tmp_path, [HEADER, ["p", 1, 1]])
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    with pytest.raises(MissingBackendError, match="pip install openpyxl"):
        open_table(path)


# Orientation -----------------------------------------------------------------------------------

GENES = ["TP53", "KRAS", "HLA-A", "C1orf112", "MT-CO1"]


@pytest.mark.parametrize(
    ("key", "genes", "patients"),
    [
        ("sample", ["A_rnaseq", "B_rnaseq", "C_cnv"], ["SYN-AB-0000-01", "SYN-AB-0001-01"]),
        ("Hugo_Symbol", GENES, ["TCGA-AA-0001-01", "TCGA-AA-0002-01"]),
        ("Hugo_Symbol", GENES, ["P1", "P2"]),
        ("Ensembl_ID", ["ENSG00000141510.16", "ENSG00000133703.11"], ["P1", "P2"]),
        ("gene_id", ["TP53|7157", "KRAS|3845"], ["TCGA-AA-0001-01A-11R", "TCGA-AA-0002-01A-11R"]),
    ],
)
def test_genes_in_rows_are_recognised(tmp_path, key, genes, patients):
    lines = ["\t".join([key, *patients]), *("\t".join([gene, *("1.5" for _ in patients)]) for gene in genes)]
    table = open_table(write(tmp_path, "t.txt", "\n".join(lines)))
    with pytest.raises(DataError, match=rf"genes stand in rows \({len(genes)} in column '{key}'\).*Transpose"):
        refuse_genes_in_rows(table)


@pytest.mark.parametrize(
    ("key", "patients", "columns"),
    [
        ("case_id", ["TCGA-AA-0001", "TCGA-AA-0002"], GENES),
        ("case_id", ["P1", "P2"], GENES),
        ("case_id", ["P1", "P2"], ["age", "event"]),
        ("case_id", ["0012", "0013"], ["x"]),
    ],
)
def test_patients_in_rows_are_not_taken_for_genes(tmp_path, key, patients, columns):
    lines = ["\t".join([key, *columns]), *("\t".join([patient, *("1" for _ in columns)]) for patient in patients)]
    refuse_genes_in_rows(open_table(write(tmp_path, "t.txt", "\n".join(lines))))
