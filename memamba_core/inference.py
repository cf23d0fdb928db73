"""Use of a trained model: `load_model(folder)` gives a `SurvivalModel` that predicts patients and shows attention.

Patients are read, scaled and predicted as in training: same readers, same loop, and the agreement of the model.
`flower-client predict` is built on this module.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from memamba_core.config.site import load_site_config
from memamba_core.data.agreement import Agreement
from memamba_core.data.dataset import PatientDataset
from memamba_core.data.features.patch_folder import PatchFolder
from memamba_core.data.genomics.expression_scale import ScaleDifference, check_expression, compare_expression
from memamba_core.data.manifest import load_cohort
from memamba_core.data.records import Cohort, FeatureStore
from memamba_core.errors import AgreementError, CheckpointError
from memamba_core.model import MEMamba
from memamba_core.survival.interpolation import survival_at
from memamba_core.training.checkpoint import Checkpoint, load_checkpoint
from memamba_core.training.trainer import Predictions, predict, resolve_device

__all__ = ["MODALITIES", "PatchAttention", "PatientPredictions", "SurvivalModel", "load_model", "load_patients"]

MODALITIES = ("pathology", "genomics")
"""Experts of the model that read data of a patient."""

_NAMED = 3  # absent columns that an error names
_FILES = ("model.safetensors", "model.json")


@dataclass(frozen=True)
class PatientPredictions:
    """Predictions for N patients in K time bins, with their outcomes.

    Attributes:
        case_ids: identifiers of the patients, in the order of the rows.
        risk: [N], in [-K, 0]; higher is worse.
        hazards_NK: P(event in bin k | alive at its start).
        survival_NK: P(no event up to the end of bin k). The last bin is open and ends at no time in months.
        time_bin_edges: the K-1 inner edges of the bins, in months.
        time_months: [N], follow-up.
        event: [N], True if the event happened at `time_months`.
        modalities: for each patient the modalities that the model read; empty if the patient has none of them.
    """

    risk: npt.NDArray[np.float64]
    hazards_NK: npt.NDArray[np.float64]
    survival_NK: npt.NDArray[np.float64]
    time_bin_edges: tuple[float, ...]
    time_months: npt.NDArray[np.float64]
    event: npt.NDArray[np.bool_]
    modalities: tuple[tuple[str, ...], ...]
    case_ids: tuple[str, ...] = field(repr=False)

    def survival_at(self, months: float | Sequence[float | int]) -> npt.NDArray[np.float64]:
        """Return the probability of survival to given months.

        Between two edges the hazard rate is taken as constant (`memamba_core.survival.interpolation.survival_at`).
        After the last edge the probability is NaN, because the last bin is open.

        Args:
            months: one time [N values are returned], or M times [N, M values are returned]; not negative.
        """
        return survival_at(self.survival_NK, self.time_bin_edges, months)

    def to_frame(self) -> pd.DataFrame:
        """Return a table with a row per patient: case_id, risk, survival at each inner edge, modalities.

        Survival of the last, open bin has no time in months, so no column.
        """
        columns = {"case_id": self.case_ids, "risk": self.risk}
        columns |= {f"survival_{edge:g}_months": self.survival_NK[:, k] for k, edge in enumerate(self.time_bin_edges)}
        return pd.DataFrame({**columns, "modalities": ["+".join(names) or "none" for names in self.modalities]})


@dataclass(frozen=True)
class PatchAttention:
    """Attention of the pathology expert to the P patches of one patient.

    Attributes:
        attention_P: float32, sums to 1.
        slides: names of the patient's slides, in the order of the clinical table.
        slide_P: for each patch the index of its slide in `slides`.
        row_P: for each patch its row in the features file of that slide. Patches are sorted by slide and row.
        coords_P2: coordinates of the patches in the unit of the files; None if a file of the patient has none.
    """

    attention_P: npt.NDArray[np.float32]
    slides: tuple[str, ...]
    slide_P: npt.NDArray[np.int32]
    row_P: npt.NDArray[np.int64]
    coords_P2: npt.NDArray[np.int64] | None


class SurvivalModel:
    """Trained model with everything needed to use it.

    Attributes:
        checkpoint: weights, settings and agreement.
        network: the torch module, in evaluation mode.
    """

    def __init__(self, checkpoint: Checkpoint, device: str = "auto") -> None:
        self.checkpoint = checkpoint
        self.network: MEMamba = checkpoint.build(resolve_device(device))

    @property
    def time_bin_edges(self) -> tuple[float, ...]:
        """Inner edges of the time bins, in months."""
        return self.checkpoint.agreement.time_bin_edges

    def check_patients(self, patients: Cohort, *, accept_scale: bool = False) -> Cohort:
        """Check that patients have what the model reads; return them without a modality that it does not read.

        Args:
            patients: to be predicted.
            accept_scale: do not compare the scale of their expression with that of the model's patients.

        Raises:
            AgreementError: gene columns or features differ from those of the model, no patient has data for it, or the
                expression is on another scale.
        """
        kept = replace(
            patients,
            genes=None if self.network.genomics is None else patients.genes,
            features=None if self.network.pathology is None else patients.features,
        )
        _check_fit(kept, self.checkpoint.agreement, self.network)
        if not accept_scale:
            check_expression(kept, self.checkpoint.agreement, self.checkpoint.experiment.agreement)
        return kept

    def compare_expression(self, patients: Cohort) -> ScaleDifference | None:
        """Return the difference between the expression of patients and that of the model's patients, if it is known."""
        return compare_expression(patients, self.checkpoint.agreement, self.checkpoint.experiment.agreement)

    def predict(
        self,
        patients: Cohort,
        *,
        max_patches: int | None = None,
        on_patients: Callable[[int], None] | None = None,
        accept_scale: bool = False,
    ) -> PatientPredictions:
        """Predict risk, hazards and survival of patients.

        Args:
            patients: for example from `load_patients`, or `SimulationResult.patients`.
            max_patches: most patches of one patient to read, evenly spaced; None reads all.
            on_patients: called with the number of patients predicted since the last call.
            accept_scale: predict even if the expression is on another scale than that of the model's patients
                (`compare_expression`); the predictions are then likely meaningless.

        Raises:
            AgreementError: the patients' data do not fit the model.
            CheckpointError: the model gives risks that are not finite.
            DataError: features cannot be read.
        """
        dataset = self._dataset(patients, max_patches, accept_scale=accept_scale)
        predictions = predict(self.network, dataset, on_patients=on_patients)
        if not np.isfinite(predictions.risk).all():
            raise CheckpointError("the risks are not finite, so the model's training failed. Use another model")
        return _for_people(predictions, self.time_bin_edges)

    def attention(self, patients: Cohort, case_id: str, *, max_patches: int | None = None) -> PatchAttention:
        """Return the attention of the pathology expert to each patch of one patient, for heat maps.

        Args:
            patients: hold the patient.
            case_id: of the patient.
            max_patches: most patches to read, evenly spaced; None reads all.

        Raises:
            AgreementError: the model has no pathology expert, the features are no patch files, or the patient is not
                among `patients` or has no patch.
            DataError: the features cannot be read.
        """
        store = patients.features
        if self.network.pathology is None:
            raise AgreementError("attention needs a pathology expert, and this model has none")
        if not isinstance(store, PatchFolder):
            named = "no features" if store is None else f"features of the kind {type(store).__name__}"
            raise AgreementError(f"attention needs files of patch features, and these patients have {named}")
        # Genes are not in this attention, so their scale does not matter.
        dataset = self._dataset(patients.subset([case_id]), max_patches, accept_scale=True)
        patient = dataset.load(0) if len(dataset) else None
        if patient is None or patient.bag is None:
            raise AgreementError(f"patient {case_id!r} has no patch features among these patients")
        rows = store.rows_of(dataset.records[0], max_patches)
        row_P = np.concatenate(list(rows.values()))
        slide_P = np.repeat(np.arange(len(rows), dtype=np.int32), [len(part) for part in rows.values()])
        device = next(self.network.parameters()).device
        attention_P = self.network.patch_attention(patient.to(device)).detach().float().cpu().numpy()
        assert len(row_P) == len(attention_P)
        order = np.lexsort((row_P, slide_P))
        coords_P2 = None if patient.bag.coords_P2 is None else patient.bag.coords_P2.numpy()[order]
        return PatchAttention(attention_P[order], tuple(rows), slide_P[order], row_P[order], coords_P2)

    def _dataset(self, patients: Cohort, max_patches: int | None, *, accept_scale: bool) -> PatientDataset:
        checkpoint = self.checkpoint
        return PatientDataset(
            self.check_patients(patients, accept_scale=accept_scale),
            checkpoint.agreement,
            checkpoint.experiment.agreement,
            max_patches=max_patches,
        )


