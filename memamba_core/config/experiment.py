"""The experiment: everything that all sites of a federation must do alike.

A digest over these settings travels with every message; a site that composes something else refuses. What belongs to
one machine only (paths, devices, limits) is not here but in `site` and `simulation`.
"""

import hashlib
import json
from collections.abc import Mapping
from functools import cache
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from memamba_core.config.base import Settings

__all__ = [
    "AgreementConfig",
    "Experiment",
    "FederationConfig",
    "LossConfig",
    "ModelConfig",
    "OptimizerConfig",
    "PrivacyConfig",
    "StrategyConfig",
    "TrainingConfig",
]

ExpertName = Literal["pathology", "genomics", "synergistic"]
ScanName = Literal["conventional", "attention"]
_UNBALANCED_EPSILON = 0.003
"""POT solves this plan outside of the log domain; a cost is at most 2, and exp(-2 / 0.003) is nearly 0 in float64."""


class AgreementConfig(Settings):
    """What the sites settle before round 1 (docs/contract.md): time bins, gene columns, scaling, groups."""

    num_bins: int = Field(4, ge=2, le=64)
    """Number K of time intervals of the discrete-time model."""
    time_bins: Literal["event_quantiles", "public"] = "event_quantiles"
    """`event_quantiles`: edges at quantiles of the federation's event times, read off summed counts on a coarse grid.
    `public`: `public_edges` as given, nothing is asked from data."""
    public_edges: tuple[float, ...] = (12.0, 24.0, 48.0)
    """Months, ascending, K-1 of them. Also the fall-back when the data give fewer than K-1 distinct edges."""
    grid_step_months: float = Field(6.0, gt=0)
    """Width of a cell of the coarse time grid on which events are counted, in months."""
    grid_num_cells: int = Field(60, ge=2, le=1000)
    """Number of cells; the last is open."""
    gene_groups: Literal["signatures", "kind"] = "signatures"
    """`signatures`: groups of the coordinator's signatures table, a symbol joins with all its kinds of measurement.
    `kind`: one group for each of RNA, copy number and mutations."""
    gene_transform: Literal["signed_log", "none"] = "signed_log"
    """Before scaling: sign(x) log(1 + |x|), or nothing."""
    gene_statistics_clip: float = Field(10.0, gt=0)
    """Transformed values are clipped to +-this before they are summed (RNA z-scores reach 36,893)."""
    gene_scaling: Literal["statistics", "public"] = "statistics"
    """`statistics`: centred and divided by mean and standard deviation of the federation's patients. `public`: left as
    they are after the transform, so that nothing is asked from data."""
    gene_scale_floor: float = Field(0.3, gt=0)
    """Lower bound of the pooled standard deviation: a rare mutation is not blown up."""
    scaled_clip: float = Field(5.0, gt=0)
    """Scaled values, of genes and of scaled features, are clipped to +-this."""
    feature_scaling: Literal["auto", "none", "zscore", "public"] = "auto"
    """`auto`: z-scores for slide-level tables, nothing for patch features of an encoder. `public`: slide-level tables
    are brought into +-`scaled_clip` by a signed log and a constant, so that nothing is asked from data."""

    @model_validator(mode="after")
    def _edges_fit(self) -> Self:
        if len(self.public_edges) != self.num_bins - 1:
            raise ValueError(
                f"public_edges has {len(self.public_edges)} edges, num_bins={self.num_bins} needs {self.num_bins - 1}"
            )
        if any(b <= a for a, b in zip((0.0, *self.public_edges), self.public_edges, strict=False)):
            raise ValueError(f"public_edges must be positive and ascending, got {list(self.public_edges)}")
        return self


