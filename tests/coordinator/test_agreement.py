"""Agreement from declarations and sums: columns, groups, bins, and the digest that all sites then hold."""

import dataclasses

import numpy as np
import pytest

from memamba_core.config.agreement import AgreementConfig
from memamba_core.data.agreement import Agreement
from memamba_core.data.statistics import column_moments, count_events
from memamba_core.errors import AgreementError
from memamba_core.wire.protocol import FactsReply
from server.federation.agreement import (
    build_agreement,
    check_declarations,
    choose_time_bins,
    common_gene_columns,
    scales_features,
)

FACTS = FactsReply(
    site="a",
    time_unit="months",
    event_means="happened",
    encoder="uni_v1@20x",
    feature_width=4,
    feature_columns=(),
    feature_families=(),
    gene_columns=("A_rnaseq", "B_cnv", "C_mut"),
    size_band=25,
    pathology_band=25,
    genomics_band=25,
)
KIND = AgreementConfig(gene_groups="kind")


def facts(site, **changes):
    return FACTS.model_copy(update={"site": site, **changes})


def build(config=KIND, declared=(FACTS,), *, genes=None, edges=(12.0, 24.0, 48.0), features=None):
    columns = common_gene_columns(declared)
    if genes is None:
        genes = column_moments([np.random.default_rng(0).standard_normal((20, len(columns)))], len(columns))
    return build_agreement(
        config,
        declared,
        gene_columns=columns,
        summed=columns,
        genes=genes,
        features=features,
        time_bin_edges=edges,
        signatures=None,
    )


# Declarations


@pytest.mark.parametrize(
    ("change", "remedy"),
    [
        ({"encoder": "ctranspath@20x"}, "site.yaml"),
        ({"feature_width": 8}, "one encoder"),
        ({"feature_columns": ("x", "y", "z", "w")}, "same columns in the same order"),
        ({"feature_families": ("f", "f", "f", "f")}, "same groups_file"),
    ],
)
def test_sites_that_differ_are_named_on_both_sides_with_a_remedy(change, remedy):
    with pytest.raises(AgreementError) as caught:
        check_declarations([facts("north"), facts("south"), facts("west", **change)])
    text = str(caught.value)
    assert "north, south" in text
    assert "west" in text
    assert next(iter(change)) in text
    assert remedy in text


def test_a_site_without_slides_agrees_with_every_encoder():
    check_declarations([facts("a"), facts("b", encoder="", feature_width=0)])


def test_units_and_coding_may_differ():
    check_declarations([facts("a"), facts("b", time_unit="days", event_means="censored")])


def test_columns_in_common_are_kept_in_alphabetical_order():
    declared = [facts("a", gene_columns=("Z_cnv", "A_rnaseq", "Q_mut")), facts("b", gene_columns=("A_rnaseq", "Z_cnv"))]
    assert common_gene_columns(declared) == ("A_rnaseq", "Z_cnv")
    assert common_gene_columns([*declared, facts("c", gene_columns=())]) == ("A_rnaseq", "Z_cnv")


def test_no_common_column_is_an_error_that_names_the_poorest_site():
    declared = [facts("rich"), facts("poor", gene_columns=("D_mut",))]
    with pytest.raises(AgreementError, match=r"no column in common .*fewest at poor: 1"):
        common_gene_columns(declared)


def test_without_molecular_data_anywhere_there_are_no_columns():
    assert common_gene_columns([facts("a", gene_columns=())]) == ()


@pytest.mark.parametrize(
    ("scaling", "columns", "wanted"),
    [
        ("auto", (), False),
        ("auto", ("x",) * 4, True),
        ("zscore", (), True),
        ("none", ("x",) * 4, False),
        ("public", ("x",) * 4, False),
    ],
)
def test_sums_of_features_are_asked_for_where_that_makes_sense(scaling, columns, wanted):
    config = AgreementConfig(feature_scaling=scaling)
    assert scales_features(config, [facts("a", feature_columns=columns)]) is wanted


# Time bins