def load_model(folder: str | Path, *, device: str = "auto") -> SurvivalModel:
    """Load the model of a folder that a simulation, a federation or a site wrote.

    Args:
        folder: holds `model.safetensors` and `model.json`.
        device: `auto` (a GPU if there is one), `cpu`, `cuda` or `cuda:1`.

    Raises:
        CheckpointError: the folder holds no usable model.
        ConfigError: the device is absent.
    """
    folder = Path(folder)
    expected = "expected a folder with model.safetensors and model.json, as a run writes it: state/runs/RUN at a site"
    if not folder.is_dir():
        problem = f"is a file; name its folder, {folder.parent}" if folder.exists() else f"is no folder; {expected}"
        raise CheckpointError(f"{folder} {problem}")
    if absent := [name for name in _FILES if not (folder / name).is_file()]:
        raise CheckpointError(f"{folder} has no {' and no '.join(absent)}; {expected}")
    return SurvivalModel(load_checkpoint(folder), device)


def load_patients(site: str | Path) -> Cohort:
    """Load the patients that a `site.yaml` describes; features are read later, when they are needed.

    Args:
        site: path of the `site.yaml`.

    Raises:
        ConfigError: the file does not describe a site.
        DataError: a table or features file does not match it.
    """
    return load_cohort(load_site_config(Path(site)).data)


