import gzip
import pickle
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memamba_core.config.site import GenomicsTable
from memamba_core.data.genomics.names import KINDS
from memamba_core.data.genomics.signatures import build_gene_groups, find_signature_doubts, read_signatures
from memamba_core.data.genomics.table import read_genes
from memamba_core.errors import ConfigError, DataError


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_signatures_may_be_ragged_and_share_symbols(tmp_path):
    path = write(tmp_path / "s.csv", "Kinases, Onco \nAKT1,MYC\nEGFR,EGFR\nEGFR,\n,KRAS\n")
    assert read_signatures(path) == {"Kinases": ("AKT1", "EGFR"), "Onco": ("MYC", "EGFR", "KRAS")}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ("is empty", "one column")),
        ("A,\nX,Y\n", ("column 2", "no name")),
        ("A,B\nX,\n", ("group 'B'", "no gene symbol")),
        ("A,A\nX,Y\n", ("'A'", "own name")),
    ],
)
def test_signatures_refusals(tmp_path, text, words):
    path = write(tmp_path / "s.csv", text)
    with pytest.raises(DataError) as raised:
        read_signatures(path)
    for word in (str(path), *words):
        assert word in str(raised.value)


def test_signatures_that_are_absent_or_no_text(tmp_path):
    with pytest.raises(DataError, match=r"none\.csv: no such file; expected a CSV with one column"):
        read_signatures(tmp_path / "none.csv")
    (tmp_path / "z.csv").write_bytes(gzip.compress(b"A\nX\n"))
    with pytest.raises(DataError, match=r"z\.csv: cannot be read as CSV.*Export it again"):
        read_signatures(tmp_path / "z.csv")


def test_a_group_catches_every_kind_of_its_symbols():
    columns = ("A_rnaseq", "B_mut", "A_mut", "C_cnv", "A_cnv", "HLA_DRA_cnv")
    groups = build_gene_groups(columns, {"x": ("A",), "none": ("Q",), "y": ("HLA_DRA", "A", "B")}, "signatures")
    assert groups == {"x": (0, 2, 4), "y": (0, 1, 2, 4, 5)}
    assert list(groups) == ["x", "y"]
    assert build_gene_groups(columns, None, "kind") == {"rnaseq": (0,), "cnv": (3, 4, 5), "mut": (1, 2)}


SYMBOLS = st.text("ABC", min_size=1, max_size=2)


@given(
    columns=st.lists(st.tuples(SYMBOLS, st.sampled_from(KINDS)), min_size=1, unique=True),
    signatures=st.dictionaries(st.text("xyz", min_size=1), st.lists(SYMBOLS, min_size=1), min_size=1),
)
def test_groups_hold_a_column_exactly_if_they_hold_its_symbol(columns, signatures):
    names = [f"{symbol}_{kind}" for symbol, kind in columns]
    try:
        groups = build_gene_groups(names, signatures, "signatures")
    except DataError:
        groups = {}
    for name, symbols in signatures.items():
        slow = tuple(i for i, (symbol, _) in enumerate(columns) if symbol in symbols)
        assert groups.get(name, ()) == slow
    assert sorted(i for g in build_gene_groups(names, None, "kind").values() for i in g) == list(range(len(names)))


def test_groups_refuse_what_they_cannot_use():
    with pytest.raises(ConfigError, match=r"data\.signatures, or set agreement.gene_groups=kind"):
        build_gene_groups(("A_cnv",), None, "signatures")
    with pytest.raises(DataError, match=r"none of the 1 gene groups .* any of the 1 .* agreement\.gene_groups=kind"):
        build_gene_groups(("A_cnv",), {"x": ("B",)}, "signatures")
    with pytest.raises(DataError, match="column 'age' is not molecular; expected SYMBOL_rnaseq"):
        build_gene_groups(("age",), None, "kind")


