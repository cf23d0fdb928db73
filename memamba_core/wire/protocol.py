"""Messages between coordinator and sites: the closed list of everything that can leave a site.

Each message is a frozen class: fields (numbers, texts, lists of them) and named sets of arrays. `message` converts a
message to plain data and refuses unknown keys, missing keys and wrong types; `flower_records` encodes the plain data.

==============  ============================  ==============================================================
phase           coordinator -> site           site -> coordinator
==============  ============================  ==============================================================
``facts``       `FactsRequest`                `FactsReply`: declared encoder and units, column names, size bands
``statistics``  `StatisticsRequest`          `StatisticsReply`: means and squares of continuous columns
``agreement``   `AgreementRequest`            `AgreementReply`: the digest that the site now holds
``train``       `TrainRequest`: weights       `TrainReply`: weights, patients per parameter group, a rounded loss
``evaluate``    `EvaluateRequest`: weights    `EvaluateReply`: a rounded loss of the final weights, once
==============  ============================  ==============================================================

A reply is one of these, or a `Refusal` with a fixed text, which holds no path, value or patient.

Sites of a simulation, where nothing leaves the machine, fill further fields: exact totals, event counts on the time
grid, counts of pairs and histograms. They are `SIMULATION_ONLY`: `check_leaves` refuses them in the reply of a site
of a deployment, before it is sent.
"""

import enum
import math
from collections.abc import Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import ClassVar, Literal

import numpy as np
import pydantic

from memamba_core.errors import ProtocolError
from memamba_core.wire.message import WireMessage

__all__ = [
    "PROTOCOL_VERSION",
    "SIMULATION_ONLY",
    "SIZE_BANDS",
    "AgreementReply",
    "AgreementRequest",
    "EvaluateReply",
    "EvaluateRequest",
    "FactsReply",
    "FactsRequest",
    "Metrics",
    "Phase",
    "Refusal",
    "StatisticsReply",
    "StatisticsRequest",
    "TrainReply",
    "TrainRequest",
    "check_leaves",
    "package_version",
    "size_band",
]

PROTOCOL_VERSION = 4
"""Number of the protocol, increased whenever a message changes. Sites and coordinator must have the same number."""

SIZE_BANDS = (0, 1, 10, 25, 50, 100, 250, 500, 1000, 10_000)
"""Lower ends of the public bands that a site gives in place of its number of patients."""


@cache
def package_version() -> str:
    """Return the installed version of this distribution (`0+source` in an uninstalled checkout)."""
    try:
        return version("memamba-federated")
    except PackageNotFoundError:
        return "0+source"


def size_band(count: int) -> int:
    """Return the lower end of the band that holds `count`: 37 -> 25."""
    if count < 0:
        raise ValueError(f"a count cannot be negative, got {count}")
    return max(lower for lower in SIZE_BANDS if lower <= count)


class Phase(enum.StrEnum):
    """Phases of a run, in order."""

    FACTS = "facts"
    STATISTICS = "statistics"
    AGREEMENT = "agreement"
    TRAIN = "train"
    EVALUATE = "evaluate"

    @property
    def message_type(self) -> str:
        """Flower's message type: training and evaluation have their own types, the other phases are queries."""
        return self.value if self in (Phase.TRAIN, Phase.EVALUATE) else f"query.{self.value}"


class Refusal(enum.Enum):
    """Reason why a site refuses a request: a code and a fixed text. The full reason stays in the site's own log."""

    VERSION = (101, f"the site runs version {package_version()} of this software, protocol {PROTOCOL_VERSION}")
    MESSAGE = (102, "the message does not follow the protocol")
    CONFIG = (103, "the settings do not match their digest, or are not those of this run")
    SETTINGS = (104, "the settings are not a valid experiment")
    AGREEMENT = (105, "the site holds a different agreement, or none")
    AGREEMENT_FIELD = (106, "the agreement does not fit the site's data")
    POLICY = (107, "the site's policy does not allow this request")
    DATA = (108, "the site's data could not be read; see the site's log")
    NOTHING_TO_DO = (109, "the site has no patient for this request")
    NOT_FINITE = (110, "training at the site gave values that are not finite")
    BUDGET = (111, "the site's privacy budget does not allow this round")
    TIME = (112, "training exceeded the site's time limit")
    STOPPED = (113, "the site's client was stopped during this request")
    ABSENT = (114, "the site's executor is not running")
    PENDING = (115, "the site's operator has not approved this run yet")
    DECLINED = (116, "the site's operator refused this run")
    INTERNAL = (199, "a program error at the site; see the site's log")

    def __init__(self, code: int, text: str) -> None:
        self.code = code
        self.text = text


