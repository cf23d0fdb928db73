"""Dry run: measure time and memory of one training step on one patient, with the installed model and settings.

Time bins and scaling are placeholders, because the federation's are not known yet. Nothing is stored.
"""

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from client.site import Site
from memamba_core.config.compose import installed_experiment
from memamba_core.config.experiment import Experiment
from memamba_core.data.agreement import Agreement
from memamba_core.data.dataset import PatientDataset
from memamba_core.data.genomics.signatures import build_gene_groups
from memamba_core.data.records import Cohort
from memamba_core.training.batches import MICRO_BATCH_ROWS
from memamba_core.training.checkpoint import initial_model
from memamba_core.training.trainer import Span, resolve_device, train

__all__ = ["DryRun", "measure_dry_run", "memory_available"]

_ROWS = 4_000
_WARM_UP_ROWS = 16


@dataclass(frozen=True)
class DryRun:
    """Cost of a training step on one patient.

    Attributes:
        rows: number of patches in the step.
        seconds: time of the step, forward and backward.
        bytes_needed: estimate of the process's memory in training, with `rows_at_once` patches; None where the system
            does not report the memory of a process.
        rows_at_once: largest number of patches in one computation of a gradient.
    """

    rows: int
    seconds: float
    bytes_needed: int | None
    rows_at_once: int


def measure_dry_run(site: Site, case_id: str, rows_of_largest: int, rows_in_total: int) -> DryRun:
    """Train on one patient.

    Args:
        site: of the patient.
        case_id: of the patient, preferably the one with the largest bag.
        rows_of_largest: number of patches in the largest bag.
        rows_in_total: number of patches of all patients.

    Raises:
        DataError: the patient's features cannot be read.
    """
    experiment = installed_experiment()
    agreement = _placeholder_agreement(site.cohort, experiment)
    cap = min(site.config.limits.max_patches, experiment.training.max_patches or rows_of_largest)
    rows = min(rows_of_largest, cap, _ROWS)
    at_once = max(min(rows_of_largest, cap), min(MICRO_BATCH_ROWS, rows_in_total))
    patient = site.cohort.subset([case_id])
    _step(site, patient, agreement, experiment, min(rows, _WARM_UP_ROWS))  # compiles, and allocates model and optimizer
    before = _peak_memory()
    started = time.monotonic()
    _step(site, patient, agreement, experiment, rows)
    seconds = time.monotonic() - started
    after = _peak_memory()
    needed = None
    if before is not None and after is not None:
        needed = after + round((after - before) / max(rows, 1) * max(0, at_once - rows))
    return DryRun(rows, seconds, needed, at_once)


def memory_available() -> int | None:
    """Return the bytes that this process may still allocate, of the machine or its container; None if unknown."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration, ValueError):
        return None
    try:
        limit = int(Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii"))
        used = int(Path("/sys/fs/cgroup/memory.current").read_text(encoding="ascii"))
    except (OSError, ValueError):  # "max" stands for no limit
        return free
    return min(free, limit - used)


def _step(site: Site, patient: Cohort, agreement: Agreement, experiment: Experiment, rows: int) -> None:
    dataset = PatientDataset(patient, agreement, experiment.agreement, max_patches=max(rows, 1))
    train(
        initial_model(experiment, agreement),
        dataset,
        config=experiment.training,
        optimizer=experiment.federation.optimizer,
        span=Span(0, 1, 1),
        seed=0,
        device=resolve_device(site.config.device),
    )


def _placeholder_agreement(cohort: Cohort, experiment: Experiment) -> Agreement:
    """Build an agreement that fits this site's columns."""
    columns = cohort.genes.columns if cohort.genes else ()
    features = cohort.features
    width = features.width if features else 0
    families: dict[str, tuple[int, ...]] = {}
    if features is not None:
        for index, family in enumerate(features.families):
            families[family] = (*families.get(family, ()), index)
    scaled = width if features is not None and features.columns else 0
    return Agreement(
        time_bin_edges=experiment.agreement.public_edges,
        gene_columns=columns,
        gene_groups=build_gene_groups(columns, None, by="kind") if columns else {},
        encoder=features.encoder if features else "",
        feature_width=width,
        feature_columns=features.columns if features else (),
        feature_groups=families,
        gene_center=np.zeros(len(columns)),
        gene_scale=np.ones(len(columns)),
        feature_center=np.zeros(scaled),
        feature_scale=np.ones(scaled),
    )


def _peak_memory() -> int | None:
    """Return this process's peak memory since the last call in bytes, and reset the peak; None if unknown."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        peak = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except (OSError, StopIteration, ValueError):
        return None
    return peak
