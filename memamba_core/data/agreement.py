"""Agreement of the sites before round 1: time bins, gene columns and groups, scaling.

A site never computes bins or scaling from its own data alone: it sends sums (`memamba_core.data.statistics`), the
coordinator builds one `Agreement` from them (`server.federation.agreement`). Every later message holds its digest.
"""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from memamba_core.errors import AgreementError
from memamba_core.patient import InputSpec

__all__ = ["Agreement"]

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Agreement:
    """Time bins, columns and scaling that all sites work with; identified by `digest`.

    Attributes:
        time_bin_edges: the K-1 inner edges in months, ascending.
        gene_columns: the columns in the order of `PatientInputs.genes_C`.
        gene_groups: group name -> indices into `gene_columns`.
        encoder: declared encoder of the features, "" without slides.
        feature_width: width of a feature row, 0 without slides.
        feature_columns: names of the columns of a slide-level table, empty for patch features.
        feature_groups: family name -> indices into those columns; empty where a row is one token.
        gene_center, gene_scale: of transformed gene values.
        feature_center, feature_scale: of features; empty where they are not scaled.
    """

    time_bin_edges: tuple[float, ...]
    gene_columns: tuple[str, ...] = ()
    gene_groups: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    encoder: str = ""
    feature_width: int = 0
    feature_columns: tuple[str, ...] = ()
    feature_groups: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    gene_center: FloatArray = field(default_factory=lambda: np.zeros(0))
    gene_scale: FloatArray = field(default_factory=lambda: np.zeros(0))
    feature_center: FloatArray = field(default_factory=lambda: np.zeros(0))
    feature_scale: FloatArray = field(default_factory=lambda: np.zeros(0))

    def __post_init__(self) -> None:
        for name, array, allowed in (
            ("gene_center", self.gene_center, {len(self.gene_columns)}),
            ("gene_scale", self.gene_scale, {len(self.gene_columns)}),
            ("feature_center", self.feature_center, {0, self.feature_width}),
            ("feature_scale", self.feature_scale, {0, self.feature_width}),
        ):
            if array.shape not in {(n,) for n in allowed}:
                raise AgreementError(f"{name} has shape {array.shape}, expected one of the lengths {sorted(allowed)}")
            if not np.isfinite(array).all() or (name.endswith("scale") and (array <= 0).any()):
                raise AgreementError(f"{name} holds values that are not finite, or a scale that is not positive")
        if len(set(self.gene_columns)) < len(self.gene_columns):
            raise AgreementError("gene_columns names a column twice; expected each column once")
        if self.feature_center.shape != self.feature_scale.shape:
            lengths = f"{len(self.feature_center)} and {len(self.feature_scale)}"
            raise AgreementError(
                f"feature_center and feature_scale have {lengths} values; expected as many of both, or none"
            )
        if len(self.feature_columns) not in (0, self.feature_width):
            raise AgreementError(
                f"there are {len(self.feature_columns)} feature_columns; expected {self.feature_width} or none"
            )
        edges = self.time_bin_edges
        if not edges or not all(a < b < math.inf for a, b in zip((0.0, *edges), edges, strict=False)):
            raise AgreementError(f"time_bin_edges must be positive, finite and ascending, got {list(edges)}")
        self.input_spec()

    def input_spec(self) -> InputSpec:
        """Return the sizes that the model is built for."""
        return InputSpec(
            num_bins=len(self.time_bin_edges) + 1,
            num_genes=len(self.gene_columns),
            gene_groups=self.gene_groups,
            feature_width=self.feature_width,
            feature_groups=self.feature_groups,
        )

    def scaling(self) -> dict[str, FloatArray]:
        """Return the arrays by the names that they have in a message."""
        return {
            "gene-center": self.gene_center,
            "gene-scale": self.gene_scale,
            "feature-center": self.feature_center,
            "feature-scale": self.feature_scale,
        }

    def to_json(self) -> str:
        """Return everything but the arrays as canonical JSON."""
        plain: dict[str, Any] = {
            "time_bin_edges": self.time_bin_edges,
            "gene_columns": self.gene_columns,
            "gene_groups": self.gene_groups,
            "encoder": self.encoder,
            "feature_width": self.feature_width,
            "feature_columns": self.feature_columns,
            "feature_groups": self.feature_groups,
        }
        return json.dumps(plain, separators=(",", ":"))  # groups are not sorted: their order is the order of tokens

    @classmethod
    def from_json(cls, text: str, scaling: Mapping[str, npt.NDArray[Any]]) -> Self:
        """Build the agreement from the results of `to_json` and `scaling`.

        Raises:
            AgreementError: a field is missing, unknown or does not fit the others.
        """
        try:
            values: dict[str, Any] = json.loads(text)
            for name in ("gene_groups", "feature_groups"):
                values[name] = {g: tuple(int(i) for i in columns) for g, columns in values[name].items()}
            for name in ("time_bin_edges", "gene_columns", "feature_columns"):
                values[name] = tuple(values[name])
            for name, array in scaling.items():
                values[name.replace("-", "_")] = np.asarray(array, dtype=np.float64)
            if missing := sorted({f.name for f in fields(cls)} - set(values)):
                raise AgreementError(f"the agreement does not have the agreed fields: {missing} missing")
            return cls(**values)
        except AgreementError:
            raise
        except (
            KeyError,
            TypeError,
            AttributeError,
            ValueError,
            OverflowError,
        ) as error:  # the JSON may be of any shape
            raise AgreementError(f"the agreement does not have the agreed fields: {error}") from None

    def digest(self) -> str:
        """Return the SHA-256 (hex) over the fields and the scaling."""
        return self._digest

    @cached_property
    def _digest(self) -> str:
        sha = hashlib.sha256(self.to_json().encode())
        for name, array in self.scaling().items():
            sha.update(name.encode())
            sha.update(np.ascontiguousarray(array, dtype="<f8").tobytes())
        return sha.hexdigest()
