"""`flower-client predict`: predict this site's patients with a trained model. The predictions stay at the site.

Patients are read, scaled and predicted as in training: same readers, same loop, and the agreement of the model.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from memamba_core.config.site import SiteConfig
from memamba_core.data.agreement import Agreement
from memamba_core.data.clinical import read_clinical
from memamba_core.data.dataset import PatientDataset
from memamba_core.data.features import PatchFolder
from memamba_core.data.records import Cohort, FeatureStore
from memamba_core.errors import AgreementError, CheckpointError, ConfigError
from memamba_core.io.atomic import fill_atomically, write_secret
from memamba_core.model import MEMamba
from memamba_core.survival.concordance import count_pairs
from memamba_core.training.checkpoint import Checkpoint, code_digest, load_checkpoint
from memamba_core.training.trainer import Predictions, predict, resolve_device

from .heat_maps import write_heat_map
from .site import open_site

__all__ = ["predict_patients"]

_MODALITIES = ("pathology", "genomics")
_NAMED = 3
_FILES = ("model.safetensors", "model.json")


def predict_patients(
    config: SiteConfig, model_folder: Path, output: Path, *, attention: bool = False
) -> tuple[str, ...]:
    """Predict risk and survival of every patient of a site who has slides or molecular data.

    Args:
        config: of the site.
        model_folder: with `model.safetensors` and `model.json`.
        output: a folder that is absent or empty. The folder appears only when everything is written.
        attention: also write a file per patient with the attention to each patch.

    Returns:
        A report in lines for this site's screen; no line holds data of a single patient.

    Raises:
        CheckpointError: the model folder holds no usable model.
        ConfigError: the output folder cannot be used, the device is absent, or attention is requested of a model or of
            features without patches.
        AgreementError: the site's data do not fit the model.
        DataError: a table or features file does not match `site.yaml`.
    """
    checkpoint = _load(model_folder)
    device = resolve_device(config.device)
    torch.set_num_threads(config.threads)
    _check_output(output)
    model = checkpoint.build(device)
    cohort = _drop_unread_modalities(open_site(config).cohort, model)
    _check_fit(cohort, checkpoint.agreement, model)
    if attention:
        _check_has_patches(cohort, model)
    dataset = PatientDataset(
        cohort, checkpoint.agreement, checkpoint.experiment.agreement, max_patches=config.limits.max_patches
    )
    try:
        with fill_atomically(output, mode=0o700) as folder:
            with _progress("predicting", len(dataset)) as advance:
                predictions = predict(model, dataset, on_patients=advance)
            if not np.isfinite(predictions.risk).all():
                raise CheckpointError(
                    f"{model_folder}: the risks are not finite, so the model's training failed. Use another model"
                )
            if attention:
                (folder / "attention").mkdir(mode=0o700)
                _write_heat_maps(folder / "attention", model, dataset, predictions)
            table = _table(predictions, checkpoint.agreement.time_bin_edges)
            write_secret(folder / "predictions.csv", table.to_csv(index=False, float_format="%.6g").encode())
    except OSError as error:
        raise ConfigError(f"{output} cannot be written ({error.strerror}). Choose another --output") from None
    return tuple(_report(checkpoint, predictions, config))


def _load(folder: Path) -> Checkpoint:
    """Load the model of a folder; an error explains which folders hold a model."""
    expected = "expected a folder with model.safetensors and model.json, as a run writes it: state/runs/RUN at a site"
    if not folder.is_dir():
        problem = f"is a file; name its folder, {folder.parent}" if folder.exists() else f"is no folder; {expected}"
        raise CheckpointError(f"{folder} {problem}")
    if absent := [name for name in _FILES if not (folder / name).is_file()]:
        raise CheckpointError(f"{folder} has no {' and no '.join(absent)}; {expected}")
    return load_checkpoint(folder)


def _check_output(folder: Path) -> None:
    """Check before the work that the output folder can be written after it."""
    if folder.resolve().is_mount():  # resolved first: "." equals its own parent, which would look like a mount
        raise ConfigError(f"{folder} is a mounted volume, which cannot be replaced. Name a folder inside it")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"{folder} exists and is not an empty folder; nothing was written. Choose a new --output")


def _drop_unread_modalities(cohort: Cohort, model: MEMamba) -> Cohort:
    """Drop a modality for which the model has no expert: it is neither checked nor read."""
    return replace(
        cohort,
        genes=None if model.genomics is None else cohort.genes,
        features=None if model.pathology is None else cohort.features,
    )


def _check_fit(cohort: Cohort, agreement: Agreement, model: MEMamba) -> None:
    """Compare the site's columns and features with those that the model was trained on."""
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
    if not any(cohort.has_genes(r) or cohort.has_slides(r) for r in cohort.records):
        experts = " and ".join(name for name in _MODALITIES if getattr(model, name) is not None)
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


