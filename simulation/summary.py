"""Results of a simulation as typed records: `summary.json`, `outcome.json`, `multirun.json`.

Every record is frozen and closed; what was not run is null. The JSON Schemas in `docs/reference/schemas` are made from
these classes by `python -m simulation.schemas`.
"""

from collections.abc import Mapping
from typing import Any, Literal

from memamba_core.io.json_model import JsonModel
from server.attendance import Attendance
from server.federation.outcome import Failed, SiteMetrics

__all__ = [
    "METHODS",
    "FederatedOutcome",
    "FoldDetails",
    "FoldOutcome",
    "FoldSummary",
    "LocalOutcome",
    "LocalSite",
    "MeanStd",
    "Method",
    "MethodScores",
    "MultirunGroup",
    "MultirunLine",
    "MultirunSummary",
    "PooledOutcome",
    "PrivacySpent",
    "SimulationDigests",
    "SimulationSummary",
    "SiteCounts",
    "TestMetrics",
]

Method = Literal["federated", "pooled", "local"]
METHODS: tuple[Method, ...] = ("federated", "pooled", "local")


class TestMetrics(JsonModel):
    """Metrics of one model on the union test fold; None where a metric is undefined or too few pairs are behind it."""

    __test__ = False  # not a test class, whatever its name suggests to pytest

    c_index: float | None
    """Exact Harrell C-index over all test patients; null below 20 comparable pairs or 3 events."""
    num_patients: int
    """Test patients."""
    num_events: int
    """Test patients with the event."""
    auc_at_months: dict[str, float | None]
    """Time-dependent AUC at each inner edge of the time bins; keys are months."""
    auc_mean: float | None
    """Mean of the defined values of `auc_at_months`."""
    integrated_brier_score: float | None
    """Brier score of the survival curve averaged over time; lower is better."""
    loss: float | None
    """Mean negative log-likelihood per test patient."""


class PrivacySpent(JsonModel):
    """Differential privacy that the sites' ledgers recorded in a fold."""

    delta: float
    """Probability with which the bound may fail."""
    noise_multiplier: float
    """Standard deviation of the noise, in units of `max_norm`."""
    sampling_rate: float
    """Probability with which a patient takes part in a step."""
    steps_per_round: int
    """Noisy steps of a site in a round."""
    max_norm: float
    """Bound on the norm of one patient's gradient."""
    epsilon: float
    """Largest epsilon of a site: the loss of a patient of one site."""
    epsilon_in_two_sites: float
    """Epsilon of a patient whose data two sites hold."""
    epsilon_of_site: dict[str, float]
    """Epsilon by site."""


class FederatedOutcome(TestMetrics):
    """The federation of a fold."""

    c_index_histogram: float | None
    """Concordance from summed risk-by-time counts, as a coordinator knows it."""
    c_index_within_site: float | None
    """Concordance of pairs inside sites, counts added over sites."""
    closing_evaluation: dict[str, SiteMetrics | Failed]
    """Metrics of the final weights that each site disclosed, or its failure."""
    time_bin_edges: list[float]
    """Inner edges of the time bins in months."""
    num_gene_columns: int
    """Gene columns that the model reads: those that every site with genes has."""
    num_parameters: int
    """Trained numbers of the model."""
    left_out: dict[str, str]
    """Sites that were asked and did not take part, with the reason."""
    warnings: list[str]
    """Sentences for the person who reads the run."""
    bytes_per_round: list[int]
    """Bytes sent and received in each round, over all sites."""
    seconds: float
    """Wall time of the rounds."""
    privacy: PrivacySpent | None = None
    """None without differential privacy."""
    attendance: Attendance | None = None
    """Sites whose updates are in every round, and their patients; None in the records of earlier versions."""


class PooledOutcome(TestMetrics):
    """One model trained on the union of all training patients."""

    seconds: float
    """Wall time."""


class LocalSite(JsonModel):
    """One site alone: its own model, or the reason why there is none."""

    num_patients: int
    """Training patients."""
    num_events: int
    """Training patients with the event."""
    c_index: float | None = None
    """C-index of the site's model on the union test fold."""
    own_c_index: float | None = None
    """C-index on the site's own test patients, where they form at least 50 comparable pairs."""
    not_trained: str | None = None
    """Reason why no model was trained; None where one was."""


class LocalOutcome(JsonModel):
    """Each site alone."""

    c_index: float | None
    """Mean over sites of the C-index on the union test fold, weighted by training patients."""
    sites: dict[str, LocalSite]
    """Result by site."""
    seconds: float
    """Wall time of all sites."""


