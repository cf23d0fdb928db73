"""No row is lost in a quoted cell: stray quotes are refused, comments over several lines are read."""

import csv
import io

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memamba_core.data.tables import open_table
from memamba_core.data.tables.quotes import quoted_cells
from memamba_core.errors import DataError, MemambaError

HEADER = "case_id,days,event,note\n"


def read(tmp_path, text, name="t.csv"):
    (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    table = open_table(tmp_path / name)
    return table.text(table.columns)


@pytest.mark.parametrize(
    ("rows", "row"),
    [
        ('p1,1,0,"a\np2,2,1,b\np3,3,0,"c\n', 1),  # the next stray quote stands two rows below
        ('p1,1,0,"a\np2,2,1,"b\n', 1),
        ('p0,1,0,a\np1,1,0,"a\np2,2,1,b"\n', 2),  # ... and seems to close the cell
        ('p1,"1,0,a\np2,"2,1,b\n', 1),
        ('p1,"1,0,a\np2,2",1,b\n', 1),
        ('"p1,1,0,a\np2",2,1,b\n', 1),
        ('p1,1,0,"a\n\n\np2,2,1,b"\n', 1),  # blank lines between
        ('p1,1,0,"a\np2,2,1,b\n', 1),  # never closed
        ('p0,1,0,a\np1,1,0,"a\n', 2),  # opened in the last line
        ('p1,1,0,"a', 1),
        ('p1,1,0,"a\np2,2,1,""\np3,3,0,c"\n', 1),  # the empty cell reads as a quote inside the cell
        ('p1,1,0,"x, y\np2,2,1,"z, w"\n', 1),  # a closing quote is lost
        ('p1,1,0,"a ""b"" c\np2,2,1,d"\n', 1),
    ],
)
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_a_quote_that_swallows_rows_is_refused_with_the_row_where_it_opens(tmp_path, rows, row, end):
    with pytest.raises(DataError, match=rf"t\.csv: row {row}\b.* opens a double quote") as raised:
        read(tmp_path, (HEADER + rows).replace("\n", end))
    assert "p1" not in str(raised.value)
    assert "p2" not in str(raised.value)


def test_a_swallowing_cell_of_a_wide_table_is_refused(tmp_path):
    rows = "".join(f"p{i},1,0,{'x' * 1000}\n" for i in range(300))
    with pytest.raises(DataError, match="row 2 holds a cell of more than 128 kB"):
        read(tmp_path, f'{HEADER}p,1,0,ok\nq,1,0,"oops\n{rows}')


@pytest.mark.parametrize(
    ("header", "rows"),
    [
        ('case_id,"days,event,note\n', "p1,1,0,a\np2,2,1,b\n"),
        ('case_id,"days,event,note\n', 'p1,1,0,a\np2,2",1,b\n'),
        ('case_id,"days,event,note\n', 'p1,"1",0,a\np2,2,1,b\n'),
        ('case_id,days,event,"note', ""),
    ],
)
def test_a_header_that_swallows_rows_is_refused(tmp_path, header, rows):
    with pytest.raises(DataError, match="its header opens a double quote"):
        read(tmp_path, header + rows)


@pytest.mark.parametrize(
    "note",
    [
        '"two\nlines"',
        '"a\n\nb"',
        '"Leber, Lunge\nund Milz"',
        '"a ""b""\nc"',
        '5" lang',
        '"Dr. "X" Y"',
        '""',
        '"a;b\nc;d"',
    ],
)
def test_comments_with_line_breaks_and_quotes_are_read(tmp_path, note):
    frame = read(tmp_path, f"{HEADER}p1,1,0,{note}\np2,2,1,b\n")
    assert frame["case_id"].tolist() == ["p1", "p2"]
    assert frame["days"].tolist() == ["1", "2"]


def test_names_with_a_line_break_are_one_line(tmp_path):
    assert list(read(tmp_path, 'case_id,"OS\n(months)"\np1,1\n').columns) == ["case_id", "OS (months)"]


def test_quoted_cells_are_those_of_the_csv_module():
    record = 'a,"b,""c""",d"e,"f"g,"h'
    assert [(c.column, c.text, c.ended, c.clean) for c in quoted_cells(record, ",")] == [
        (1, 'b,"c"', True, True),
        (3, "f", True, False),
        (4, "h", False, False),
    ]


CELLS = st.text(st.sampled_from('ab1. ,;\t"\n\r|#äé\u20ac'), max_size=5)


@st.composite
def written_tables(draw):
    """Return the cells of a table and the text that the csv module writes for them."""
    width = draw(st.integers(2, 4))
    rows = draw(st.lists(st.lists(CELLS, min_size=width, max_size=width), min_size=1, max_size=5))
    quoting = draw(st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC]))
    if quoting == csv.QUOTE_MINIMAL:  # the module leaves a lone carriage return without quotes
        rows = [[cell.replace("\r", "") for cell in row] for row in rows]
    rows = [[f"p{number}", *cells[1:]] for number, cells in enumerate(rows)]
    output = io.StringIO()
    writer = csv.writer(
        output,
        delimiter=draw(st.sampled_from(",;\t")),
        quoting=quoting,
        lineterminator=draw(st.sampled_from(["\n", "\r\n"])),
    )
    writer.writerow([f"column{i}" for i in range(width)])
    writer.writerows(rows)
    return rows, output.getvalue()


@settings(max_examples=150)
@given(written_tables())
def test_what_the_csv_module_writes_is_read_cell_by_cell(tmp_path_factory, table):
    rows, text = table
    try:
        frame = read(tmp_path_factory.mktemp("t"), text)
    except DataError as error:  # a comment that looks like rows
        refusal = str(error)
        assert "looks like rows" in refusal
        assert any("\n" in cell or "\r" in cell for row in rows for cell in row)
        return
    expected = [[cell.replace("\r\n", "\n").replace("\r", "\n").strip() for cell in row] for row in rows]
    assert frame.to_numpy().tolist() == expected


@settings(max_examples=300)
@given(st.data())
def test_no_edit_of_one_character_loses_a_patient(tmp_path_factory, data):
    rows = data.draw(st.integers(2, 6))
    notes = st.sampled_from(["", "a", '"b, c"', '"d ""e"""', '""'])
    lines = [f"p{i},{i + 1},{i % 2},{data.draw(notes)}" for i in range(rows)]
    text = HEADER + "\n".join(lines) + data.draw(st.sampled_from(["", "\n"]))
    place = data.draw(st.integers(0, len(text)))
    removed = data.draw(st.integers(0, 1))
    edited = (
        text[:place]
        + data.draw(st.sampled_from(["", '"', "\n", "\r", ",", ";", "x", " ", "#"]))
        + text[place + removed :]
    )
    try:
        frame = read(tmp_path_factory.mktemp("t"), edited)
        case_ids = open_table_ids(frame)
    except MemambaError:
        return
    lines = [line for line in edited.splitlines() if line.strip(" ,")]
    assert len(case_ids) in (rows, len(lines) - 1)  # a line break may be added between two rows, and none be lost


def open_table_ids(frame):
    """Return the identifiers, as a reader of the clinical table asks for them."""
    if not {"case_id", "days", "event"} <= set(frame.columns):
        raise DataError("no column")
    return frame["case_id"].tolist()
