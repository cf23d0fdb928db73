"""Published records of a run over the network: `summary.json` and the lines of `metrics.jsonl`.

Their JSON Schemas lie in `docs/reference/schemas/`.
"""

from typing import Any

from memamba_core.io.json_model import JsonModel
from server.federation.outcome import Failed, SiteMetrics, Trained

from .attendance import Attendance

__all__ = [
    "ClosingEvaluation",
    "DeclaredSite",
    "DeploymentSummary",
    "FailedLine",
    "MetricsLine",
    "RoundFailure",
    "RunDigests",
    "TrainedLine",
]


class _Line(JsonModel):
    """Place of a line of `metrics.jsonl`."""

    fold: int
    """Test fold; -1 without one."""
    round: int
    """Round, from 1."""
    site: str
    """Name of the site."""


class TrainedLine(Trained, _Line):
    """Line of `metrics.jsonl` for a site whose training reply was accepted.

    The metrics under `incoming` belong to the weights that came *into* the round.
    """


class FailedLine(Failed, _Line):
    """Line of `metrics.jsonl` for a site that gave no usable reply in the round."""


MetricsLine = TrainedLine | FailedLine
"""One line of `metrics.jsonl`: one round at one site."""


class DeclaredSite(JsonModel):
    """Size of a site as the site declared it; a site below its disclosure threshold discloses the band only."""

    size_band: int
    """Lower end of the public band that holds the number of training patients."""
    num_patients: int | None
    """Patients; null where the site suppresses the number."""
    num_events: int | None
    """Patients with the event; null where the site suppresses the number."""


class ClosingEvaluation(JsonModel):
    """Sums over the test patients of the sites that disclose theirs, of the final weights."""

    num_patients: int
    """Test patients."""
    num_events: int | None
    """Test patients with the event; null where the sites do not disclose it."""
    loss: float | None
    """Mean negative log-likelihood per patient; null without a patient."""
    sites: dict[str, SiteMetrics | Failed]
    """Metrics of each site, or the reason why it gave none."""


class RoundFailure(JsonModel):
    """Site that gave no usable reply in a round."""

    round: int
    """Round, from 1."""
    site: str
    """Name of the site."""
    failure: str
    """Reason."""


class RunDigests(JsonModel):
    """SHA-256 digests (hex) by which two runs are compared."""

    experiment: str
    """Settings of the experiment."""
    code: str
    """Sources of `memamba_core`."""
    agreement: str
    """Time bins, genes and scaling."""


class DeploymentSummary(JsonModel):
    """Contents of `summary.json` of `flower-server run`. The file marks the run as finished."""

    attendance: Attendance
    """Sites that answered in every round, and their patients."""
    run: str
    """Name of the run."""
    num_sites: int
    """Sites that took part."""
    sites: dict[str, DeclaredSite]
    """Declared sizes of these sites."""
    left_out: dict[str, str]
    """Sites that were asked and did not take part, with the reason."""
    fold: int
    """Test fold; -1 where every patient was trained on."""
    c_index_histogram: float | None
    """Concordance over all sites, from summed risk-by-time counts; null below 20 comparable pairs."""
    c_index_within_site: float | None
    """Concordance over pairs inside sites, counts added over sites; null below 20 comparable pairs."""
    without_c_index: str | None
    """Reason why both are null; null where they are not."""
    closing_evaluation: ClosingEvaluation
    """Evaluation of the final weights."""
    num_rounds: int
    """Finished rounds."""
    ended_early: str | None
    """Reason why fewer rounds than `federation.num_rounds` took place: the sites' privacy budgets were spent; null if
    all rounds took place."""
    failures: tuple[RoundFailure, ...]
    """Sites that gave no usable reply, round by round."""
    time_bin_edges: tuple[float, ...]
    """Inner edges of the time bins, months."""
    num_gene_columns: int
    """Molecular columns that the model uses."""
    num_parameters: int
    """Parameters of the model."""
    seconds: float
    """Wall time of the rounds."""
    bytes_per_round: int | None
    """Mean bytes of weights and counts, both ways and over all sites; null without a round."""
    settings: dict[str, Any]
    """Settings of the experiment in full."""
    digests: RunDigests
    """Digests of settings, code and agreement."""
    warnings: tuple[str, ...]
    """Doubts about sites, and sites that missed rounds."""
    versions: dict[str, str | int]
    """Versions of this package, its protocol, Python and the libraries."""
    command: str
    """Command that repeats the run."""

    @property
    def is_complete(self) -> bool:
        """True if all planned rounds took place and no site missed anything."""
        return self.ended_early is None and self.attendance.is_complete