def test_edges_are_read_off_the_summed_events():
    events = np.zeros(60, dtype=np.int64)
    events[[1, 3, 6, 10]] = 10
    assert choose_time_bins(KIND, events) == (12.0, 24.0, 42.0)


def test_too_few_distinct_edges_are_none():
    events = np.zeros(60, dtype=np.int64)
    events[4] = 3
    assert choose_time_bins(KIND, events) is None


def test_events_are_counted_in_cells_whose_lines_are_the_edges():
    """0.3 // 0.1 is 2: a plain division puts a time on a cell border into the cell before it."""
    config = AgreementConfig(grid_step_months=0.1, grid_num_cells=5)
    counts = count_events([0.0, 0.3, 3 * 0.1, 9.9], [True, False, True, False], config)
    assert counts["event"].tolist() == [1, 0, 0, 1, 0]
    assert counts["censored"].tolist() == [0, 0, 1, 0, 1]
    assert counts["event"].dtype == counts["censored"].dtype == np.int64


def test_nobody_is_counted_as_nobody():
    counts = count_events([], [], KIND)
    assert counts["event"].shape == (60,)
    assert counts["event"].sum() == counts["censored"].sum() == 0


# Columns, groups, scaling


def test_a_constant_column_is_left_out_and_the_indices_follow(caplog):
    values = np.random.default_rng(0).standard_normal((20, 3))
    values[:, 0] = 5.0
    agreement = build(genes=column_moments([values], 3))
    assert agreement.gene_columns == ("B_cnv", "C_mut")
    assert sorted(i for members in agreement.gene_groups.values() for i in members) == [0, 1]
    np.testing.assert_allclose(agreement.gene_center, values[:, 1:].mean(axis=0))
    assert "1 molecular columns are constant" in caplog.text


def test_a_rare_mutation_is_not_blown_up():
    values = np.zeros((1000, 3))
    values[:, :2] = np.random.default_rng(0).standard_normal((1000, 2))
    values[0, 2] = 1.0
    agreement = build(genes=column_moments([values], 3))
    assert agreement.gene_scale[2] == KIND.gene_scale_floor
    assert (agreement.gene_scale[:2] > KIND.gene_scale_floor).all()


def test_families_become_groups_and_a_constant_feature_becomes_zero():
    declared = [facts("a", feature_columns=("p", "q", "r", "s"), feature_families=("x", "y", "x", "y"))]
    rows = np.random.default_rng(0).standard_normal((9, 4))
    rows[:, 3] = 2.0
    agreement = build(declared=declared, features=column_moments([rows], 4))
    assert agreement.feature_groups == {"x": (0, 2), "y": (1, 3)}
    assert agreement.feature_scale[3] == 1.0
    np.testing.assert_allclose(agreement.feature_scale[:3], rows[:, :3].std(axis=0))


@pytest.mark.parametrize(("scaling", "scaled"), [("public", True), ("none", False)])
def test_the_public_scaling_of_a_table_of_features_is_a_constant(scaling, scaled):
    declared = [facts("a", feature_columns=("p", "q", "r", "s"), feature_families=("x", "y", "x", "y"))]
    agreement = build(AgreementConfig(gene_groups="kind", feature_scaling=scaling), declared)
    assert agreement.feature_center.tolist() == [0.0] * 4 * scaled
    assert agreement.feature_scale.tolist() == [3.0] * 4 * scaled  # logs reach 15, scaled values 5


def test_patch_features_are_left_as_they_are_by_the_public_scaling():
    agreement = build(AgreementConfig(gene_groups="kind", feature_scaling="public"), [facts("a", feature_columns=())])
    assert len(agreement.feature_scale) == 0


# The agreement itself

