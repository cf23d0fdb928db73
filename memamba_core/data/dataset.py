"""Patients of a site as model inputs: scaled genes, bags read on request, survival in agreed time bins."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from memamba_core.config.agreement import AgreementConfig
from memamba_core.data.agreement import Agreement
from memamba_core.data.records import Cohort, PatientRecord
from memamba_core.data.statistics import transform_features, transform_genes
from memamba_core.errors import AgreementError
from memamba_core.patient import Bag, PatientInputs, SurvivalTarget
from memamba_core.survival.time_bins import assign_time_bin

__all__ = ["PatientDataset"]


class PatientDataset:
    """Patients by index. Genes are scaled once and kept in memory; a bag is read on each request and not kept.

    Args:
        cohort: the patients, in the order of the indices.
        agreement: columns, scaling and bins of the federation.
        config: transform and clip of gene values.
        max_patches: limit of the site on patches of one patient in memory; None: no limit.

    Raises:
        AgreementError: the cohort lacks an agreed gene column, or its features have another width or other columns.
    """

    def __init__(
        self, cohort: Cohort, agreement: Agreement, config: AgreementConfig, *, max_patches: int | None = None
    ) -> None:
        self.cohort = cohort
        self.agreement = agreement
        self.config = config
        self.max_patches = max_patches
        self._check_features()
        self._genes_NC, self._gene_index = self._scale_genes()

    def __len__(self) -> int:
        return len(self.cohort.records)

    @property
    def records(self) -> Sequence[PatientRecord]:
        """Records of the patients in the order of the indices."""
        return self.cohort.records

    @property
    def times(self) -> np.ndarray:
        """Follow-up in months, float64."""
        return np.array([r.time_months for r in self.records], dtype=np.float64)

    @property
    def events(self) -> np.ndarray:
        """Events, bool: True if the event happened at the end of the follow-up."""
        return np.array([r.event for r in self.records], dtype=bool)

    def load(
        self, index: int, *, max_patches: int | None = None, rng: np.random.Generator | None = None
    ) -> PatientInputs:
        """Return the model inputs of one patient.

        Args:
            index: 0...len-1.
            max_patches: limit of this call; the smaller of this limit and that of the site applies.
            rng: samples patches at random if a limit applies; None takes them evenly spaced.

        Raises:
            DataError: the patient's features cannot be read.
        """
        record = self.records[index]
        row = self._gene_index[index]
        return PatientInputs(
            target=SurvivalTarget(
                time_months=record.time_months,
                event=record.event,
                time_bin=assign_time_bin(record.time_months, self.agreement.time_bin_edges),
            ),
            bag=self._load_bag(record, max_patches, rng),
            genes_C=None if row is None else self._genes_NC[row],
        )

    def _load_bag(self, record: PatientRecord, max_patches: int | None, rng: np.random.Generator | None) -> Bag | None:
        features = self.cohort.features
        if features is None or not self.agreement.feature_width or not features.has(record):
            return None
        caps = [cap for cap in (self.max_patches, max_patches) if cap is not None]
        bag = features.load(record, min(caps, default=None), rng)
        if bag is None or not len(bag.patches_PF):
            return None
        if not len(self.agreement.feature_center):
            return replace(bag, patches_PF=torch.nan_to_num(bag.patches_PF)) if features.columns else bag
        rows = (
            transform_features(bag.patches_PF.numpy()) - self.agreement.feature_center
        ) / self.agreement.feature_scale
        rows = np.nan_to_num(np.clip(rows, -self.config.scaled_clip, self.config.scaled_clip), nan=0.0)
        return Bag(torch.from_numpy(rows.astype(np.float32)), bag.coords_P2)

    def _scale_genes(self) -> tuple[torch.Tensor, list[int | None]]:
        """Return the scaled values of the patients who have genes, and for each patient the row in them."""
        table, agreement = self.cohort.genes, self.agreement
        rows = [r.gene_row if agreement.gene_columns else None for r in self.records]
        if table is None or not agreement.gene_columns:
            return torch.zeros(0, len(agreement.gene_columns)), [None] * len(rows)
        position = {column: i for i, column in enumerate(table.columns)}
        absent = [column for column in agreement.gene_columns if column not in position]
        if absent:
            raise AgreementError(
                f"{len(absent)} of {len(agreement.gene_columns)} agreed gene columns are not in the site's table, for "
                f"example {absent[0]}; the table changed since the site declared its columns. Start the run again"
            )
        columns = [position[column] for column in agreement.gene_columns]
        present = [row for row in rows if row is not None]
        values = transform_genes(table.values_NC[np.ix_(present, columns)], self.config)
        scaled = np.clip(
            (values - agreement.gene_center) / agreement.gene_scale,
            -self.config.scaled_clip,
            self.config.scaled_clip,
        )
        index = iter(range(len(present)))
        # a value that was not measured becomes the mean of the federation
        genes_NC = torch.from_numpy(np.nan_to_num(scaled, nan=0.0).astype(np.float32))
        return genes_NC, [None if row is None else next(index) for row in rows]

    def _check_features(self) -> None:
        features, agreement = self.cohort.features, self.agreement
        if features is None or not agreement.feature_width:
            return
        if features.width != agreement.feature_width:
            raise AgreementError(
                f"the site's features have width {features.width}; expected {agreement.feature_width}, as agreed. "
                "All sites need features of one encoder"
            )
        if features.columns != agreement.feature_columns:
            raise AgreementError(
                "the columns of the site's table of slide features, or their order, differ from the agreement; the "
                "table changed since the site declared its columns. Start the run again"
            )