class FoldDetails(JsonModel):
    """Results of all methods on one test fold; None for a method that was not run."""

    fold: int
    """Test fold."""
    federated: FederatedOutcome | None = None
    """The federation."""
    pooled: PooledOutcome | None = None
    """One model on pooled data."""
    local: LocalOutcome | None = None
    """Each site alone."""
    agreement_digest: str | None = None
    """Digest of time bins, gene columns and scaling, the same for all methods; None before it is known."""

    def c_index(self, method: Method) -> float | None:
        """Return the C-index of a method; None where it was not run or is undefined."""
        outcome = getattr(self, method)
        return None if outcome is None else outcome.c_index


class FoldOutcome(FoldDetails):
    """Contents of `fold-K/outcome.json`: what is finished of a fold, so that a resumed run keeps it."""

    oracle_c_index: float | None = None
    """Best reachable C-index on the test fold; known for generated cohorts only."""

    def details(self) -> FoldDetails:
        """Return the part that `summary.json` shows."""
        return FoldDetails(**{name: getattr(self, name) for name in FoldDetails.model_fields})


class FoldSummary(JsonModel):
    """C-index of each method on one test fold."""

    fold: int
    """Test fold."""
    federated: float | None
    """The federation."""
    pooled: float | None
    """One model on pooled data."""
    local: float | None
    """Each site alone, mean over sites."""


class MeanStd(JsonModel):
    """Mean and sample standard deviation; no deviation of a single value."""

    mean: float
    """Mean."""
    std: float | None
    """Sample standard deviation; None of a single value."""


class MethodScores(JsonModel):
    """C-index of each method over the folds (or over seeds); None for a method that was not run."""

    federated: MeanStd | None
    """The federation."""
    pooled: MeanStd | None
    """One model on pooled data."""
    local: MeanStd | None
    """Each site alone."""


class SiteCounts(JsonModel):
    """Patients of one simulated site."""

    num_patients: int
    """Patients."""
    num_events: int
    """Patients with the event."""


class SimulationDigests(JsonModel):
    """SHA-256 digests of what determines the numbers."""

    experiment: str
    """Over the experiment's settings."""
    code: str
    """Over the Python sources of `memamba_core`."""
    agreement: dict[str, str | None]
    """By fold: over time bins, gene columns and scaling."""


class SimulationSummary(JsonModel):
    """Contents of `summary.json`."""

    cohort: str
    """Name of the cohort."""
    partition: str
    """Name of the partition."""
    num_sites: int
    """Simulated sites."""
    num_patients: int
    """Patients of the cohort."""
    num_events: int
    """Patients with the event."""
    num_with_genes: int
    """Patients with molecular data."""
    num_with_slides: int
    """Patients with features of at least one slide."""
    num_gene_columns: int
    """Gene columns of the cohort's table; each fold's `num_gene_columns` counts those that its model reads."""
    sites: dict[str, SiteCounts]
    """By site."""
    folds: list[FoldSummary]
    """C-index per method and fold. Exact on the union test fold; `local` is a mean over sites."""
    c_index: MethodScores
    """Mean and deviation over folds."""
    oracle_c_index: float | None
    """Mean over folds of the best reachable C-index; known for generated cohorts only."""
    details: list[FoldDetails]
    """Everything else, by fold."""
    seconds: float
    """Training time of all methods and folds."""
    bytes_per_round: int | None
    """Mean bytes of a round, over all sites; None without a federation."""
    settings: dict[str, Any]
    """All settings as composed."""
    digests: SimulationDigests
    """Digests of settings, code and agreement."""
    scan_backend: str
    """Implementation of the selective scan that was used."""
    warnings: list[str]
    """Sentences for the person who reads the run; each once."""
    versions: dict[str, str | int]
    """Package, protocol, Python, torch, Flower, numpy."""
    command: str
    """Command line that repeats the run."""


class MultirunLine(JsonModel):
    """One run of `--multirun`."""

    folder: str
    """Name of the run's folder."""
    settings: dict[str, str]
    """The settings that differ between runs."""
    c_index: Mapping[Method, float | None]
    """Mean over folds, by method; None where it was not run or is undefined."""
    seconds: float
    """Training time."""


class MultirunGroup(JsonModel):
    """Runs that differ in the seed only."""

    settings: dict[str, str]
    """The settings that differ between groups."""
    seeds: list[str]
    """Seeds of the runs."""
    c_index: MethodScores
    """Mean and deviation over seeds of each run's mean over folds."""


class MultirunSummary(JsonModel):
    """Contents of `multirun.json`: one table over seeds and settings."""

    runs: list[MultirunLine]
    """Finished runs, in order."""
    over_seeds: list[MultirunGroup]
    """Empty where no two runs differ in the seed only."""