def _check_has_patches(cohort: Cohort, model: MEMamba) -> None:
    """Check that the site and the model have patches, which attention refers to."""
    if model.pathology is None:
        raise ConfigError("--attention needs a pathology expert, and this model has none. Omit the option")
    if not isinstance(cohort.features, PatchFolder):
        named = "no features" if cohort.features is None else "slide-level features, without patches"
        raise ConfigError(f"--attention needs patch features, and site.yaml names {named}. Omit the option")


def _write_heat_maps(folder: Path, model: MEMamba, dataset: PatientDataset, predictions: Predictions) -> int:
    """Write the attention to the patches of every patient with a bag; return the number of patients."""
    with_bags = [i for i, groups in enumerate(predictions.groups) if "pathology" in groups]
    with _progress("attention", len(with_bags)) as advance:
        for index in with_bags:
            write_heat_map(folder, model, dataset, index)
            advance(1)
    return len(with_bags)


def _table(predictions: Predictions, edges: Sequence[float]) -> pd.DataFrame:
    """Build a table of one row per patient; survival of the last, open interval has no time in months, so no column."""
    columns = {"case_id": predictions.case_ids, "risk": predictions.risk}
    columns |= {f"survival_{edge:g}_months": predictions.survival_NK[:, k] for k, edge in enumerate(edges)}
    return pd.DataFrame({**columns, "modalities": [_modalities(groups) for groups in predictions.groups]})


def _modalities(groups: frozenset[str]) -> str:
    return "+".join(name for name in _MODALITIES if name in groups) or "none"


def _c_index(predictions: Predictions, min_pairs: int) -> str:
    """Describe how well the risks rank these patients, or why the C-index is suppressed."""
    events = int(predictions.event.sum())
    patients = f"{len(predictions.risk)} patients with {events} events"
    pairs = count_pairs(predictions.risk, predictions.time_months, predictions.event)
    if pairs.num_pairs < min_pairs:
        return (
            f"C-index: suppressed, {patients} form {pairs.num_pairs} comparable pairs; disclosure.min_pairs is "
            f"{min_pairs}"
        )
    return (
        f"C-index {pairs.c_index:.3f}: {patients}, {pairs.num_pairs:,d} comparable pairs; optimistic if the model was "
        "trained on these patients"
    )


def _report(checkpoint: Checkpoint, predictions: Predictions, config: SiteConfig) -> Iterator[str]:
    counts = Counter(_modalities(groups) for groups in predictions.groups)
    read = ", ".join(f"{number} by {what}" for what, number in counts.most_common() if what != "none")
    yield f"{len(predictions.risk)} patients{f': {read}' if read else ''}"
    if counts["none"]:
        yield f"warning: {counts['none']} of them have no data that this model reads; their risk is meaningless"
    if left_out := len(read_clinical(config.data.clinical, config.data.root)) - len(predictions.risk):
        yield f"warning: {left_out} more are excluded; they have neither molecular data nor features"
    if checkpoint.code != code_digest():
        yield "warning: another version of this software trained the model; its predictions may differ from these"
    yield _c_index(predictions, config.disclosure.min_pairs)


@contextmanager
def _progress(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show a progress bar on a terminal; yield the function that advances it by a number of patients."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(compact=True))
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
        task = bars.add_task(what, total=total)
        yield lambda number: bars.advance(task, number)
