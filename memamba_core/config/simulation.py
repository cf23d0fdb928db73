"""Settings of a simulation: the cohort, its partition into sites, and the methods that are run on them."""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from memamba_core.config.base import Settings
from memamba_core.config.experiment import Experiment
from memamba_core.config.site import ClinicalTable, Device, DisclosureConfig, FeatureFolder, GenomicsTable, Name

__all__ = [
    "MACHINE_SETTINGS",
    "AttacksConfig",
    "CohortConfig",
    "DirichletPartition",
    "IIDPartition",
    "MergedTSSPartition",
    "PartitionConfig",
    "RegionPartition",
    "SimulationConfig",
    "SyntheticConfig",
    "TSSPartition",
]


MACHINE_SETTINGS = ("workers", "threads", "device")
"""Settings of the machine, not of the result: a resumed run may have others."""


class SyntheticConfig(Settings):
    """A generated cohort with planted risk, and a known best reachable C-index."""

    num_patients: int = Field(480, ge=20)
    """Patients of all sites together."""
    num_sites: int = Field(8, ge=1, le=200)
    """Number of sites, of unequal size."""
    risk: Literal["genes", "patches", "both", "interaction", "correspondence", "order"] = "both"
    """Source of the risk: genes; a rare kind of patch; the sum of both; an interaction of both (XOR) that has no
    marginal effect; the agreement of six gene groups with six kinds of patches (none with a marginal effect); or the
    order of the patches (clustered or scattered, with equal shares)."""
    effect: float = Field(1.5, ge=0)
    """Log hazard ratio per standard deviation of the planted score."""
    num_genes: int = Field(60, ge=6)
    """Genes with expression; some of them have copy number and mutations, too."""
    patches: tuple[int, int] = (48, 96)
    """Fewest and most patches of a patient; bags come in four sizes between them."""
    feature_width: int = Field(32, ge=4)
    """Width of a patch feature."""
    rare_fraction: float = Field(0.1, gt=0, le=0.5)
    """Typical share of the patches that carry the risk."""
    batch_effect: float = Field(0.3, ge=0)
    """Standard deviation of each site's shift of its patch features and genes."""
    missing_genes: float = Field(0.1, ge=0, lt=1)
    """Share of patients without molecular data (a patient keeps at least one modality)."""
    missing_slides: float = Field(0.1, ge=0, lt=1)
    """Share of patients without a slide."""
    censoring: float = Field(0.4, ge=0, lt=1)
    """Expected share of censored patients."""
    median_months: float = Field(60.0, gt=0)
    """Median time to event of a patient of average risk, in months."""
    seed: int = Field(7, ge=0)
    """Seed of the cohort, so that runs with several `seed` see the same patients."""

    @model_validator(mode="after")
    def _range(self) -> Self:
        if not 1 <= self.patches[0] <= self.patches[1]:
            raise ValueError(f"patches must be [fewest, most] with 1 <= fewest <= most, got {list(self.patches)}")
        return self


class CohortConfig(Settings):
    """A cohort: tables and features below `root`, in the formats that a site may have; or a generated one."""

    name: Name
    """Name of the cohort, in tables, of runs and of result folders: at most 64 letters, digits, `-`, `_`, `.`; starts
    with a letter or digit."""
    root: Path | None = None
    """Folder of the data; the configs take it from the environment variable MEMAMBA_DATA."""
    clinical: ClinicalTable | None = None
    genomics: GenomicsTable | None = None
    features: FeatureFolder | None = None
    signatures: str | None = None
    """CSV of gene groups: a column per group, with the symbols of its genes."""
    splits: str | None = None
    """Published splits: a folder of `splits_K.csv` with columns `train` and `val` or `test` (MCAT, PORPOISE, CLAM), a
    folder of folders `NAME_k=K` with `train.csv` and `test.csv` (MMP, PANTHER), or one such file or folder."""
    tss_table: str | None = None
    """CSV of tissue source sites: `tss`, `source_site` and, for partition=region, `flamby_region`."""
    complete_cases: bool = False
    """Keep only patients with both modalities."""
    synthetic: SyntheticConfig | None = None
    """The generated cohort; excludes `clinical`."""

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.synthetic is None) == (self.clinical is None):
            raise ValueError(f"cohort {self.name}: give either `clinical` (tables) or `synthetic` (generated)")
        if self.clinical is not None and self.root is None:
            raise ValueError(
                f"cohort {self.name}: where the data lie is not said; set data.root=FOLDER or the environment "
                "variable MEMAMBA_DATA, or use data=synthetic"
            )
        if self.clinical is not None and self.genomics is None and self.features is None:
            raise ValueError(f"cohort {self.name}: name genomics, features, or both: there is nothing to learn from")
        return self


