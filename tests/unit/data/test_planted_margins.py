"""Use of scans and the synergistic expert: on risk that only they can find, they win by a margin over seeds.

The settings are those of `benchmarks/results.py planted`, so that docs/results/survival.md and this test
speak of the same runs.
"""

import numpy as np
import pytest

from memamba_core.config.compose import compose_simulation
from simulation.run import simulate

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]  # four runs each, a minute or two apiece


@pytest.fixture(scope="module")
def reached(benchmarks, tmp_path_factory):
    """C-index of a setting by seed, with the best reachable on the same patients."""
    study = benchmarks("studies").STUDIES["planted"]
    by_label = {setting.label: setting for setting in study.settings}

    def run(label: str) -> tuple[np.ndarray, float]:
        indices = []
        for seed in (0, 1):
            merged = dict(o.split("=", 1) for o in (*study.base, *by_label[label].overrides))
            overrides = ("data=synthetic", f"seed={seed}", "threads=1", *(f"{k}={v}" for k, v in merged.items()))
            folder = tmp_path_factory.mktemp("run") / "out"
            summary = simulate(compose_simulation((*overrides, f"output_dir={folder}")), overrides).summary
            indices.append(summary.c_index.pooled.mean)
        return np.array(indices), summary.oracle_c_index

    return run


def test_only_a_scan_sees_the_order_of_patches(reached):
    (scanned, oracle), (pooled, _) = reached("order, conventional scan"), reached("order, no scan")
    assert scanned.mean() > oracle - 0.1
    assert pooled.mean() == pytest.approx(0.5, abs=0.07)
    assert (scanned - pooled).min() > 0.1


def test_the_synergistic_expert_sees_which_patches_go_with_which_genes(reached):
    together, _ = reached("correspondence, three experts")
    side_by_side, _ = reached("correspondence, no synergistic expert")
    assert (together - side_by_side).min() > 0.03
    assert (together - side_by_side).mean() > 0.06
