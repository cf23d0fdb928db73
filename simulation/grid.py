"""The grid of a simulation: every hospital's own worker behind one ClientApp, in this process or in a few others."""

from collections.abc import Callable
from typing import Any

import torch
from flwr.clientapp import ClientApp

from client.app import build_client_app
from client.local import SiteWorker
from client.models import ModelCache
from memamba_core.config.simulation import SimulationConfig

from .cohort import SimulatedCohort, prepare_cohort
from .local_grid import InlineRunner, LocalGrid, ProcessRunner, Runner

__all__ = ["build_worker_app", "open_grid"]


def open_grid(
    config: SimulationConfig,
    cohort: SimulatedCohort,
    on_reply: Callable[[str], None] | None = None,
) -> LocalGrid:
    """A grid over the simulated hospitals, in this process or in `config.workers` others."""
    if not config.workers:
        workers, models = {}, ModelCache()
        for name, site in cohort.sites.items():
            workers[name] = SiteWorker(site, models)
        runner: Runner = InlineRunner(build_client_app(lambda context: workers[str(context.node_config["site"])]))
    else:
        runner = ProcessRunner(build_worker_app, (config.model_dump(mode="json"),), list(cohort.sites), config.workers)
    return LocalGrid(list(cohort.sites), runner, on_reply)


def build_worker_app(settings: dict[str, Any]) -> ClientApp:
    """The ClientApp of a worker process, which reads the cohort again: only plain settings cross the border."""
    torch.set_num_threads(1)
    cohort, models = prepare_cohort(SimulationConfig.parse(settings, "worker")), ModelCache()
    workers = {name: SiteWorker(site, models) for name, site in cohort.sites.items()}
    return build_client_app(lambda context: workers[str(context.node_config["site"])])