class TSSPartition(Settings):
    """One site for each TCGA tissue source site: the cohort as it was collected."""

    name: Literal["tss"] = "tss"


class MergedTSSPartition(Settings):
    """Tissue source sites, small ones merged in alphabetical order of region and code; blind to outcomes."""

    name: Literal["tss_merged"] = "tss_merged"
    min_patients: int = Field(ge=1)
    """Patients that each site has at least."""


class RegionPartition(Settings):
    """One site for each region of the tissue source site table (BRCA only: the table has regions for its codes)."""

    name: Literal["region"] = "region"


class IIDPartition(Settings):
    """Patients assigned to sites at random: the sites are alike, the easiest case."""

    name: Literal["iid"] = "iid"
    num_sites: int = Field(ge=1)
    """Number of sites."""


class DirichletPartition(Settings):
    """Sites that differ in their share of events."""

    name: Literal["dirichlet"] = "dirichlet"
    num_sites: int = Field(ge=1)
    """Number of sites."""
    alpha: float = Field(gt=0)
    """Concentration of the events among sites; small is uneven."""


PartitionConfig = Annotated[
    TSSPartition | MergedTSSPartition | RegionPartition | IIDPartition | DirichletPartition,
    Field(discriminator="name"),
]
"""How the cohort is cut into sites; `name` says which."""


class AttacksConfig(Settings):
    """Attacks on the replies of the sites and on the final model (docs/explanation/privacy.md)."""

    names: tuple[Literal["membership", "canary", "inversion"], ...] = Field(
        ("membership", "canary", "inversion"), min_length=1
    )
    """Attacks to run, one after the other."""
    num_models: int = Field(16, ge=8, le=256, multiple_of=2)
    """membership: number of models trained on random halves; each is attacked with the help of the others."""
    num_canaries: int = Field(500, ge=100, le=10_000)
    """canary: number of made-up patients in each of two repetitions."""
    round_sizes: tuple[int, ...] = (1, 16, 64, 150)
    """inversion: number of patients in the round that is attacked, one attack for each."""

    @model_validator(mode="after")
    def _sizes_fit(self) -> Self:
        if not self.round_sizes or min(self.round_sizes) < 1:
            raise ValueError(f"round_sizes must name numbers of patients from 1 on, got {list(self.round_sizes)}")
        return self


class SimulatedDisclosure(DisclosureConfig):
    """Thresholds in a simulation: permissive, because nothing leaves this machine. Each can be set separately."""

    min_patients: int = Field(1, ge=1)
    min_events: int = Field(0, ge=0)
    min_pairs: int = Field(1, ge=1)
    min_round_patients: int = Field(1, ge=1)