Arrays = dict[str, np.ndarray]


class FactsRequest(WireMessage):
    """Coordinator -> site: identity of the coordinator's software and settings of the run.

    Attributes:
        protocol: protocol number of the coordinator.
        package: package version of the coordinator.
        run_id: name of this run, for logs and the site's state folder.
        settings: the validated experiment as canonical JSON (`Experiment.to_json`).
        config_digest: SHA-256 over `settings`.
        fold: test fold of this run; -1 trains on every patient.
        roster: names of the sites that are asked to take part; empty where the coordinator does not know them.
    """

    protocol: int
    package: str
    run_id: str
    settings: str
    config_digest: str
    fold: int
    roster: tuple[str, ...] = ()


class FactsReply(WireMessage):
    """Site -> coordinator: declarations of the site, before anything is computed from its data.

    Attributes:
        site: name as enrolled.
        time_unit, event_means: as declared in site.yaml, so that the coordinator can name a mix-up.
        encoder: declared encoder with magnification, "" without slides.
        feature_width: width F of a feature row, 0 without slides.
        feature_columns: names of the columns of a slide-level table; empty for patch bags.
        feature_families: family of each of those columns; empty where a row is one token.
        gene_columns: names of the molecular columns.
        size_band: lower end of the band (`SIZE_BANDS`) of the site's training patients.
        pathology_band, genomics_band: the same for patients with that modality.
        boundary: `deployment`, where only what the table of this module lists leaves; `simulation`, where all does.
        num_patients, num_events: exact, of a simulation only.
    """

    site: str
    time_unit: str
    event_means: str
    encoder: str
    feature_width: int
    feature_columns: tuple[str, ...]
    feature_families: tuple[str, ...]
    gene_columns: tuple[str, ...]
    size_band: int
    pathology_band: int
    genomics_band: int
    boundary: Literal["simulation", "deployment"] = "simulation"
    num_patients: int | None = None
    num_events: int | None = None


class StatisticsRequest(WireMessage):
    """Coordinator -> site: sum these columns and count events on this grid, over training patients.

    Attributes:
        config_digest, run_id, fold: as in `FactsRequest`.
        gene_columns: columns that all sites with molecular data have, in this order.
        scale_features: True asks for sums over feature columns as well.
        count_events: True asks for event counts on the time grid; False with public time bins.
    """

    run_id: str
    config_digest: str
    fold: int
    gene_columns: tuple[str, ...]
    scale_features: bool
    count_events: bool


class StatisticsReply(WireMessage):
    """Site -> coordinator: sums, all zero from a site below its thresholds, which still receives the agreement.

    Attributes:
        genes: `count`, `mean`, `m2` per gene column (float64), of transformed and clipped values; `m2` is the sum of
            squared deviations from `mean` (Chan et al. 1983), so that sites can be added up without cancellation.
        features: the same per feature column, empty if not requested.
        events: `event` and `censored`, int64 counts per cell of the coarse time grid; empty if not requested, and
            from a site of a deployment.
    """

    array_sets: ClassVar[tuple[str, ...]] = ("genes", "features", "events")
    genes: Arrays
    features: Arrays
    events: Arrays


class AgreementRequest(WireMessage):
    """Coordinator -> site: time bins, genes and scaling that all sites use from now on.

    Attributes:
        run_id, config_digest, fold: as in `FactsRequest`.
        agreement: `memamba_core.data.agreement.Agreement` as canonical JSON, without the scaling.
        agreement_digest: SHA-256 over `agreement` and the scaling.
        scaling: `gene-center`, `gene-scale`, `feature-center`, `feature-scale` (float64; empty where unused).
    """

    array_sets: ClassVar[tuple[str, ...]] = ("scaling",)
    run_id: str
    config_digest: str
    fold: int
    agreement: str
    agreement_digest: str
    scaling: Arrays