class ModelConfig(Settings):
    """ME-Mamba (docs/model.md says what is the paper's and what is this project's)."""

    experts: tuple[ExpertName, ...] = ("pathology", "genomics", "synergistic")
    """Which experts are built; leaving one out is an ablation. Synergistic needs the other two."""
    d_model: int = Field(32, ge=4, le=4096)
    """Width D of a token."""
    num_layers: int = Field(1, ge=1, le=24)
    """Layers in each unimodal expert; without scans there is nothing to stack."""
    num_backbone_layers: int = Field(1, ge=1, le=24)
    """Mamba layers behind the fused tokens."""
    scans: tuple[ScanName, ...] = ("conventional", "attention")
    """Scans in a unimodal expert; an empty list leaves attention pooling alone."""
    attention_order: Literal["ascending", "descending"] = "ascending"
    """Order of the attention-based scan. A causal scan has seen most at its end: ascending puts the best there."""
    d_state: int = Field(16, ge=1, le=256)
    """State size N of the Mamba block."""
    d_conv: int = Field(4, ge=2, le=4)
    """Width of its causal convolution."""
    expand: int = Field(2, ge=1, le=8)
    """Its inner width E as a multiple of D."""
    scan_backend: Literal["auto", "reference", "chunked", "cpu", "cuda", "triton", "mamba_ssm"] = "auto"
    """How the selective scan is computed; the results agree, the speed does not."""
    recompute: bool = False
    """The backward pass computes scores and Mamba blocks of the experts again instead of keeping their insides: a third
    more time, and memory for one block instead of all. For bags of 100,000 patches."""
    group_hidden: int = Field(64, ge=1)
    """Hidden width of each gene group's network."""
    gene_activation: Literal["selu", "elu"] = "selu"
    """SELU self-normalises (Klambauer 2017); ELU is what MCAT's code does."""
    gene_dropout: Literal["plain", "alpha"] = "plain"
    """Dropout in the group networks. Alpha dropout is the self-normalising choice; plain did better on real cohorts."""
    dropout: float = Field(0.5, ge=0, lt=1)
    """Dropout rate in token networks and head; cohorts of a few hundred patients want much of it."""
    linear_skip: bool = True
    """This project's own: a linear path from the scaled genes to one shift of all logits."""
    slide_skip: bool = False
    """The same from slide-level features, for cohorts whose slides are rows of a table with families of columns."""
    transport: Literal["relaxed", "sinkhorn", "unbalanced", "exact"] = "relaxed"
    """Optimal transport plan between patch and gene tokens."""
    transport_epsilon: float = Field(0.1, gt=0)
    """Entropic regularisation of the plan (unused by `exact`)."""
    transport_marginal: float = Field(1.0, gt=0)
    """Marginal relaxation of the `unbalanced` plan."""
    transport_exact_limit: int = Field(1_000_000, ge=1)
    """Largest P x G for which `exact` is allowed; above it is an error."""
    anchor: Literal["genes", "patches"] = "genes"
    """Onto which tokens the other modality is carried."""
    mmd_tokens: Literal["subsample", "plan"] = "subsample"
    """Patch tokens in the fusion loss: a seeded subsample, or those to which the plan gives most, with its weights."""
    mmd_max_tokens: int = Field(512, ge=2)
    """Most patch tokens in the fusion loss, which costs their square."""
    hazard_bias: float = -1.5
    """Initial bias of the logits: hazards start near 0.18."""

    @model_validator(mode="after")
    def _experts_fit(self) -> Self:
        if not self.experts:
            raise ValueError("experts is empty; name at least one of pathology, genomics, synergistic")
        if "synergistic" in self.experts and not {"pathology", "genomics"} <= set(self.experts):
            raise ValueError("the synergistic expert needs experts pathology and genomics beside it")
        for name in ("experts", "scans"):
            names = getattr(self, name)
            if len(set(names)) != len(names):
                raise ValueError(f"{name} names one twice: {list(names)}")
        if self.num_layers > 1 and not self.scans:
            raise ValueError(f"num_layers={self.num_layers} with scans=[] would change nothing; layers are scans")
        if self.transport == "unbalanced" and self.transport_epsilon < _UNBALANCED_EPSILON:
            raise ValueError(
                f"transport=unbalanced needs transport_epsilon >= {_UNBALANCED_EPSILON}; below, it underflows"
            )
        return self