def _for_people(predictions: Predictions, edges: tuple[float, ...]) -> PatientPredictions:
    return PatientPredictions(
        risk=predictions.risk,
        hazards_NK=predictions.hazards_NK,
        survival_NK=predictions.survival_NK,
        time_bin_edges=edges,
        time_months=predictions.time_months,
        event=predictions.event,
        modalities=tuple(tuple(name for name in MODALITIES if name in groups) for groups in predictions.groups),
        case_ids=predictions.case_ids,
    )


def _check_fit(cohort: Cohort, agreement: Agreement, network: MEMamba) -> None:
    """Compare the patients' columns and features with those that the model was trained on."""
    if cohort.features is not None:
        _check_features(cohort.features, agreement)
    if cohort.genes is not None:
        absent = sorted(set(agreement.gene_columns) - set(cohort.genes.columns))
        if absent:
            raise AgreementError(
                f"the molecular table lacks {len(absent)} of the {len(agreement.gene_columns)} columns that the model "
                f"reads: {', '.join(absent[:_NAMED])}{', ...' if len(absent) > _NAMED else ''}. Add these columns; "
                "leave a column empty if no patient has a value: the federation's mean replaces it"
            )
    if cohort.records and not any(cohort.has_genes(r) or cohort.has_slides(r) for r in cohort.records):
        experts = " and ".join(name for name in MODALITIES if getattr(network, name) is not None)
        raise AgreementError(
            f"the model reads {experts} only, and no patient of this site has such data. Name the table or folder in "
            "data.genomics or data.features of site.yaml"
        )


def _check_features(features: FeatureStore, agreement: Agreement) -> None:
    if (features.encoder, features.width) != (agreement.encoder, agreement.feature_width):
        raise AgreementError(
            f"the site's features are of encoder {features.encoder}, {features.width} wide; the model reads "
            f"{agreement.encoder}, {agreement.feature_width} wide. Extract them with that encoder, or correct "
            "data.features in site.yaml"
        )
    groups: dict[str, tuple[int, ...]] = {}
    for index, family in enumerate(features.families):
        groups[family] = (*groups.get(family, ()), index)
    if features.columns != agreement.feature_columns or groups != dict(agreement.feature_groups):
        raise AgreementError(
            "the columns or families of the site's table of slide features differ from those of the model. Export the "
            "table with the same columns in the same order, and use the federation's groups_file"
        )
