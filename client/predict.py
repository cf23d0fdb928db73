"""`flower-client predict`: predict this site's patients with a trained model. The predictions stay at the site.

Patients are read, scaled and predicted as in training: same readers, same loop, and the agreement of the model.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from memamba_core.config.site import SiteConfig
from memamba_core.data.clinical.table import read_clinical
from memamba_core.data.features.patch_folder import PatchFolder
from memamba_core.data.genomics.expression_scale import ScaleDifference
from memamba_core.data.records import Cohort
from memamba_core.errors import CheckpointError, ConfigError
from memamba_core.inference import PatientPredictions, SurvivalModel, load_model
from memamba_core.io.atomic import fill_atomically, write_secret
from memamba_core.model import MEMamba
from memamba_core.survival.concordance import count_pairs
from memamba_core.training.checkpoint import Checkpoint, code_digest

from .heat_maps import write_heat_map
from .site import open_site

__all__ = ["predict_patients"]


def predict_patients(
    config: SiteConfig, model_folder: Path, output: Path, *, attention: bool = False, accept_scale: bool = False
) -> tuple[str, ...]:
    """Predict risk and survival of every patient of a site who has slides or molecular data.

    Args:
        config: of the site.
        model_folder: with `model.safetensors` and `model.json`.
        output: a folder that is absent or empty. The folder appears only when everything is written.
        attention: also write a file per patient with the attention to each patch.
        accept_scale: predict even if the expression is on another scale than that of the model's patients.

    Returns:
        A report in lines for this site's screen; no line holds data of a single patient.

    Raises:
        CheckpointError: the model folder holds no usable model.
        ConfigError: the output folder cannot be used, the device is absent, or attention is requested of a model or of
            features without patches.
        AgreementError: the site's data do not fit the model.
        DataError: a table or features file does not match `site.yaml`.
    """
    model = load_model(model_folder, device=config.device)
    torch.set_num_threads(config.threads)
    _check_output(output)
    cohort = model.check_patients(open_site(config).cohort, accept_scale=accept_scale)
    if attention:
        _check_has_patches(cohort, model.network)
    max_patches = config.limits.max_patches
    try:
        with fill_atomically(output, mode=0o700) as folder:
            with _progress("predicting", len(cohort.records)) as advance:
                try:
                    predictions = model.predict(
                        cohort, max_patches=max_patches, on_patients=advance, accept_scale=accept_scale
                    )
                except CheckpointError as error:
                    raise CheckpointError(f"{model_folder}: {error}") from None
            if attention:
                (folder / "attention").mkdir(mode=0o700)
                _write_heat_maps(folder / "attention", model, cohort, predictions, max_patches)
            table = predictions.to_frame().to_csv(index=False, float_format="%.6g")
            write_secret(folder / "predictions.csv", table.encode())
    except OSError as error:
        raise ConfigError(f"{output} cannot be written ({error.strerror}). Choose another --output") from None
    return (*_report(model.checkpoint, predictions, config), *_scale_warning(model.compare_expression(cohort)))


def _check_output(folder: Path) -> None:
    """Check before the work that the output folder can be written after it."""
    if folder.resolve().is_mount():  # resolved first: "." equals its own parent, which would look like a mount
        raise ConfigError(f"{folder} is a mounted volume, which cannot be replaced. Name a folder inside it")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"{folder} exists and is not an empty folder; nothing was written. Choose a new --output")


def _check_has_patches(cohort: Cohort, model: MEMamba) -> None:
    """Check that the site and the model have patches, which attention refers to."""
    if model.pathology is None:
        raise ConfigError("--attention needs a pathology expert, and this model has none. Omit the option")
    if not isinstance(cohort.features, PatchFolder):
        named = "no features" if cohort.features is None else "slide-level features, without patches"
        raise ConfigError(f"--attention needs patch features, and site.yaml names {named}. Omit the option")


def _write_heat_maps(
    folder: Path, model: SurvivalModel, cohort: Cohort, predictions: PatientPredictions, max_patches: int
) -> None:
    """Write the attention to the patches of every patient with a bag."""
    with_bags = [i for i, names in enumerate(predictions.modalities) if "pathology" in names]
    with _progress("attention", len(with_bags)) as advance:
        for index in with_bags:
            case_id = predictions.case_ids[index]
            write_heat_map(folder, case_id, model.attention(cohort, case_id, max_patches=max_patches))
            advance(1)


def _c_index(predictions: PatientPredictions, min_pairs: int) -> str:
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


def _report(checkpoint: Checkpoint, predictions: PatientPredictions, config: SiteConfig) -> Iterator[str]:
    counts = Counter("+".join(names) or "none" for names in predictions.modalities)
    read = ", ".join(f"{number} by {what}" for what, number in counts.most_common() if what != "none")
    yield f"{len(predictions.risk)} patients{f': {read}' if read else ''}"
    if counts["none"]:
        yield f"warning: {counts['none']} of them have no data that this model reads; their risk is meaningless"
    if left_out := len(read_clinical(config.data.clinical, config.data.root)) - len(predictions.risk):
        yield f"warning: {left_out} more are excluded; they have neither molecular data nor features"
    if checkpoint.code != code_digest():
        yield "warning: another version of this software trained the model; its predictions may differ from these"
    yield _c_index(predictions, config.disclosure.min_pairs)


def _scale_warning(difference: ScaleDifference | None) -> Iterator[str]:
    if difference is not None and difference.doubtful:
        yield f"warning: the expression differs in scale from that of the model's patients: {difference}"


@contextmanager
def _progress(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show a progress bar on a terminal; yield the function that advances it by a number of patients."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(compact=True))
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
        task = bars.add_task(what, total=total)
        yield lambda number: bars.advance(task, number)