GMT = {"APOPTOSIS": ("A", "B", "C"), "HYPOXIA": ("D",)}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("s.gmt", "APOPTOSIS\thttp://x/y\tA\tB\tC\nHYPOXIA\t\tD\n"),
        ("S.GMT", "APOPTOSIS\tna\tA,1.0\tB,1.0\tC,1.0\tA,1.0\n\nHYPOXIA\tna\tD\t\t\n"),
        ("s.csv", "APOPTOSIS,http://x/y,A,B,C\nHYPOXIA,https://x,D,,\n"),
        ("s.csv", "APOPTOSIS,> a set,A,B,C\nHYPOXIA,www.x.org,D\n"),
        ("s.csv", "APOPTOSIS,NA,A,B,C\nHYPOXIA,na,D\n"),
    ],
)
def test_one_group_per_row_as_in_gmt_files_is_a_doubt_in_a_csv(tmp_path, name, text):
    found = read_signatures(write(tmp_path / name, text))
    assert found == GMT
    copy = pickle.loads(pickle.dumps(found))  # as a worker process gets it
    doubts = list(find_signature_doubts("s", copy, [f"{symbol}_mut" for symbol in "ABCD"]))
    assert len(doubts) == (name == "s.csv")
    assert all("one group per row, 2 groups" in doubt.text for doubt in doubts)


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_cells_of_signatures_stand_between_any_usual_separator(tmp_path, separator):
    text = "APOPTOSIS,HYPOXIA\nA,D\nB,\nC,\n".replace(",", separator)
    assert read_signatures(write(tmp_path / "s.csv", text)) == GMT


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("A\tna\tX\nA\tna\tY\n", ("two rows", "'A'")),
        ("A\tna\tX\n\tna\tY\n", ("row 2", "no name", "first cell")),
        ("A\tna\nB\tna\tY\n", ("group 'A'", "no gene symbol", "behind the description")),
    ],
)
def test_refusals_of_gmt_files(tmp_path, text, words):
    with pytest.raises(DataError) as raised:
        read_signatures(write(tmp_path / "s.gmt", text))
    for word in words:
        assert word in str(raised.value)


WIDE = [f"GENE{i:03d}_rnaseq" for i in range(60)] + ["HLA-A_rnaseq", "TP53_rnaseq", "ENSG00000141510_rnaseq"]


@pytest.mark.parametrize(
    ("groups", "words"),
    [
        (
            {"A": ("GENE001", "1-Mar", "TP-53", "HER2"), "B": ("GENE010", "ENSG00000012048.17", "gene011", "GENE012")},
            ("3 of 4 of 'A'", "2 of 4 of 'B'", "1 would match", "identifiers: 1"),
        ),
        ({"A": ("GENE001", "GENE002", "HLA.A")}, ("1 of 3 of 'A'", "1 would match")),
        ({"A": ("GENE001", " gene002"), "B": ("GENE003",)}, ("1 of 2 of 'A'",)),
        ({"A": ("ENSG00000141510.17", "GENE002")}, ("1 of 2 of 'A'", "1 would match")),
        ({"A": ("GENE001", "2-Sep"), "B": ("44256", "GENE001")}, ("1 of 2 of 'A'", "1 of 2 of 'B'")),
        ({"A": ("GENE001", "X", "Y"), "B": ("GENE001",)}, ("2 of 3 of 'A'",)),
        ({"APOPTOSIS": ("HYPOXIA",), "GENE001": ("GENE010",), "GENE002": ("GENE011",)}, ("2 of 3 groups", ".gmt")),
    ],
)
def test_symbols_that_nearly_match_are_counted_by_group(groups, words):
    (doubt,) = find_signature_doubts("s.csv", groups, WIDE)
    for word in ("s.csv", *words):
        assert word in str(doubt)


@pytest.mark.parametrize(
    ("groups", "columns"),
    [
        ({"A": ("GENE001", "GENE002", "X")}, WIDE),  # most are there
        ({"A": tuple(f"X{i}" for i in range(90)), "B": ("GENE001",)}, WIDE),  # a table of few genes
        ({"A": ("GENE001", "X", "Y")}, [c.replace("rnaseq", "mut") for c in WIDE]),  # no gene is mutated everywhere
        ({"TP53": ("GENE001", "GENE002"), "GENE003": ("GENE004",)}, WIDE),  # targets of transcription factors
        ({"A": ("X",)}, ()),
    ],
)
def test_groups_without_doubt(groups, columns):
    assert list(find_signature_doubts("s.csv", groups, columns)) == []


@pytest.mark.ci_slow
@pytest.mark.real_data
def test_real_signatures_keep_the_mutations(data_root):
    signatures = read_signatures(data_root / "reference" / "signatures.csv")
    assert [len(symbols) for symbols in signatures.values()] == [82, 328, 513, 443, 1536, 452]
    config = GenomicsTable(file="cohorts/tcga_ucec_mcatfull.csv.gz", bare_columns="mut")
    _, genes = read_genes(config, data_root)
    groups = build_gene_groups(genes.columns, signatures, "signatures")
    assert list(groups) == list(signatures)
    assert len({i for indices in groups.values() for i in indices}) == 1589  # 123 without mutations
    assert list(find_signature_doubts("signatures.csv", signatures, genes.columns)) == []
