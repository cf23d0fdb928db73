"""Patient types: a bag of patches, a vector of genes, and a survival outcome.

`data` reads patients, `model` computes with them and `training` loops over them. These frozen types are shared by the
three packages, so that none of them imports another.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Self

import torch

from memamba_core.errors import ConfigError

__all__ = ["Bag", "InputSpec", "PatientInputs", "SurvivalTarget"]


@dataclass(frozen=True)
class SurvivalTarget:
    """Known survival of a patient.

    Attributes:
        time_months: months from diagnosis to the event, or to the last visit.
        event: True if the event (death) happened at `time_months`; False if the patient was alive at that time
            (right-censored).
        time_bin: index in 0...K-1 of the agreed interval [a, b) that holds `time_months`; the last interval is open.
    """

    time_months: float
    event: bool
    time_bin: int


@dataclass(frozen=True)
class Bag:
    """The patches (or slide vectors) of all slides of one patient, concatenated in slide order.

    Attributes:
        patches_PF: float tensor, one row per patch (or one row per slide, for slide-level vectors).
        coords_P2: whole coordinates of the patches, level-0 pixels (micrometres from STAMP), or None where unknown.
    """

    patches_PF: torch.Tensor
    coords_P2: torch.Tensor | None = None


@dataclass(frozen=True)
class PatientInputs:
    """Inputs of the model for one patient. Either modality may be missing.

    Attributes:
        target: the survival outcome.
        bag: the patches, or None if the patient has no usable slide.
        genes_C: agreed gene columns, scaled, float32; None if the patient has no molecular data.
    """

    target: SurvivalTarget
    bag: Bag | None = None
    genes_C: torch.Tensor | None = None

    def to(self, device: torch.device) -> Self:
        """Return the same patient with the tensors on another device."""
        bag = self.bag
        if bag is not None:
            coords = None if bag.coords_P2 is None else bag.coords_P2.to(device)
            bag = Bag(bag.patches_PF.to(device), coords)
        return replace(self, bag=bag, genes_C=None if self.genes_C is None else self.genes_C.to(device))


@dataclass(frozen=True)
class InputSpec:
    """Sizes and groups that the sites agreed on and for which the model is built.

    Attributes:
        num_bins: number K of time bins.
        num_genes: number C of agreed gene columns; 0 if no site has molecular data.
        gene_groups: name -> indices into the C gene columns. Groups may overlap.
        feature_width: width F of a row of a bag; 0 if no site has slides.
        feature_groups: name -> indices into the F columns. Empty: a row is one token. Otherwise each row is cut
            into one token per group (for slide-level vectors whose columns form families).
    """

    num_bins: int
    num_genes: int = 0
    gene_groups: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    feature_width: int = 0
    feature_groups: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.num_bins < 2:
            raise ConfigError(f"num_bins is {self.num_bins}; expected at least 2 for a discrete-time model")
        if not self.gene_groups and not self.feature_width:
            raise ConfigError("there are no gene groups and no slide features; expected at least one of them")
        for kind, groups, width in (
            ("gene", self.gene_groups, self.num_genes),
            ("feature", self.feature_groups, self.feature_width),
        ):
            for name, columns in groups.items():
                if not columns:
                    raise ConfigError(f"{kind} group {name!r} is empty; expected at least one column. Leave it out.")
                if min(columns) < 0 or max(columns) >= width:
                    raise ConfigError(
                        f"{kind} group {name!r} has columns {min(columns)} to {max(columns)}; expected columns within "
                        f"the {width} agreed ones, from 0"
                    )
