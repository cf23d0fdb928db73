"""Compare the scale of expression between two groups of patients: two sites, or a model and new patients.

Expression is written as counts, TPM, FPKM, their logarithm to base 2, e or 10, or z-scores, and a table does not say
which. Two groups on different scales differ in most columns at once and in one direction. Two tumours on one scale
differ in single columns, in both directions. The comparison therefore uses medians over columns.

The bounds stand between what was measured on both sides. The z-scores of four TCGA cohorts (BLCA, BRCA, GBMLGG, LUAD)
differ from each other by a median shift below 0.1 with no column far away; ten patients of one by below 0.5, and a
single patient by below 0.75, from another. Simulated tables of different scales differ by a shift above 1, or in more
than a fifth of the columns. Logarithms to base 2 and e, or TPM and FPKM, differ by up to 0.9 and raise no doubt.

Copy number is not compared: whole chromosome arms change together, and a single patient of a TCGA cohort lies up to 3.2
standard deviations from another cohort in the median column.
"""

from dataclasses import dataclass
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt

from memamba_core.config.agreement import AgreementConfig
from memamba_core.data.agreement import Agreement
from memamba_core.data.genomics.table import continuous_columns
from memamba_core.data.records import Cohort
from memamba_core.data.statistics import ColumnMoments, transform_genes
from memamba_core.errors import AgreementError

__all__ = ["FAR", "ColumnScale", "ScaleDifference", "check_expression", "compare_expression", "compare_scales"]

FloatArray = npt.NDArray[np.float64]

FAR: Final = 5.0
"""Standard deviations beyond which a column is far away; `agreement.scaled_clip` clips scaled values there."""
_FEWEST_COLUMNS: Final = 10  # a median over fewer columns may be that of one pathway
_FEWEST_PATIENTS: Final = 10  # a spread over fewer patients is not known
_SPREAD_FLOOR: Final = 0.3  # as agreement.gene_scale_floor: a gene that is silent everywhere has no spread of its own

_DOUBTFUL_SHIFT, _WRONG_SHIFT = 1.0, 2.0
_DOUBTFUL_SHARE, _WRONG_SHARE = 0.2, 0.3
_DOUBTFUL_RATIO, _WRONG_RATIO = 2.5, 4.0


@dataclass(frozen=True)
class ColumnScale:
    """Location and spread of C columns over some patients, after the transform of the agreement.

    Attributes:
        count: [C], patients with a value; infinite where the number is unknown and large.
        location: [C], mean.
        spread: [C], standard deviation.
    """

    count: FloatArray
    location: FloatArray
    spread: FloatArray

    @classmethod
    def of_moments(cls, moments: ColumnMoments) -> Self:
        """Return the scale that the sums of a site describe."""
        return cls(moments.count, moments.mean, moments.std)

    @classmethod
    def of_values(cls, values_NC: npt.NDArray[Any]) -> Self:
        """Return the scale of transformed values, NaN where not measured."""
        known = ~np.isnan(values_NC)
        count = known.sum(axis=0).astype(np.float64)
        filled = np.where(known, values_NC, 0.0).astype(np.float64)
        mean = filled.sum(axis=0) / np.maximum(count, 1.0)
        m2 = (np.where(known, filled - mean, 0.0) ** 2).sum(axis=0)
        return cls(count, mean, np.sqrt(m2 / np.maximum(count, 1.0)))


@dataclass(frozen=True)
class ScaleDifference:
    """Difference between the scales of two groups of patients.

    Attributes:
        num_columns: columns that both groups measured, without genes that neither expresses.
        shift: median over columns of the difference in location, in standard deviations of the narrower group;
            positive where the first group is higher.
        far: share of columns whose locations differ by more than `FAR` standard deviations.
        ratio: median over columns of the first spread divided by the second; NaN where a group has too few patients.
    """

    num_columns: int
    shift: float
    far: float
    ratio: float

    @property
    def doubtful(self) -> bool:
        """True if the difference is larger than between two tumours on one scale."""
        return self._beyond(_DOUBTFUL_SHIFT, _DOUBTFUL_SHARE, _DOUBTFUL_RATIO)

    @property
    def wrong(self) -> bool:
        """True if the difference is larger than any two groups on one scale can have."""
        return self._beyond(_WRONG_SHIFT, _WRONG_SHARE, _WRONG_RATIO)

    def _beyond(self, shift: float, far: float, ratio: float) -> bool:
        return abs(self.shift) > shift or self.far > far or bool(abs(np.log(self.ratio)) > np.log(ratio))

    def __str__(self) -> str:
        spread = "" if np.isnan(self.ratio) else f", and the typical spread is {self.ratio:.2g} times as large"
        return (
            f"the median of {self.num_columns:,d} columns lies {abs(self.shift):.1f} standard deviations "
            f"{'higher' if self.shift > 0 else 'lower'}, {self.far:.0%} of them lie more than {FAR:g} standard "
            f"deviations away{spread}"
        )


