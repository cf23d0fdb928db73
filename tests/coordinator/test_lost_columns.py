"""Molecular columns that one site takes from all: named by site, in the result."""

import pytest

from memamba_core.wire.protocol import FactsReply
from server.federation.lost_columns import find_lost_columns

GENES = tuple(f"GENE{index:03d}_rnaseq" for index in range(20))
NOTHING = FactsReply(
    site="",
    time_unit="months",
    event_means="happened",
    encoder="",
    feature_width=0,
    feature_columns=(),
    feature_families=(),
    gene_columns=(),
    size_band=25,
    pathology_band=0,
    genomics_band=25,
)


def find(**columns):
    return find_lost_columns([NOTHING.model_copy(update={"site": s, "gene_columns": c}) for s, c in columns.items()])


def test_sites_with_the_same_columns_lose_none():
    assert find(a=GENES, b=tuple(reversed(GENES)), c=()) == []
    assert find(a=GENES) == []


def test_two_sites_are_named_with_the_columns_that_each_lacks(caplog):
    damaged = ("1-Mar_rnaseq", "GENE.001_rnaseq", *GENES[2:])
    north, south = find(south=damaged, north=GENES)
    assert north.startswith("north: 2 molecular columns that other sites have are absent: '1-Mar_rnaseq', ")
    assert south.startswith("south: 2 molecular columns that other sites have are absent: 'GENE000_rnaseq', 'GENE001")
    assert "1 differs in case or separators only: 'GENE.001_rnaseq' for 'GENE001_rnaseq'" in south
    assert "4 of 22 molecular columns are not at every site and are left out of the model" in south
    assert south in caplog.text


def test_among_several_sites_the_one_that_differs_is_named_and_no_other():
    damaged = ("1-Mar_rnaseq", "2-Sep_rnaseq", *GENES[2:])
    (warning,) = find(a=GENES, b=GENES, odd=damaged, z=GENES)
    assert warning.startswith("odd: 2 molecular columns that other sites have are absent: 'GENE000_rnaseq', ")
    assert "2 molecular columns only this site has: '1-Mar_rnaseq', '2-Sep_rnaseq'" in warning


def test_a_richer_table_is_named_as_such():
    (warning,) = find(a=GENES, b=GENES, rich=(*GENES, "MORE_cnv"))
    assert warning.startswith("rich: 1 molecular column only this site has: 'MORE_cnv'. 1 of 21 ")


def test_many_columns_are_counted_and_ten_of_them_named():
    (text,) = find(a=GENES[:1], b=GENES)
    assert text.startswith("a: 19 molecular columns that other sites have are absent: ")
    assert text.count("GENE") == 10
    assert ", ..." in text


@pytest.mark.parametrize(
    ("own", "usual"),
    [
        ("TP53_RNASEQ", "TP53_rnaseq"),
        ("tp53_rnaseq", "TP53_rnaseq"),
        ("HLA.A_rnaseq", "HLA-A_rnaseq"),
        ("TP53 _rnaseq", "TP53_rnaseq"),
        ("ENSG00000141510.17_rnaseq", "ENSG00000141510_rnaseq"),
    ],
)
def test_another_spelling_is_paired(own, usual):
    _, text = find(a=(*GENES, usual), b=(*GENES, own))
    assert f"{own!r} for {usual!r}" in text


def test_a_name_from_a_site_is_quoted():
    text = find(a=GENES, b=(*GENES, "A\x1b[2J_cnv" + "x" * 100))[-1]
    assert "\x1b" not in text
    assert "x" * 61 not in text
