"""Build the grid of a simulation: one worker per site behind one ClientApp, in this process or in a few others."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from flwr.clientapp import ClientApp

from client.app import build_client_app
from client.model_cache import ModelCache
from client.site import Site
from client.worker import SiteWorker
from memamba_core.config.privacy import DPSGDConfig, PrivacyConfig
from memamba_core.config.simulation import SimulationConfig
from memamba_core.config.site import SitePrivacy
from memamba_core.io.process_setup import set_up_process
from simulation.cohort import SimulatedCohort, prepare_cohort

from .local import InlineRunner, LocalGrid, ProcessRunner, Runner

__all__ = ["build_worker_app", "open_grid"]


def open_grid(
    config: SimulationConfig,
    cohort: SimulatedCohort,
    on_reply: Callable[[str], None] | None = None,
    state: Path | None = None,
) -> LocalGrid:
    """Build a grid over the simulated sites, in this process or in `config.workers` others.

    Args:
        config: settings of the simulation.
        cohort: the simulated sites.
        on_reply: called with the name of the site after each answer.
        state: new folder for the state of the sites; differential privacy needs one, for their ledgers. None keeps
            everything in memory, or with worker processes in a temporary folder, from which the replacement of a
            process that died continues.
    """
    if not config.workers:
        workers = _workers(config, cohort, state)
        runner: Runner = InlineRunner(build_client_app(lambda context: workers[str(context.node_config["site"])]))
    else:
        scratch = TemporaryDirectory(prefix="flower-simulate-", ignore_cleanup_errors=True) if state is None else None
        arguments = (config.model_dump(mode="json"), state if scratch is None else Path(scratch.name))
        runner = ProcessRunner(build_worker_app, arguments, list(cohort.sites), config.workers, scratch)
    return LocalGrid(list(cohort.sites), runner, on_reply)


def build_worker_app(settings: dict[str, Any], state: Path) -> ClientApp:
    """Build the ClientApp of a worker process, which reads the cohort again: only plain settings are sent to it."""
    set_up_process()  # the environment is inherited, the allocator's setting is not
    torch.set_num_threads(1)
    config = SimulationConfig.parse(settings, "worker")
    workers = _workers(config, prepare_cohort(config), state)
    return build_client_app(lambda context: workers[str(context.node_config["site"])])


def _workers(config: SimulationConfig, cohort: SimulatedCohort, state: Path | None) -> dict[str, SiteWorker]:
    models, privacy = ModelCache(), config.experiment.privacy
    return {
        name: SiteWorker(site if state is None else _with_state(site, state / name, privacy), models)
        for name, site in cohort.sites.items()
    }


def _with_state(site: Site, state: Path, privacy: PrivacyConfig) -> Site:
    """Give the site a state folder, and a budget that is just enough for the run."""
    budget = None
    if isinstance(privacy, DPSGDConfig):
        budget = SitePrivacy(max_epsilon=privacy.epsilon, delta=privacy.delta)
    return replace(site, config=site.config.model_copy(update={"state": state, "privacy": budget}))
