"""`flower-client predict`: a trained model looks at this hospital's patients. What it says of each stays here.

Patients are read, scaled and predicted as in training: the same readers, the agreement of the model, the same loop.
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
    """Predict every patient of a site who has slides or molecular data.

    Args:
        config: of the site.
        model_folder: holds `model.safetensors` and `model.json`.
        output: a folder that is absent or empty. It appears when everything is written, or not at all.
        attention: write a file per patient with the attention to each patch, too.

    Returns:
        What was done, in lines for this hospital's screen; none holds anything of a single patient.

    Raises:
        CheckpointError: no usable model is there.
        ConfigError: the output folder cannot be used, the device is not there, or attention is asked of a model or of
            features without patches.
        AgreementError: the site's data are not what the model reads.
        DataError: a table or features file is not what `site.yaml` says.
    """
    checkpoint = _load(model_folder)
    device = resolve_device(config.device)
    torch.set_num_threads(config.threads)
    _check_output(output)
    model = checkpoint.build(device)
    cohort = _what_the_model_reads(open_site(config).cohort, model)
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
                raise CheckpointError(f"{model_folder}: gives risks that are not finite; its training failed")
            if attention:
                (folder / "attention").mkdir(mode=0o700)
                _write_heat_maps(folder / "attention", model, dataset, predictions)
            table = _table(predictions, checkpoint.agreement.time_bin_edges)
            write_secret(folder / "predictions.csv", table.to_csv(index=False, float_format="%.6g").encode())
    except OSError as error:
        raise ConfigError(f"{output} cannot be written ({error.strerror}); choose another --output") from None
    return tuple(_report(checkpoint, predictions, config))


def _load(folder: Path) -> Checkpoint:
    """The model of a folder, with a word on what such a folder is."""
    wanted = "wanted a folder with model.safetensors and model.json, as a run leaves it: state/runs/RUN at a hospital"
    if not folder.is_dir():
        what = f"a file; name its folder, {folder.parent}" if folder.exists() else f"no such folder; {wanted}"
        raise CheckpointError(f"{folder}: {what}")
    if absent := [name for name in _FILES if not (folder / name).is_file()]:
        raise CheckpointError(f"{folder}: has no {' and no '.join(absent)}; {wanted}")
    return load_checkpoint(folder)


def _check_output(folder: Path) -> None:
    """Refuse before the work what could not be written after it."""
    if folder.resolve().is_mount():  # of "." the parent is "." again, which looks like a mount
        raise ConfigError(f"{folder}: is a mounted volume, which cannot be replaced; name a folder below it")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"{folder}: exists and is not an empty folder; nothing was written. Choose a new --output")


def _what_the_model_reads(cohort: Cohort, model: MEMamba) -> Cohort:
    """The cohort without a modality for which the model has no expert: it is neither compared nor read."""
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
                f"reads: {', '.join(absent[:_NAMED])}{', ...' if len(absent) > _NAMED else ''}. Add them; one that was "
                "measured in nobody stays empty, and the mean of the federation takes its place"
            )
    if not any(cohort.has_genes(r) or cohort.has_slides(r) for r in cohort.records):
        experts = " and ".join(name for name in _MODALITIES if getattr(model, name) is not None)
        raise AgreementError(
            f"the model reads {experts} alone, and no patient has that here; name the table or folder in data.genomics "
            "or data.features of site.yaml"
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
            "the site's table of slide features has other columns or families than the model reads; export it with the "
            "same columns in the same order, and take the federation's groups_file"
        )


def _check_has_patches(cohort: Cohort, model: MEMamba) -> None:
    """Attention is written for heat maps."""
    if model.pathology is None:
        raise ConfigError("--attention: this model has no pathology expert; leave the option out")
    if not isinstance(cohort.features, PatchFolder):
        what = "no features" if cohort.features is None else "slide-level features, without patches"
        raise ConfigError(f"--attention: site.yaml names {what}; there is nothing to draw, leave the option out")


def _write_heat_maps(folder: Path, model: MEMamba, dataset: PatientDataset, predictions: Predictions) -> int:
    """The attention to the patches of every patient who has some; how many those are."""
    with_bags = [i for i, groups in enumerate(predictions.groups) if "pathology" in groups]
    with _progress("attention", len(with_bags)) as advance:
        for index in with_bags:
            write_heat_map(folder, model, dataset, index)
            advance(1)
    return len(with_bags)


def _table(predictions: Predictions, edges: Sequence[float]) -> pd.DataFrame:
    """One row per patient. Survival of the last, open interval has no column: it belongs to no time in months."""
    columns = {"case_id": predictions.case_ids, "risk": predictions.risk}
    columns |= {f"survival_{edge:g}_months": predictions.survival_NK[:, k] for k, edge in enumerate(edges)}
    return pd.DataFrame({**columns, "modalities": [_modalities(groups) for groups in predictions.groups]})


def _modalities(groups: frozenset[str]) -> str:
    return "+".join(name for name in _MODALITIES if name in groups) or "none"


def _c_index(predictions: Predictions, min_pairs: int) -> str:
    """How well the risks rank these patients, or why that is not told."""
    events = int(predictions.event.sum())
    of_whom = f"{len(predictions.risk)} patients with {events} events"
    pairs = count_pairs(predictions.risk, predictions.time_months, predictions.event)
    if pairs.num_pairs < min_pairs:
        return (
            f"C-index: not told, {of_whom} form {pairs.num_pairs} comparable pairs; disclosure.min_pairs is {min_pairs}"
        )
    return (
        f"C-index {pairs.c_index:.3f}: {of_whom}, {pairs.num_pairs:,d} comparable pairs; too good if the model was "
        "trained on these patients"
    )


def _report(checkpoint: Checkpoint, predictions: Predictions, config: SiteConfig) -> Iterator[str]:
    counts = Counter(_modalities(groups) for groups in predictions.groups)
    read = ", ".join(f"{number} by {what}" for what, number in counts.most_common() if what != "none")
    yield f"{len(predictions.risk)} patients{f': {read}' if read else ''}"
    if counts["none"]:
        yield f"warning: {counts['none']} of them have nothing that this model reads; their risk says nothing"
    if left_out := len(read_clinical(config.data.clinical, config.data.root)) - len(predictions.risk):
        yield f"warning: {left_out} more are left out; they have neither molecular data nor features"
    if checkpoint.code != code_digest():
        yield "warning: another version of this software trained the model; its numbers there may differ from these"
    yield _c_index(predictions, config.disclosure.min_pairs)


@contextmanager
def _progress(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar on a terminal; what it gives is told how many patients are done."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(compact=True))
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
        task = bars.add_task(what, total=total)
        yield lambda number: bars.advance(task, number)