class LossConfig(Settings):
    """Terms of the training loss."""

    alpha: float = Field(0.0, ge=0, le=1)
    """(1 - alpha) x all patients + alpha x patients with an event (Zadeh & Schmid 2020)."""
    censored_bin: Literal["through", "before"] = "through"
    """A patient censored in bin k is credited with surviving bins ...k (MCAT's convention) or ...k-1."""
    mmd_weight: float = Field(0.1, ge=0)
    """Weight of the fusion loss."""
    transport_weight: float = Field(0.0, ge=0)
    """Weight of <plan, cost>, through which gradient reaches the transport cost."""
    expert_weight: float = Field(0.0, ge=0)
    """Weight of the likelihood on each unimodal expert's own small head; 0 builds no such head."""


class OptimizerConfig(Settings):
    """One optimizer."""

    name: Literal["adamw", "sgd"] = "adamw"
    learning_rate: float = Field(1e-3, gt=0)
    """Peak learning rate of the schedule."""
    weight_decay: float = Field(0.01, ge=0)
    """Decoupled for AdamW. `A_log`, `D`, biases and norms are free of it."""
    skip_weight_decay: float = Field(0.3, ge=0)
    """Weight decay of the linear skip alone."""
    momentum: float = Field(0.0, ge=0, lt=1)
    """SGD only."""

    @model_validator(mode="after")
    def _momentum_fits(self) -> Self:
        if self.momentum and self.name != "sgd":
            raise ValueError(f"momentum is for name=sgd; with name={self.name} it would change nothing")
        return self


class TrainingConfig(Settings):
    """The loop over patients, and the optimizer of pooled and single-site training."""

    optimizer: OptimizerConfig = OptimizerConfig()
    batch_size: int = Field(64, ge=1)
    """Patients per optimizer step."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """Learning rate over the whole run (in a federation: over all rounds)."""
    warmup_fraction: float = Field(0.1, ge=0, lt=1)
    """Share of the run in which the learning rate rises linearly."""
    gradient_clip: float = Field(1.0, gt=0)
    """Largest gradient norm of a step."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """`bfloat16`: autocast around the forward pass; weights and optimizer stay float32."""
    matmul_precision: Literal["highest", "high", "medium"] = "highest"
    """Matrix products of float32 in training: `medium` rounds their operands to bfloat16 where the processor has units
    for that, `high` to TF32 on a GPU (nothing on a CPU). docs/model.md says what it costs. Sums stay float32."""
    max_patches: int | None = Field(None, ge=1)
    """Patches sampled per patient and epoch in training; None takes all. Evaluation takes all, up to a site's limit."""
    loss: LossConfig = LossConfig()


class FederationConfig(Settings):
    """Rounds, and what the sites do in one."""

    num_rounds: int = Field(20, ge=1, le=10_000)
    local_epochs: int = Field(1, ge=1, le=100)
    """Passes over a site's patients in a round."""
    optimizer: OptimizerConfig = OptimizerConfig(name="sgd", learning_rate=0.3, weight_decay=0.0, skip_weight_decay=0.0)
    """At the sites; its state is new each round. Plain SGD did better than AdamW where sites have a handful of patients
    (docs/RESULTS.md); its weight decay is not decoupled from so large a learning rate, hence none."""
    min_results: int = Field(1, ge=1)
    """Fewest accepted answers for a round to count."""
    round_timeout_s: float = Field(3600.0, gt=0)
    """Longest wait for the answers of a training round, in seconds."""
    agreement_timeout_s: float = Field(3600.0, gt=0)
    """Longest wait for each step of the agreement, in seconds (statistics may read every bag once)."""
    curve_holdout: float = Field(0.0, ge=0, le=0.5)
    """Share of each site's training patients kept out of training for learning curves; 0: curves show training loss."""
    curve_on_test_fold: bool = False
    """Also evaluate every round on the test fold. For looking only: nothing is chosen by it."""
    max_patients_per_site: int = Field(100_000, ge=1)
    """A site that claims to have trained on more is not believed."""
    max_update_norm: float | None = Field(None, gt=0)
    """A site whose update has a larger L2 norm is left out of the round; None sets no bound."""
    wire: Literal["float32", "bfloat16_delta"] = "float32"
    """How weights come back from a site: as they are, or as the rounded change, which is half the size."""

    @model_validator(mode="after")
    def _one_curve(self) -> Self:
        if self.curve_on_test_fold and self.curve_holdout:
            raise ValueError("curve_on_test_fold and curve_holdout exclude each other: a round has one curve")
        return self