class AgreementReply(WireMessage):
    """Site -> coordinator: digest over the agreement that the site received and accepted."""

    agreement_digest: str


class TrainRequest(WireMessage):
    """Coordinator -> site: train on these weights.

    Attributes:
        weights: the whole model by parameter name.
        server_round: from 1.
        proximal_mu: weight of FedProx's term; None without one.
        config_digest, agreement_digest, run_id, fold: as in `FactsRequest`.
    """

    array_sets: ClassVar[tuple[str, ...]] = ("weights",)
    weights: Arrays
    run_id: str
    config_digest: str
    agreement_digest: str
    fold: int
    server_round: int
    proximal_mu: float | None = None


class Metrics(WireMessage):
    """Aggregates over one set of a site's patients; a number below the site's thresholds is suppressed (None).

    Attributes:
        num_patients, num_events: of the set.
        loss_sum: negative log-likelihood summed over its patients; of a deployment, `num_patients` times the mean,
            which is rounded to 3 decimals.
        concordant, discordant, tied_risk: comparable pairs inside the site (Harrell).
        counts: `histogram`, int64 [2, R, T]: censored (0) and events (1) by cell of the fixed risk edges over [-K, 0]
            and of the coarse time grid; summed over sites it gives `c_index_histogram`.
    """

    array_sets: ClassVar[tuple[str, ...]] = ("counts",)
    num_patients: int | None = None
    num_events: int | None = None
    loss_sum: float | None = None
    concordant: int | None = None
    discordant: int | None = None
    tied_risk: int | None = None
    counts: Arrays


class TrainReply(Metrics):
    """Site -> coordinator: its weights after training, and `Metrics` of the weights that came *in*.

    Attributes:
        weights: the whole model by parameter name, also where nothing was trained; with
            `federation.wire=bfloat16_delta` the change of each, as `memamba_core.wire.weight_deltas` writes it.
        trained: parameter group -> number of patients that contributed a gradient to the group.
        train_loss: mean loss per patient over the local epochs, rounded to 3 decimals in a deployment; None below the
            threshold.
    """

    array_sets: ClassVar[tuple[str, ...]] = ("weights", "counts")
    weights: Arrays
    trained: dict[str, int]
    train_loss: float | None = None

    @pydantic.field_validator("train_loss")
    @classmethod
    def _finite(cls, value: float | None) -> float | None:
        if value is not None and not math.isfinite(value):
            raise ValueError(f"must be finite, got {value}")
        return value


class EvaluateRequest(WireMessage):
    """Coordinator -> site, after the last round: the final weights, to be evaluated on the test fold and kept."""

    array_sets: ClassVar[tuple[str, ...]] = ("weights",)
    weights: Arrays
    run_id: str
    config_digest: str
    agreement_digest: str
    fold: int


class EvaluateReply(Metrics):
    """Site -> coordinator: `Metrics` of the final weights on its patients of the test fold."""


SIMULATION_ONLY: Mapping[type[WireMessage], tuple[str, ...]] = {
    FactsReply: ("num_patients", "num_events"),
    StatisticsReply: ("events",),
    TrainReply: ("num_patients", "num_events", "loss_sum", "concordant", "discordant", "tied_risk", "counts"),
    EvaluateReply: ("num_events", "concordant", "discordant", "tied_risk", "counts"),
}
"""Fields of each reply that no site of a deployment fills: they tell of few patients, or differ by one."""


def check_leaves(reply: WireMessage) -> None:
    """Check that a reply holds nothing that only a simulation may hold.

    Raises:
        ProtocolError: a field of `SIMULATION_ONLY` is filled.
    """
    for name in SIMULATION_ONLY.get(type(reply), ()):
        value = getattr(reply, name)
        if value is not None and not (isinstance(value, Mapping) and not value):
            raise ProtocolError(f"{type(reply).__name__}.{name} is filled; it does not leave a site of a deployment")
