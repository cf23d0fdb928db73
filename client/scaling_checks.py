"""Check the columns of an agreement: that a strict site declared them, and that their scaling keeps most values.

Scaled values are clipped to +-`agreement.scaled_clip`. With a center far from the mean, nearly all patients lie on the
clip and give a constant, and only the few beyond it would differ: an update would be a sum over these few. A site
therefore compares center and scale with its own mean and deviation over its blocks, which it tells the coordinator
anyway, so that the answer discloses nothing else.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from memamba_core.config.agreement import AgreementConfig
from memamba_core.data.agreement import Agreement
from memamba_core.data.genomics.table import continuous_columns
from memamba_core.data.statistics import ColumnMoments
from memamba_core.wire.protocol import Refusal

from .block_statistics import sum_features, sum_genes
from .session import RefusedError
from .site import Site

__all__ = ["check_columns", "check_scaling"]

FloatArray = npt.NDArray[np.float64]


def check_columns(site: Site, columns: Sequence[str]) -> None:
    """Check that a request names only molecular columns that the site declared.

    A column that the table got after the draw of the blocks is not part of the patients' fingerprints: a block would
    stay in use while one patient's value of it changes.

    Raises:
        RefusedError: another column.
    """
    if other := sorted(set(columns) - set(site.gene_columns)):
        raise RefusedError(
            Refusal.AGREEMENT_FIELD,
            f"{len(other)} of {len(columns)} molecular columns are not among those that this site declares, the first "
            f"is {other[0]!r}; expected columns of the draw. `flower-client cohort refreeze` admits later columns",
        )


def check_scaling(site: Site, fold: int, agreement: Agreement, config: AgreementConfig) -> None:
    """Check that the mean of each scaled column, and a deviation on either side of it, lie within the clip.

    Discrete columns have public constants (`memamba_core.data.agreement_rules`).

    Args:
        site: a strict site without differential privacy.
        fold: test fold of the run.
        agreement: of the coordinator; its columns are among those that the site declared.
        config: settings of the agreement.

    Raises:
        RefusedError: a center or scale clips most of the site's values of a column.
    """
    blocks = site.training_blocks(fold)
    columns = continuous_columns(agreement.gene_columns)
    if columns and config.gene_scaling == "statistics":
        chosen = [agreement.gene_columns.index(column) for column in columns]
        own = sum_genes(site, blocks, columns, config)
        _check("gene", own, agreement.gene_center[chosen], agreement.gene_scale[chosen], config.scaled_clip)
    if len(agreement.feature_center) and config.feature_scaling != "public" and site.cohort.features is not None:
        own = sum_features(site, blocks)
        if len(own.count) == len(agreement.feature_center):  # another width is refused elsewhere
            _check("feature", own, agreement.feature_center, agreement.feature_scale, config.scaled_clip)


def _check(kind: str, own: ColumnMoments, center: FloatArray, scale: FloatArray, clip: float) -> None:
    beyond = (own.count > 0) & (np.abs(own.mean - center) + own.std > clip * scale)
    if beyond.any():
        raise RefusedError(
            Refusal.AGREEMENT_FIELD,
            f"the scaling of {int(beyond.sum())} of {len(beyond)} {kind} columns clips most values of this site at "
            f"agreement.scaled_clip={clip:g}. Another site may have other units, or the coordinator chose the scaling",
        )