_STRATEGY_SETTINGS: dict[str, dict[str, float]] = {
    "fedavg": {},
    "fedprox": {"proximal_mu": 0.01},
    "fedavgm": {"server_learning_rate": 1.0, "server_momentum": 0.9},
    "fedadam": {"server_learning_rate": 0.01, "beta_1": 0.9, "beta_2": 0.99, "tau": 1e-3},
    "fedyogi": {"server_learning_rate": 0.01, "beta_1": 0.9, "beta_2": 0.99, "tau": 1e-3},
    "fedmedian": {},
    "fedtrimmedavg": {"trim_fraction": 0.2},
    "krum": {"num_malicious_sites": 0},
}


class StrategyConfig(Settings):
    """How the coordinator combines the sites' weights. A setting that the named strategy does not use is refused."""

    name: Literal["fedavg", "fedprox", "fedavgm", "fedadam", "fedyogi", "fedmedian", "fedtrimmedavg", "krum"] = "fedavg"
    proximal_mu: float | None = Field(None, gt=0)
    """FedProx: weight of the proximal term at the sites. It acts from the second step of a round on, so where a site
    takes one step it changes nothing."""
    server_learning_rate: float | None = Field(None, gt=0)
    """FedAvgM, FedAdam, FedYogi."""
    server_momentum: float | None = Field(None, ge=0, lt=1)
    """FedAvgM."""
    beta_1: float | None = Field(None, ge=0, lt=1)
    """FedAdam, FedYogi: decay of the first moment."""
    beta_2: float | None = Field(None, ge=0, lt=1)
    """FedAdam, FedYogi: decay of the second moment."""
    tau: float | None = Field(None, gt=0)
    """FedAdam, FedYogi: added to the root of the second moment."""
    trim_fraction: float | None = Field(None, ge=0, lt=0.5)
    """Trimmed mean: share cut off at either end."""
    num_malicious_sites: int | None = Field(None, ge=0)
    """Krum: how many sites may be hostile."""

    @model_validator(mode="before")
    @classmethod
    def _fill_in_defaults(cls, values: Any) -> Any:
        """The named strategy's own defaults, so that saying them or not gives the same settings and digest."""
        if not isinstance(values, Mapping):
            return values
        defaults = _STRATEGY_SETTINGS.get(values.get("name", "fedavg"), {})
        return {**values, **{k: v for k, v in defaults.items() if values.get(k) is None}}

    @model_validator(mode="after")
    def _only_what_is_used(self) -> Self:
        used = _STRATEGY_SETTINGS[self.name]
        unused = [k for k in type(self).model_fields if k not in {"name", *used} and getattr(self, k) is not None]
        if unused:
            raise ValueError(
                f"strategy {self.name} has no setting {', '.join(unused)}; it has: {', '.join(used) or 'none'}"
            )
        return self

    def settings(self) -> dict[str, float]:
        """The named strategy's own settings."""
        return {name: getattr(self, name) for name in _STRATEGY_SETTINGS[self.name]}


_PRIVACY_SETTINGS: dict[str, dict[str, float | str]] = {
    "none": {},
    "dp_sgd": {
        "epsilon": 8.0,
        "delta": 1e-5,
        "sampling_rate": 0.9,
        "steps_per_round": 1,
        "trained": "last_layers",
        "max_norm": 5.0,
    },
}


