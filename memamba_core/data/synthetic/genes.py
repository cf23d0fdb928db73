"""Draw the genes of a generated cohort: columns, groups, and the scores that may carry risk."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from memamba_core.config.simulation import SyntheticConfig

__all__ = ["NUM_GROUPS", "GeneratedGenes", "draw_genes", "gene_groups", "without_direction"]

FloatArray = npt.NDArray[np.float64]

NUM_GROUPS = 6
_NUM_DRIVERS = 3  # genes of a group that make its score
_COEXPRESSION = 0.5  # correlation of the expression of two genes of a group


@dataclass(frozen=True)
class GeneratedGenes:
    """Molecular measurements of all patients, also of those whose genes count as missing.

    Attributes:
        columns: names, `SYMBOL_rnaseq`, `SYMBOL_cnv`, `SYMBOL_mut`.
        values_NC: measurements.
        scores_NG: score of each planted group, mean 0, variance 1, independent of each other.
        driver_columns: the columns that make the scores.
    """

    columns: tuple[str, ...]
    values_NC: npt.NDArray[np.float32]
    scores_NG: FloatArray
    driver_columns: tuple[str, ...]


def gene_groups(symbols: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    """Cut the symbols into six groups; each but the last also holds the first symbol of the next."""
    edges = _group_edges(len(symbols))
    return {f"Pathway {g + 1}": symbols[edges[g] : edges[g + 1] + (g + 1 < NUM_GROUPS)] for g in range(NUM_GROUPS)}


def draw_genes(
    config: SyntheticConfig,
    symbols: tuple[str, ...],
    site_N: npt.NDArray[np.int64],
    num_planted: int,
    rng: np.random.Generator,
) -> GeneratedGenes:
    """Draw the genes of all patients; the first `num_planted` groups have a score.

    Expression is normal, and genes of a group are correlated. Copy number (of every third symbol) is -2...2, a mutation
    (of every sixth) 0 or 1; both carry no information on the risk.
    """
    num = config.num_patients
    group_C = np.searchsorted(_group_edges(len(symbols))[1:], np.arange(len(symbols)), side="right")
    pathway_NG = rng.standard_normal((num, NUM_GROUPS))
    own_NC = rng.standard_normal((num, len(symbols)))
    rna_NC = np.sqrt(_COEXPRESSION) * pathway_NG[:, group_C] + np.sqrt(1 - _COEXPRESSION) * own_NC
    with_cnv, with_mut = symbols[::3], symbols[::6]
    cnv_NC = rng.choice([-2.0, -1.0, 0.0, 1.0, 2.0], p=[0.05, 0.15, 0.6, 0.15, 0.05], size=(num, len(with_cnv)))
    mut_NC = (rng.random((num, len(with_mut))) < 0.15).astype(np.float64)

    shift_SC = config.batch_effect * rng.standard_normal((config.num_sites, len(symbols)))
    scores, drivers = [], list[int]()
    for group in range(num_planted):
        chosen = np.flatnonzero(group_C == group)[:_NUM_DRIVERS]
        direction_C = np.zeros(len(symbols))
        direction_C[chosen] = 1 / np.sqrt(len(chosen))
        shift_SC = without_direction(shift_SC, direction_C)
        scores.append(rna_NC @ direction_C / np.sqrt(1 + (len(chosen) - 1) * _COEXPRESSION))
        drivers += chosen.tolist()

    columns = (
        *(f"{s}_rnaseq" for s in symbols),
        *(f"{s}_cnv" for s in with_cnv),
        *(f"{s}_mut" for s in with_mut),
    )
    values_NC = np.concatenate([rna_NC + shift_SC[site_N], cnv_NC, mut_NC], axis=1).astype(np.float32)
    return GeneratedGenes(columns, values_NC, np.stack(scores, axis=1), tuple(columns[c] for c in drivers))


def without_direction(rows: FloatArray, direction: FloatArray) -> FloatArray:
    """Return the rows without their part along a unit vector."""
    return rows - np.outer(rows @ direction, direction)


def _group_edges(num_symbols: int) -> list[int]:
    """Return the index at which each group of symbols begins, and the end of the last."""
    return [num_symbols * g // NUM_GROUPS for g in range(NUM_GROUPS + 1)]
