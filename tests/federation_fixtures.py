"""A federation small enough for tests: six generated hospitals, a model of a few thousand weights, two rounds.

`Federation` runs the coordinator's own round loop over `LocalGrid`; `faults` put a hospital's answer out of order.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache

from flwr.app import Context, Message

from client.app import build_client_app
from client.local import SiteWorker
from client.models import ModelCache
from memamba_core.config.compose import compose_simulation, experiment_overrides
from memamba_core.config.simulation import SimulationConfig
from server.rounds import FederationResult, run_federation
from server.settle import Run
from simulation.cohort import SimulatedCohort, prepare_cohort
from simulation.local_grid import InlineRunner, LocalGrid

TINY = (
    "data.synthetic.num_patients=48",
    "data.synthetic.num_sites=4",
    "data.synthetic.patches=[2,4]",
    "data.synthetic.feature_width=5",
    "data.synthetic.num_genes=12",
    "partition=iid",
    "partition.num_sites=4",
    "model.d_model=4",
    "model.d_state=2",
    "model.group_hidden=4",
    "model.scan_backend=reference",
    "training.max_patches=2",
    "federation.num_rounds=2",
    "device=cpu",
)
"""Overrides of a simulation of seconds. A later override of the same key wins."""

GENES_ONLY = ("data.synthetic.missing_slides=0", "data.synthetic.missing_genes=0", "model.experts=[genomics]")
"""The fastest: no slide is read, and every hospital trains every parameter but the vector of absent genes."""

Fault = Callable[[Message, Message], Message]
"""From a request and the honest answer to what the hospital sends instead; it may raise."""


composed = cache(compose_simulation)  # Hydra takes as long as two rounds; settings are frozen


def tiny(*overrides: str) -> tuple[str, ...]:
    """`TINY` with changes; each key once, because Hydra refuses a key that is given twice."""
    merged = dict(o.split("=", 1) for o in (*TINY, *overrides))
    return tuple(f"{key}={value}" for key, value in merged.items())


@dataclass
class Federation:
    """Coordinator and hospitals in one process.

    Attributes:
        overrides: as given to `tiny`.
        faults: hospital -> what happens to its answers.
        asked: every request in order: hospital and message type.
    """

    overrides: tuple[str, ...]
    faults: Mapping[str, Fault] = field(default_factory=dict)
    asked: list[tuple[str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.config: SimulationConfig = composed(self.overrides)
        self.cohort: SimulatedCohort = prepare_cohort(self.config)
        self.restart()

    def restart(self) -> None:
        """All hospitals start anew, with what they have on disk."""
        models = ModelCache()
        self.workers = {name: SiteWorker(site, models) for name, site in self.cohort.sites.items()}
        self._app = build_client_app(lambda context: self.workers[str(context.node_config["site"])])

    @property
    def sites(self) -> list[str]:
        """Names in alphabetical order."""
        return sorted(self.cohort.sites)

    def grid(self, sites: list[str] | None = None) -> LocalGrid:
        """Node ids are given in the order of `sites`."""
        return LocalGrid(self.sites if sites is None else sites, InlineRunner(self._answer))  # type: ignore[arg-type]

    def run(self, fold: int = 0, **changes: object) -> Run:
        """What the coordinator tells of itself."""
        return Run("test", self.config.experiment, experiment_overrides(self.overrides), fold=fold, **changes)  # type: ignore[arg-type]

    def train(self, journal=None, observer=None, sites=None) -> FederationResult:
        """The whole run."""
        return run_federation(
            self.grid(sites), self.run(), signatures=self.cohort.signatures, journal=journal, observer=observer
        )

    def _answer(self, message: Message, context: Context) -> Message:
        site = str(context.node_config["site"])
        self.asked.append((site, message.metadata.message_type))
        reply = self._app(message=message, context=context)
        return self.faults[site](message, reply) if site in self.faults else reply