AGREEMENT = Agreement(
    time_bin_edges=(6.0, 12.5),
    gene_columns=("A_rnaseq", "B_cnv"),
    gene_groups={"one": (0,), "two": (0, 1)},
    encoder="uni",
    feature_width=2,
    feature_columns=("p", "q"),
    feature_groups={"f": (0, 1)},
    gene_center=np.array([0.1, 1 / 3]),
    gene_scale=np.array([1.0, 2.0]),
    feature_center=np.array([0.5, 0.25]),
    feature_scale=np.array([1.0, 3.0]),
)
CHANGES = {
    "time_bin_edges": (6.0, 12.0),
    "gene_columns": ("A_rnaseq", "C_cnv"),
    "gene_groups": {"two": (0, 1), "one": (0,)},  # the order of groups is the order of tokens
    "encoder": "ctrans",
    "feature_columns": ("q", "p"),
    "feature_groups": {"f": (0,), "g": (1,)},
    "gene_center": np.array([0.1, np.nextafter(1 / 3, 1)]),
    "gene_scale": np.array([1.0, 2.5]),
    "feature_center": np.array([0.25, 0.5]),
    "feature_scale": np.array([3.0, 1.0]),
}


def test_the_digest_depends_on_every_field():
    changed = {name: dataclasses.replace(AGREEMENT, **{name: value}).digest() for name, value in CHANGES.items()}
    bare = {"feature_columns": (), "feature_center": np.zeros(0), "feature_scale": np.zeros(0)}
    wide = dataclasses.replace(AGREEMENT, feature_width=3, **bare)
    narrow = dataclasses.replace(wide, feature_width=2)
    digests = [AGREEMENT.digest(), *changed.values(), wide.digest(), narrow.digest()]
    assert len(set(digests)) == len(digests)
    assert set(CHANGES) | {"feature_width"} == {f.name for f in dataclasses.fields(Agreement)}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"feature_scale": np.zeros(0)}, "2 and 0 values; expected as many of both, or none"),
        ({"feature_center": np.zeros(0)}, "0 and 2 values; expected as many of both, or none"),
        ({"feature_columns": ("p",)}, "there are 1 feature_columns; expected 2 or none"),
    ],
)
def test_parts_that_do_not_fit_each_other_are_refused(changes, words):
    with pytest.raises(AgreementError, match=words):
        dataclasses.replace(AGREEMENT, **changes)


def test_json_and_arrays_give_the_agreement_back():
    back = Agreement.from_json(AGREEMENT.to_json(), AGREEMENT.scaling())
    assert back.digest() == AGREEMENT.digest()
    assert back.input_spec() == AGREEMENT.input_spec()
    assert list(back.gene_groups) == ["one", "two"]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"encoder":"uni",', ""),
        ('"encoder":"uni"', '"encoder":"uni","note":"x"'),
        ("[6.0,12.5]", "[12.5,6.0]"),
        ("[6.0,12.5]", "[6.0,NaN]"),
        ("[6.0,12.5]", "[6.0,Infinity]"),
        ("[6.0,12.5]", "[]"),
        ("[6.0,12.5]", '["a","b"]'),
        ('{"one":[0]', '{"one":0'),
        ('{"one":[0]', '{"one":["a"]'),
        ('{"one":[0]', '{"one":[Infinity]'),
        ('{"one":[0]', '{"one":[7]'),
        ('{"one":[0]', '{"one":[]'),
        ("}", ""),
    ],
)
def test_json_that_is_no_agreement_is_refused(old, new):
    text = AGREEMENT.to_json()
    assert old in text
    with pytest.raises(AgreementError):
        Agreement.from_json(text.replace(old, new), AGREEMENT.scaling())


@pytest.mark.parametrize("text", ["", "[]", "null", "3"])
def test_other_json_is_refused(text):
    with pytest.raises(AgreementError):
        Agreement.from_json(text, AGREEMENT.scaling())


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("gene-center", np.zeros(3)),
        ("gene-center", np.array([0.0, np.inf])),
        ("gene-scale", np.array([1.0, 0.0])),
        ("feature-scale", np.array([1.0, -1.0])),
        ("feature-center", np.zeros((2, 1))),
        ("surplus", np.zeros(2)),
        ("gene-center", np.array(["a", "b"])),
    ],
)
def test_scaling_that_does_not_fit_is_refused(name, array):
    with pytest.raises(AgreementError):
        Agreement.from_json(AGREEMENT.to_json(), {**AGREEMENT.scaling(), name: array})
