"""The figures: valid PNGs for ordinary and for degenerate inputs, without a warning."""

import subprocess
import sys
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.image import imread

from memamba_core.figures.learning_curves import draw_learning_curves, draw_rounds
from simulation.figures.comparison import draw_comparison
from simulation.figures.sites import SiteBar, draw_site_bars
from simulation.figures.survival import draw_kaplan_meier


def _assert_png(path: Path) -> None:
    pixels = imread(path)  # refuses a damaged file
    assert path.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    height, width = pixels.shape[:2]
    assert min(height, width) > 250
    # Nothing runs over the edge: a clipped label would leave ink in the outermost pixels.
    ink = pixels[..., :3].min(axis=2) < 0.95
    assert ink.any()
    ink[2:-2, 2:-2] = False
    assert not ink.any()
    assert [file.name for file in path.parent.iterdir()] == [path.name]  # no partial file is left


def _patients(num: int):
    rng = np.random.default_rng(0)
    risk = rng.normal(-2, 0.4, size=num)
    happens, leaves = rng.exponential(35 * np.exp(-2 - risk)), rng.exponential(45, size=num)
    return np.minimum(happens, leaves), happens <= leaves, risk


@pytest.mark.parametrize(
    ("rounds", "train_loss", "holdout"),
    [
        pytest.param(range(1, 31), [2 / r for r in range(1, 31)], None, id="training only", marks=pytest.mark.ci_slow),
        pytest.param(
            [1, 2, 3, 4],
            [2.0, None, 1.5, 1.4],
            {"c_index_within_site": [None, 0.5, None, 0.6], "holdout_loss": [2.1, 2.0, None, 1.9]},
            id="gaps",
        ),
        pytest.param([1], [1.2], {"c_index_histogram": [0.5]}, id="one round", marks=pytest.mark.ci_slow),
        pytest.param([1, 2], [None, None], {"c_index_histogram": [None, None]}, id="nothing disclosed"),
        pytest.param([], [], None, id="no round", marks=pytest.mark.ci_slow),
    ],
)
def test_learning_curves(tmp_path, rounds, train_loss, holdout):
    draw_learning_curves(tmp_path / "curves.png", list(rounds), train_loss, holdout, "BLCA, fold 0")
    _assert_png(tmp_path / "curves.png")


def test_the_rounds_of_a_run_are_drawn_with_those_that_failed(tmp_path):
    outcome = {"trained": {"head": 40}, "train_loss": 1.5, "incoming": {"num_patients": None}}
    lines = [{"fold": -1, "round": r, "site": site, **outcome} for r in (1, 2) for site in ("county", "mercy")]
    lines[3] = {"fold": -1, "round": 2, "site": "mercy", "failure": "no answer", "code": 0}
    draw_rounds(tmp_path / "curves.png", lines, "first, 2 sites")
    _assert_png(tmp_path / "curves.png")


def test_rounds_in_which_nothing_was_told_are_not_drawn(tmp_path):
    """Under differential privacy."""
    outcome = {"trained": {"head": 40}, "train_loss": None, "incoming": {"num_patients": None}}
    draw_rounds(tmp_path / "curves.png", [{"fold": 0, "round": 1, "site": "county", **outcome}], "first, 1 site")
    draw_rounds(tmp_path / "curves.png", [{"fold": 0, "round": 1, "site": "county", "failure": "no"}], "first")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "case",
    [
        *("ordinary", "mostly tied risk", "no patient"),
        *(
            pytest.param(c, marks=pytest.mark.ci_slow)
            for c in ("no event", "all events", "equal risk", "two patients", "one")
        ),
    ],
)
def test_kaplan_meier(tmp_path, case):
    num = {"two patients": 2, "one": 1, "no patient": 0}.get(case, 80)
    time_months, event, risk = _patients(num)
    if case in ("no event", "all events"):
        event = np.full(num, case == "all events")
    if case in ("equal risk", "mostly tied risk"):
        risk = np.full(num, -2.0)
        risk[0] -= case == "mostly tied risk"
    draw_kaplan_meier(tmp_path / "km.png", time_months, event, risk, "BLCA, federated")
    _assert_png(tmp_path / "km.png")


@pytest.mark.parametrize(
    ("num_sites", "overall"),
    [
        *((0, None), (3, 0.68), (35, 0.97)),
        *(pytest.param(*pair, marks=pytest.mark.ci_slow) for pair in ((0, 0.7), (1, 0.51), (3, 0.3))),
    ],
)
def test_site_bars(tmp_path, num_sites, overall):
    rng = np.random.default_rng(1)
    sites = [
        SiteBar(
            f"University Hospital of a Town with a Long Name {i:02d}",
            num_patients=int(patients),
            num_events=int(patients) // 3,
            num_pairs=int(patients) ** 2 // 4,
            c_index=float(rng.uniform(0.2, 1.0)) if patients > 12 else None,
        )
        for i, patients in enumerate(rng.integers(3, 400, size=num_sites))
    ]
    draw_site_bars(tmp_path / "sites.png", sites, overall)
    _assert_png(tmp_path / "sites.png")


@pytest.mark.parametrize(
    ("table", "oracle"),
    [
        pytest.param(
            {
                "federated": [0.66, 0.7, 0.63],
                "pooled": [0.67, 0.71, 0.65],
                "local (mean over sites)": [0.57, 0.6, 0.5],
            },
            0.78,
            id="ordinary",
            marks=pytest.mark.ci_slow,
        ),
        pytest.param({"federated": [0.66], "pooled": [0.64]}, None, id="one fold", marks=pytest.mark.ci_slow),
        pytest.param({"federated": [0.66, None, 0.7], "local": [None, None, 0.4]}, None, id="gaps"),
        pytest.param({"federated": [0.5, 0.5]}, 0.5, id="all the same", marks=pytest.mark.ci_slow),
        pytest.param({"federated": [None], "local": []}, 0.8, id="no index"),
        pytest.param({}, None, id="no method", marks=pytest.mark.ci_slow),
    ],
)
def test_comparison(tmp_path, table, oracle):
    draw_comparison(tmp_path / "comparison.png", table, oracle)
    _assert_png(tmp_path / "comparison.png")


def test_the_same_data_give_the_same_bytes_whatever_the_users_style(tmp_path):
    path = tmp_path / "comparison.png"
    draw_comparison(path, {"federated": [0.6, 0.7]}, None)
    first = path.read_bytes()
    with mpl.rc_context({"font.size": 20, "axes.facecolor": "black", "figure.facecolor": "black", "grid.color": "red"}):
        before = dict(mpl.rcParams)
        draw_comparison(path, {"federated": [0.6, 0.7]}, None)
        assert dict(mpl.rcParams) == before
    assert path.read_bytes() == first


def test_a_figure_that_fails_leaves_the_old_file(tmp_path):
    path = tmp_path / "curves.png"
    path.write_bytes(b"old")
    with pytest.raises(ValueError, match="dimension"):
        draw_learning_curves(path, [1, 2], [1.0], None, "lengths differ")
    assert path.read_bytes() == b"old"
    assert [file.name for file in tmp_path.iterdir()] == ["curves.png"]


def test_importing_it_loads_no_drawing_library():
    heavy = {"matplotlib", "lifelines", "torch"}
    figures = ", ".join(f"simulation.figures.{name}" for name in ("comparison", "sites", "survival"))
    code = f"import sys, memamba_core.figures.learning_curves, {figures}; print({heavy} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "set()"