class SimulationConfig(Settings):
    """One machine, many sites."""

    experiment: Experiment
    data: CohortConfig
    partition: PartitionConfig = TSSPartition()
    fold_source: Literal["cohort", "random", "site_grouped"] = "cohort"
    """`cohort`: the split files of the cohort (random folds if it has none). `site_grouped`: whole sites held out."""
    num_folds: int = Field(5, ge=2)
    """Number of random or site_grouped folds."""
    folds: tuple[int, ...] = (0,)
    """Test folds to run, one after the other."""
    methods: tuple[Literal["federated", "pooled", "local"], ...] = ("federated",)
    """Methods to run on each fold, with the same folds and budget: the federation, one model on pooled data, each site
    alone."""
    compare: bool = False
    """Short for all three methods."""
    disclosure: SimulatedDisclosure = SimulatedDisclosure()
    """Thresholds; permissive in a simulation only, because nothing leaves this machine."""
    blocks: bool = False
    """Imitate the sites of a deployment: their test folds are unions of blocks over the thresholds, which are then the
    strict ones of a `site.yaml` unless they are set, public constants apply in place of counts of events, and sites
    below the thresholds take no part. Without it the policy of the sites is permissive."""
    attacks: AttacksConfig | None = None
    """Attacks of an audit, chosen by `flower-simulate audit attacks=FILE`; None in a simulation."""
    workers: int = Field(0, ge=0)
    """Processes for the sites; 0 runs them one after the other in this process."""
    threads: int | None = Field(None, ge=1)
    """Torch threads; None leaves the number to torch."""
    device: Device = "auto"
    """`auto` (a GPU where there is one), `cpu`, `cuda`, or one GPU: `cuda:1`."""
    output_dir: Path | None = None
    """New folder for the results; None makes one below `outputs/`."""
    resume: Path | None = None
    """Output folder of an interrupted run with the same settings, to continue that run."""

    @model_validator(mode="before")
    @classmethod
    def _strict_with_blocks(cls, values: Any) -> Any:
        """Apply the thresholds of a `site.yaml` to blocks, where none are set."""
        if isinstance(values, dict) and values.get("blocks") is True:
            given = values.get("disclosure") or {}
            if isinstance(given, dict):
                return {**values, "disclosure": {**DisclosureConfig().model_dump(), **given}}
        return values

    @model_validator(mode="after")
    def _blocks_fit(self) -> Self:
        if self.blocks and self.fold_source == "site_grouped":
            raise ValueError("blocks=true draws test folds inside sites; leave out fold_source=site_grouped")
        federation = self.experiment.federation
        if self.blocks and (federation.curve_holdout or federation.curve_on_test_fold):
            raise ValueError("blocks=true imitates a deployment, which has no curves; leave out federation.curve_...")
        return self

    def runs(self, method: str) -> bool:
        """Return whether `method` is run."""
        return self.compare or method in self.methods

    @model_validator(mode="after")
    def _folds_fit(self) -> Self:
        if not self.methods:
            raise ValueError("methods is empty; name at least one of federated, pooled, local")
        if not self.folds or len(set(self.folds)) != len(self.folds) or min(self.folds) < 0:
            raise ValueError(f"folds must name at least one fold, each once, from 0 on; got {list(self.folds)}")
        if self.fold_source != "cohort" and max(self.folds) >= self.num_folds:
            raise ValueError(f"fold {max(self.folds)} does not exist with num_folds={self.num_folds}")
        if self.resume is not None and self.output_dir is not None:
            raise ValueError("resume and output_dir exclude each other: a resumed run continues in its own folder")
        return self

    @model_validator(mode="after")
    def _audit_fits(self) -> Self:
        """Refuse settings without effect in an audit, which cuts the cohort itself, and an audit without a claim."""
        unused = ("folds", "methods", "compare", "workers", "resume")
        given = [name for name in unused if getattr(self, name) != type(self).model_fields[name].default]
        if self.attacks is not None and given:
            them = "it" if len(given) == 1 else "them"
            raise ValueError(f"an audit has no use for {', '.join(given)}; leave {them} out")
        if self.attacks is not None and self.attacks.names == ("canary",) and self.experiment.privacy.name == "none":
            raise ValueError(
                "attacks=canary compares the noisy step with the epsilon that a run claims, and privacy=none claims "
                "none; set privacy=dp_sgd, or choose attacks=membership or attacks=inversion"
            )
        return self
