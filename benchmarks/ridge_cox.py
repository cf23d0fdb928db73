"""Cox regression with a ridge penalty on principal components, its settings chosen on its own training patients.

The number of components and the strength of the penalty are chosen by five-fold cross-validated partial likelihood
(Verweij & van Houwelingen, Stat Med 1993). Scaling and components are fitted again in each inner fold.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from sklearn.decomposition import PCA
from sklearn.model_selection import StratifiedKFold
from sksurv.linear_model import CoxnetSurvivalAnalysis
from sksurv.util import Surv

from memamba_core.data.statistics import column_moments

__all__ = [
    "COMPONENTS",
    "INNER_FOLDS",
    "PENALTIES",
    "SEED",
    "Block",
    "RidgeCox",
    "choose_settings",
    "fit_ridge_cox",
    "partial_log_likelihood",
]

COMPONENTS = (4, 8, 16, 32, 64, 128)
"""Numbers of principal components to choose from; numbers above the rank of the inner training data are not tried."""
PENALTIES = tuple(float(p) for p in np.geomspace(10.0, 1e-4, 21))
"""Ridge penalties to choose from, per patient: `-loglik / n + penalty / 2 * |beta|^2`, on scores whose first component
has variance 1."""
INNER_FOLDS = 5
SEED = 0
"""Seed of the inner folds."""
_ALMOST_RIDGE = 1e-6  # scikit-survival's path solver requires an L1 share above zero; this one changes no printed digit

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Block:
    """The columns of one modality, transformed but not scaled.

    Attributes:
        values_NC: one row per patient; NaN for values that were not measured.
        scale_floor: lower bound of the standard deviation by which a column is divided.
        clip: bound of the absolute scaled values.
    """

    values_NC: FloatArray
    scale_floor: float = 0.0
    clip: float = 5.0

    def rows(self, index: npt.NDArray[Any]) -> Self:
        """Return the block of some of the patients."""
        return type(self)(self.values_NC[index], self.scale_floor, self.clip)


@dataclass(frozen=True)
class Projection:
    """Scaling and principal components of a block, fitted on some patients and applied to any."""

    center: FloatArray
    scale: FloatArray
    axes_KC: FloatArray
    unit: float

    def scores(self, block: Block) -> FloatArray:
        """Return scores on the components [n, K], in standard deviations of the first one among the fitted patients."""
        return _scale(block, self.center, self.scale) @ self.axes_KC.T / self.unit


def fit_projection(block: Block) -> Projection:
    """Learn centre, scale and the first `max(COMPONENTS)` principal components of the patients in `block`."""
    moments = column_moments([block.values_NC], block.values_NC.shape[1])
    scale = np.where(moments.std > 1e-6, np.maximum(moments.std, block.scale_floor), 1.0)  # constant columns stay zero
    scaled = _scale(block, moments.mean, scale)
    pca = PCA(min(max(COMPONENTS), *scaled.shape), svd_solver="full").fit(scaled)
    # The mean of clipped values is not quite zero; PCA's own centring shifts all scores, which does not affect Cox.
    return Projection(moments.mean, scale, pca.components_, float(np.sqrt(pca.explained_variance_[0])))


def _scale(block: Block, center: FloatArray, scale: FloatArray) -> FloatArray:
    """Compute clipped z-scores; values that were not measured become the mean."""
    return np.nan_to_num(np.clip((block.values_NC - center) / scale, -block.clip, block.clip), nan=0.0)


@dataclass(frozen=True)
class RidgeCox:
    """A fitted ridge Cox regression on the principal components of one or more blocks.

    Attributes:
        projections: one per block.
        num_components: number of components of each block.
        penalty: chosen or given penalty.
        coefficients: coefficients of the joined scores.
    """

    projections: tuple[Projection, ...]
    num_components: int
    penalty: float
    coefficients: FloatArray

    def risk(self, blocks: Sequence[Block]) -> FloatArray:
        """Return the log hazard ratio of each patient; higher is worse."""
        return _join([p.scores(b) for p, b in zip(self.projections, blocks, strict=True)], self.num_components) @ (
            self.coefficients
        )


def fit_ridge_cox(
    blocks: Sequence[Block],
    time_months: FloatArray,
    event: BoolArray,
    *,
    components: Sequence[int] = COMPONENTS,
    penalties: Sequence[float] = PENALTIES,
) -> RidgeCox:
    """Choose the number of components and the penalty on these patients alone, then fit on all of them.

    Args:
        blocks: one per modality, the same patients in each. Each has its own components, so that three thousand genes
            do not outweigh six hundred features of slides.
        time_months: follow-up in months.
        event: True if the event happened at that time.
        components: numbers to choose from; a single number is used without a choice.
        penalties: descending penalties to choose from; a single one is used without a choice.
    """
    if len(components) * len(penalties) > 1:
        num, penalty = choose_settings(blocks, time_months, event, components=components, penalties=penalties)
    else:
        num, penalty = components[0], penalties[0]
    projections = tuple(fit_projection(block) for block in blocks)
    scores = _join([p.scores(b) for p, b in zip(projections, blocks, strict=True)], num)
    return RidgeCox(projections, num, penalty, _fit_path(scores, time_months, event, [penalty])[:, 0])


def choose_settings(
    blocks: Sequence[Block],
    time_months: FloatArray,
    event: BoolArray,
    *,
    components: Sequence[int] = COMPONENTS,
    penalties: Sequence[float] = PENALTIES,
) -> tuple[int, float]:
    """Choose the number of components and the penalty with the best cross-validated partial likelihood.

    A fold that is left out counts with its contribution: the likelihood of all patients minus that of all patients
    outside of the fold, both with coefficients fitted without the fold. Unlike a C-index within small folds, this uses
    every pair. Ties go to fewer components and the stronger penalty.
    """
    inner = StratifiedKFold(INNER_FOLDS, shuffle=True, random_state=SEED)
    gains = np.zeros((len(components), len(penalties)))
    for fit, _ in inner.split(np.zeros(len(event)), event):
        projections = [fit_projection(block.rows(fit)) for block in blocks]
        scores = [p.scores(b) for p, b in zip(projections, blocks, strict=True)]
        most = max(s.shape[1] for s in scores)
        for i, num in enumerate(components):
            if num > most:
                gains[i] = -np.inf
                continue
            joined = _join(scores, num)
            path = _fit_path(joined[fit], time_months[fit], event[fit], penalties)
            for j, risk in enumerate((joined @ path).T):
                total = partial_log_likelihood(risk, time_months, event)
                gains[i, j] += total - partial_log_likelihood(risk[fit], time_months[fit], event[fit])
    best, strength = divmod(int(gains.argmax()), len(penalties))
    return components[best], penalties[strength]


def partial_log_likelihood(risk: FloatArray, time_months: FloatArray, event: BoolArray) -> float:
    """Compute Cox's log partial likelihood of log hazard ratios, with ties as in Breslow."""
    order = np.argsort(-time_months, kind="stable")
    risk, times, event = risk[order], time_months[order], event[order]
    at_risk = np.logaddexp.accumulate(risk)
    last_tied = np.searchsorted(-times, -times, side="right") - 1  # all patients with the same time are at risk
    return float((risk - at_risk[last_tied])[event].sum())


def _join(scores: Sequence[FloatArray], num_components: int) -> FloatArray:
    """Join the first components of all blocks as columns."""
    return np.concatenate([s[:, :num_components] for s in scores], axis=1)


def _fit_path(
    scores_NK: FloatArray, time_months: FloatArray, event: BoolArray, penalties: Sequence[float]
) -> FloatArray:
    """Fit coefficients [K, number of penalties]; each fit starts from the one with the next stronger penalty."""
    model = CoxnetSurvivalAnalysis(l1_ratio=_ALMOST_RIDGE, alphas=list(penalties), tol=1e-9)
    model.fit(scores_NK, Surv.from_arrays(event, time_months))
    path = np.asarray(model.coef_, dtype=np.float64)
    # The solver stops when a weaker penalty no longer changes the fit; the last fit stands for the others.
    return np.pad(path, ((0, 0), (0, len(penalties) - path.shape[1])), mode="edge")