def compare_scales(one: ColumnScale, other: ColumnScale) -> ScaleDifference | None:
    """Compare two groups of patients in the same columns of expression, in the same order.

    Args:
        one: the group in question.
        other: the group to compare with.

    Returns:
        The difference of `one` from `other`; None if both measured fewer than 10 columns, because single genes differ
        between tumours.
    """
    both = (one.count > 0) & (other.count > 0)
    silent = both & _silent(one) & _silent(other)
    if int(both.sum()) - int(silent.sum()) >= _FEWEST_COLUMNS:
        both &= ~silent
    if int(both.sum()) < _FEWEST_COLUMNS:
        return None
    spreads = [
        np.where(group.count[both] >= _FEWEST_PATIENTS, np.maximum(group.spread[both], _SPREAD_FLOOR), np.nan)
        for group in (one, other)
    ]
    narrower = np.nan_to_num(np.fmin(*spreads), nan=_SPREAD_FLOOR)
    shifts = (one.location[both] - other.location[both]) / narrower
    ratios = spreads[0] / spreads[1]
    known = ratios[~np.isnan(ratios)]
    return ScaleDifference(
        num_columns=int(both.sum()),
        shift=float(np.median(shifts)),
        far=float(np.mean(np.abs(shifts) > FAR)),
        ratio=float(np.median(known)) if 2 * len(known) > len(ratios) else float("nan"),
    )


def _silent(group: ColumnScale) -> npt.NDArray[np.bool_]:
    """Return True for genes without expression: zero on every scale, so they say nothing about the scale."""
    return (np.abs(group.location) < _SPREAD_FLOOR) & (group.spread <= _SPREAD_FLOOR)


def compare_expression(patients: Cohort, agreement: Agreement, config: AgreementConfig) -> ScaleDifference | None:
    """Compare the expression of patients with that of the patients behind an agreement.

    Args:
        patients: hold all columns of the agreement.
        agreement: of the model.
        config: settings of the model's run.

    Returns:
        The difference; None without molecular data, with fewer than 10 columns of expression, or if
        `agreement.gene_scaling` is public: then the agreement does not know the scale of its patients.
    """
    rows = [record.gene_row for record in patients.records if record.gene_row is not None]
    if patients.genes is None or not rows or config.gene_scaling == "public":
        return None
    continuous = set(continuous_columns(agreement.gene_columns))
    agreed = [i for i, column in enumerate(agreement.gene_columns) if column in continuous]
    position = {column: i for i, column in enumerate(patients.genes.columns)}
    own = [position[agreement.gene_columns[i]] for i in agreed]
    values_NC = transform_genes(patients.genes.values_NC[np.ix_(rows, own)], config)
    center, scale = agreement.gene_center[agreed], agreement.gene_scale[agreed]
    return compare_scales(ColumnScale.of_values(values_NC), ColumnScale(np.full(len(own), np.inf), center, scale))


def check_expression(patients: Cohort, agreement: Agreement, config: AgreementConfig) -> None:
    """Refuse patients whose expression is on another scale than that of the patients behind an agreement.

    Raises:
        AgreementError: no two groups of patients on one scale differ that much.
    """
    difference = compare_expression(patients, agreement, config)
    if difference is not None and difference.wrong:
        raise AgreementError(
            f"the expression of these patients is on another scale than that of the model's patients: {difference}. "
            "Write the columns _rnaseq as the federation did (counts, TPM, log2, z-scores), or accept the scale "
            "(--accept-scale, accept_scale=True) if the patients really differ that much"
        )
