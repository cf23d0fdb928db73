"""Cox regression with a ridge penalty on principal components, its settings chosen on its own training patients.

How many components and how strong a penalty is decided by five-fold cross-validated partial likelihood (Verweij & van
Houwelingen, Stat Med 1993): the inner folds go through scaling and components again.
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
"""Numbers of principal components to choose from; those above what the inner training patients span are not tried."""
PENALTIES = tuple(float(p) for p in np.geomspace(10.0, 1e-4, 21))
"""Ridge penalties to choose from, per patient: `-loglik / n + penalty / 2 * |beta|^2`, on scores whose first component
has variance 1."""
INNER_FOLDS = 5
SEED = 0
"""Of the inner folds."""
_ALMOST_RIDGE = 1e-6  # scikit-survival's path solver wants an L1 share above zero; this one changes no digit shown

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Block:
    """The columns of one modality, transformed but not scaled.

    Attributes:
        values_NC: one row per patient; NaN where not measured.
        scale_floor: lower bound of the standard deviation by which a column is divided.
        clip: scaled values are clipped to +-this.
    """

    values_NC: FloatArray
    scale_floor: float = 0.0
    clip: float = 5.0

    def rows(self, index: npt.NDArray[Any]) -> Self:
        """Some of the patients."""
        return type(self)(self.values_NC[index], self.scale_floor, self.clip)


@dataclass(frozen=True)
class Projection:
    """Scaling and principal components of a block, fitted on some patients and applied to any."""

    center: FloatArray
    scale: FloatArray
    axes_KC: FloatArray
    unit: float

    def scores(self, block: Block) -> FloatArray:
        """Scores on the components [n, K], in units of the first one's standard deviation among the fitted."""
        return _scale(block, self.center, self.scale) @ self.axes_KC.T / self.unit


def fit_projection(block: Block) -> Projection:
    """Learn centre, scale and the first `max(COMPONENTS)` principal components of the patients in `block`."""
    moments = column_moments([block.values_NC], block.values_NC.shape[1])
    scale = np.where(moments.std > 1e-6, np.maximum(moments.std, block.scale_floor), 1.0)  # constant columns stay zero
    scaled = _scale(block, moments.mean, scale)
    pca = PCA(min(max(COMPONENTS), *scaled.shape), svd_solver="full").fit(scaled)
    # The mean of clipped values is not quite zero; PCA's own centring only shifts all scores, which Cox does not see.
    return Projection(moments.mean, scale, pca.components_, float(np.sqrt(pca.explained_variance_[0])))


def _scale(block: Block, center: FloatArray, scale: FloatArray) -> FloatArray:
    """Z-scores, clipped; what was not measured becomes the mean."""
    return np.nan_to_num(np.clip((block.values_NC - center) / scale, -block.clip, block.clip), nan=0.0)


@dataclass(frozen=True)
class RidgeCox:
    """A fitted ridge Cox regression on the principal components of one or more blocks.

    Attributes:
        projections: one per block.
        num_components: of each block.
        penalty: chosen or given.
        coefficients: of the joined scores.
    """

    projections: tuple[Projection, ...]
    num_components: int
    penalty: float
    coefficients: FloatArray

    def risk(self, blocks: Sequence[Block]) -> FloatArray:
        """Log hazard ratio of each patient; higher is worse."""
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
        blocks: one per modality, the same patients in each. Each keeps its own components, so that three thousand
            genes do not drown six hundred features of slides.
        time_months: follow-up.
        event: True: it happened at that time.
        components: numbers to choose from; one number is not chosen but used.
        penalties: descending penalties to choose from; one likewise.
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
    """Number of components and penalty with the best cross-validated partial likelihood.

    Of a fold left out it counts what the fold adds: the likelihood of everybody less that of everybody else, both
    with coefficients that have not seen the fold. Unlike a C-index inside small folds it uses every pair. Ties go to
    fewer components and the stronger penalty.
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
                everybody = partial_log_likelihood(risk, time_months, event)
                gains[i, j] += everybody - partial_log_likelihood(risk[fit], time_months[fit], event[fit])
    best, strength = divmod(int(gains.argmax()), len(penalties))
    return components[best], penalties[strength]


def partial_log_likelihood(risk: FloatArray, time_months: FloatArray, event: BoolArray) -> float:
    """Cox's log partial likelihood of log hazard ratios, ties as in Breslow."""
    order = np.argsort(-time_months, kind="stable")
    risk, times, event = risk[order], time_months[order], event[order]
    at_risk = np.logaddexp.accumulate(risk)
    last_tied = np.searchsorted(-times, -times, side="right") - 1  # everybody with the same time is at risk
    return float((risk - at_risk[last_tied])[event].sum())


def _join(scores: Sequence[FloatArray], num_components: int) -> FloatArray:
    """The first components of each block side by side."""
    return np.concatenate([s[:, :num_components] for s in scores], axis=1)


def _fit_path(
    scores_NK: FloatArray, time_months: FloatArray, event: BoolArray, penalties: Sequence[float]
) -> FloatArray:
    """Coefficients [K, number of penalties]; each fit starts from the one before, with the stronger penalty."""
    model = CoxnetSurvivalAnalysis(l1_ratio=_ALMOST_RIDGE, alphas=list(penalties), tol=1e-9)
    model.fit(scores_NK, Surv.from_arrays(event, time_months))
    path = np.asarray(model.coef_, dtype=np.float64)
    # The solver stops where a weaker penalty no longer changes the fit; the last one stands for the rest.
    return np.pad(path, ((0, 0), (0, len(penalties) - path.shape[1])), mode="edge")