class PrivacyConfig(Settings):
    """Differential privacy of what a site sends, patient by patient (docs/privacy.md). `none` knows no settings."""

    name: Literal["none", "dp_sgd"] = "none"
    epsilon: float | None = Field(None, gt=0, le=1000)
    """What the whole run may cost each patient; the noise follows from it."""
    delta: float | None = Field(None, gt=0, le=1e-3)
    """Public, and the same at every site; below one over the patients of the largest site."""
    sampling_rate: float | None = Field(None, gt=0, le=0.9)
    """Probability with which each patient takes part in a step. Public, not made from a site's number of patients."""
    steps_per_round: int | None = Field(None, ge=1, le=1000)
    """Noisy steps in a round; in this mode they take the place of `federation.local_epochs`."""
    trained: Literal["last_layers", "all"] | None = None
    """Which parameters learn; the others stay as they were drawn. `last_layers`: the linear skips and the last layer of
    the head. Noise falls on every trained parameter, and a hospital's patients can pay for few."""
    max_norm: float | None = Field(None, gt=0)
    """Norm C to which each patient's gradient is clipped. Where it is below most norms, all patients count alike, those
    with and without the event."""

    @model_validator(mode="before")
    @classmethod
    def _fill_in_defaults(cls, values: Any) -> Any:
        """The defaults of the mode, so that saying them or not gives the same settings and digest."""
        if not isinstance(values, Mapping):
            return values
        defaults = _PRIVACY_SETTINGS.get(values.get("name", "none"), {})
        return {**values, **{k: v for k, v in defaults.items() if values.get(k) is None}}

    @model_validator(mode="after")
    def _only_what_is_used(self) -> Self:
        used = _PRIVACY_SETTINGS[self.name]
        unused = [k for k in type(self).model_fields if k not in {"name", *used} and getattr(self, k) is not None]
        if unused:
            raise ValueError(f"privacy={self.name} has no setting {', '.join(unused)}; choose privacy=dp_sgd")
        return self


class Experiment(Settings):
    """All that sites and coordinator do alike, under one digest."""

    seed: int = Field(0, ge=0, lt=2**31)
    """Seed of initialisation, order and dropout. Randomness is f(seed, site name, round, purpose)."""
    agreement: AgreementConfig = AgreementConfig()
    model: ModelConfig = ModelConfig()
    training: TrainingConfig = TrainingConfig()
    federation: FederationConfig = FederationConfig()
    strategy: StrategyConfig = StrategyConfig()
    privacy: PrivacyConfig = PrivacyConfig()

    @model_validator(mode="after")
    def _private_in_everything(self) -> Self:
        """Under differential privacy nothing else may be made from patients, and no setting may be without effect."""
        if self.privacy.name == "none":
            return self
        broken = [reason for is_broken, reason in self._reasons_against_privacy() if is_broken]
        if broken:
            raise ValueError(f"privacy={self.privacy.name}: " + "; ".join(broken))
        return self

    def _reasons_against_privacy(self) -> tuple[tuple[bool, str], ...]:
        agreement, federation = self.agreement, self.federation
        return (
            (
                agreement.time_bins != "public",
                "agreement.time_bins must be public: quantiles of event times are made from patients",
            ),
            (
                agreement.gene_scaling != "public",
                "agreement.gene_scaling must be public: means and deviations are made from patients",
            ),
            (
                agreement.feature_scaling not in ("public", "none"),
                "agreement.feature_scaling must be public or none: means and deviations are made from patients",
            ),
            (
                bool(federation.curve_holdout) or federation.curve_on_test_fold,
                "federation.curve_holdout and curve_on_test_fold must be off: the metrics of a round tell of patients",
            ),
            (
                federation.optimizer.name != "sgd" or federation.optimizer.momentum != 0,
                "federation.optimizer must be plain sgd without momentum: the noise is made for its steps",
            ),
            (
                federation.local_epochs != 1,
                "federation.local_epochs must stay 1: privacy.steps_per_round takes its place",
            ),
        )

    def digest(self) -> str:
        """SHA-256 (hex) over the settings in canonical JSON."""
        return _digest(self)


@cache
def _digest(experiment: Experiment) -> str:
    text = json.dumps(experiment.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
