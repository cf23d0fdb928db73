"""Flower's ServerApp around the round loop, for `flwr run .` and for `flower-server`."""

import logging
import shlex
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from memamba_core.config.compose import compose_experiment
from memamba_core.data.genomics.signatures import read_signatures
from memamba_core.errors import ConfigError
from memamba_core.io.process_setup import set_up_process
from memamba_core.training.checkpoint import Checkpoint, code_digest, save_checkpoint
from server.federation.handshake import Run
from server.federation.journal import Journal
from server.federation.participation import Participation, require_sites
from server.federation.rounds import FederationResult, run_federation

__all__ = ["app", "run_from_context"]

_log = logging.getLogger(__name__)


def run_from_context(grid: Grid, context: Context) -> FederationResult:
    """Run the federation that Flower's run config selects, and write its model.

    Run config (all text but `fold` and `min-sites`): `config-name` and `overrides` (space-separated) select the
    experiment; `signatures` is the CSV of gene groups; `output` is the folder for `model.safetensors` and the journal,
    which resumes an interrupted run; `fold` is the test fold, -1 for none; `min-sites` is the number of sites that must
    take part, also in a round unless `federation.min_results` is set; 0 for all that are connected.

    Raises:
        ConfigError: a setting is missing or not usable.
        FederationError: fewer sites took part than `min-sites` requires, or a round had too few accepted answers. The
            number of sites is checked before round 1 and, after the model was written, without the sites that refused
            every round.
    """
    settings = context.run_config
    config_name, overrides = str(settings["config-name"]), tuple(shlex.split(str(settings["overrides"])))
    experiment = compose_experiment(overrides, config_name)
    fold, output = int(settings["fold"]), Path(str(settings["output"]))
    if not settings["output"]:
        raise ConfigError("run config 'output' is empty; expected the folder for the model and the journal")
    if int(settings["min-sites"]) < 0:
        raise ConfigError(f"run config 'min-sites' is {settings['min-sites']}; expected 0 (all) or a number of sites")
    signatures = read_signatures(Path(str(settings["signatures"]))) if settings["signatures"] else None
    output.mkdir(parents=True, exist_ok=True)
    run = Run(f"run-{context.run_id}-fold-{fold}", experiment, fold, overrides)
    journal = Journal(output / "journal", experiment.digest(), fold)
    min_sites = int(settings["min-sites"]) or None
    participation = Participation.of(experiment.federation)
    if participation.needs_all and min_sites:
        participation = Participation(min_results=min_sites)
    result = run_federation(
        grid, run, signatures=signatures, journal=journal, min_sites=min_sites, participation=participation
    )
    final = Checkpoint(result.weights, experiment, result.agreement, len(result.rounds), code_digest())
    save_checkpoint(output, "model", final)
    _log.info("c_index_histogram on the test fold: %s", result.evaluation.c_index_histogram)
    require_sites([site for site in result.facts if site not in result.absent], result.absent, min_sites)
    return result


app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the federation; Flower calls this function."""
    set_up_process()  # the process may be Flower's own (`flwr run .`)
    run_from_context(grid, context)
