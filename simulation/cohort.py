"""Prepare simulated sites from settings: read or generate the cohort, cut it into sites, assign folds."""

import math
from dataclasses import dataclass
from pathlib import Path

from client.cohort_registry import CohortRegistry
from client.site import Site
from memamba_core.config.experiment import Experiment
from memamba_core.config.simulation import CohortConfig, SimulationConfig
from memamba_core.config.site import ClinicalTable, FeatureFolder, LimitsConfig, SiteConfig, SiteDataConfig
from memamba_core.data.clinical.table import read_clinical
from memamba_core.data.genomics.signatures import build_gene_groups, find_signature_doubts, read_signatures
from memamba_core.data.manifest import load_cohort
from memamba_core.data.records import Cohort
from memamba_core.data.synthetic.generate import SyntheticCohort, generate_cohort
from memamba_core.errors import AgreementError, ConfigError, DataError, NoPatientsError

from .blocks import draw_site_blocks
from .fold_checks import check_test_folds
from .folds import assign_folds
from .partition import partition_cohort

__all__ = ["SimulatedCohort", "prepare_cohort"]

_NO_LIMIT = LimitsConfig(  # simulated sites accept every request
    local_epochs=1_000_000, max_patches=1_000_000, max_parameters=10**9, settings=("*",)
)


@dataclass(frozen=True)
class SimulatedCohort:
    """Cohort cut into sites.

    Attributes:
        cohort: all patients, with folds.
        sites: each site, a view of the cohort; sorted by name.
        signatures: gene groups, None where the cohort has none.
        synthetic: the truth behind a generated cohort, None for a real one.
        warnings: sentences about the tables and settings that are no error and may still be a mistake.
        num_gene_columns: gene columns of the cohort's table; 0 without genes.
        num_grouped_columns: those of them that are in a gene group, which the model reads unless they are constant.
    """

    cohort: Cohort
    sites: dict[str, Site]
    signatures: dict[str, tuple[str, ...]] | None
    synthetic: SyntheticCohort | None
    warnings: tuple[str, ...] = ()
    num_gene_columns: int = 0
    num_grouped_columns: int = 0

    def test_cohort(self, fold: int) -> Cohort:
        """Return the union of the sites' test patients of a fold."""
        return self.cohort.subset([r.case_id for r in self.cohort.records if r.fold == fold])

    def training_cohort(self, fold: int, experiment: Experiment) -> Cohort:
        """Return the union of the sites' training patients: all folds but `fold`, less holdouts for learning curves."""
        holdout = experiment.federation.curve_holdout
        parts = [site.training_cohort(fold, experiment.seed, holdout) for site in self.sites.values()]
        return self.cohort.subset({r.case_id for part in parts for r in part.records})

    def site_of(self) -> dict[str, str]:
        """Return the site of each case id."""
        return {record.case_id: name for name, site in self.sites.items() for record in site.cohort.records}


def prepare_cohort(config: SimulationConfig) -> SimulatedCohort:
    """Read or generate the cohort, cut it into sites and assign folds.

    Raises:
        DataError: a table does not match the settings, or a fold has no training patient with the event.
        ConfigError: partition or folds do not fit the cohort.
    """
    synthetic = generate_cohort(config.data.synthetic) if config.data.synthetic is not None else None
    warnings: tuple[str, ...] = ()
    if synthetic is not None:
        cohort, data = synthetic.cohort, _nominal_data(config.data)
        signatures: dict[str, tuple[str, ...]] | None = dict(synthetic.signatures)
    else:
        data = _site_data(config.data)
        cohort = load_cohort(data)
        warnings = _doubts(cohort, data)
        signatures = read_signatures(data.root / config.data.signatures) if config.data.signatures else None
        if signatures and cohort.genes is not None and config.experiment.agreement.gene_groups == "signatures":
            found = find_signature_doubts("the signatures", signatures, cohort.genes.columns)
            warnings += tuple(map(str, found))
    if config.data.complete_cases:
        complete = [r.case_id for r in cohort.records if cohort.has_genes(r) and cohort.has_slides(r)]
        cohort = cohort.subset(complete)
        if not complete:
            raise NoPatientsError(f"cohort {config.data.name}: data.complete_cases=true leaves no patient")
    if not cohort.num_events:
        raise DataError(
            f"cohort {config.data.name}: none of the {len(cohort.records)} patients had the event; there is nothing to "
            "learn. If the column of events marks the censored, set data.clinical.event_means=censored"
        )
    root, registries = data.root, dict[str, CohortRegistry]()
    partition = partition_cohort(
        cohort,
        config.partition,
        tss_table=root / config.data.tss_table if config.data.tss_table else None,
        seed=config.experiment.seed,
    )
    cohort, fold_warnings = assign_folds(
        cohort,
        source=config.fold_source,
        splits=root / config.data.splits if config.data.splits else None,
        num_folds=config.num_folds,
        seed=config.experiment.seed,
        sites=partition,
        folds=config.folds,
    )
    if config.blocks:
        cohort, partition, registries, block_warnings = draw_site_blocks(cohort, partition, config)
        fold_warnings = (*fold_warnings, *block_warnings)
    existing = {r.fold for r in cohort.records if r.fold is not None}
    absent = sorted(set(config.folds) - existing)
    if absent:
        raise ConfigError(
            f"folds={list(config.folds)}: no patient is in fold {absent[0]}; the cohort has {sorted(existing)}"
        )
    sites = {
        name: Site(
            SiteConfig(
                name=name,
                data=data,
                device=config.device,
                limits=_NO_LIMIT,
                disclosure=config.disclosure,
            ),
            cohort.subset(case_ids),
            registries.get(name),
        )
        for name, case_ids in partition.items()
    }
    fold_warnings = (
        *fold_warnings,
        *check_test_folds(config.data.name, sites, cohort.records, config.folds, config.experiment),
    )
    columns = () if cohort.genes is None else cohort.genes.columns
    return SimulatedCohort(
        cohort,
        sites,
        signatures,
        synthetic,
        (*warnings, *fold_warnings, *_idle_proximal_term(config, sites)),
        num_gene_columns=len(columns),
        num_grouped_columns=_count_grouped(columns, config.experiment, signatures),
    )


def _idle_proximal_term(config: SimulationConfig, sites: dict[str, Site]) -> tuple[str, ...]:
    """Warn of FedProx where no site takes a second step in a round: the proximal term is zero in the first step."""
    experiment = config.experiment
    if experiment.strategy.name != "fedprox" or not config.runs("federated"):
        return ()
    if experiment.privacy.name != "none":
        steps, more = experiment.privacy.steps_per_round or 1, "privacy.steps_per_round"
    else:
        holdout = experiment.federation.curve_holdout
        most = max(
            len(site.training_cohort(fold, experiment.seed, holdout).records)
            for site in sites.values()
            for fold in config.folds
        )
        steps = experiment.federation.local_epochs * math.ceil(most / experiment.training.batch_size)
        more = "federation.local_epochs or lower training.batch_size"
    if steps > 1:
        return ()
    text = (
        "strategy=fedprox changes nothing here: each site takes one step a round, and the proximal term acts from "
        f"the second step on; raise {more}, or use strategy=fedavg"
    )
    return (text,)


def _count_grouped(
    columns: tuple[str, ...], experiment: Experiment, signatures: dict[str, tuple[str, ...]] | None
) -> int:
    """Count the gene columns that are in a gene group."""
    by = experiment.agreement.gene_groups
    if not columns or (by == "signatures" and signatures is None):
        return 0
    try:
        groups = build_gene_groups(columns, signatures, by=by)
    except AgreementError:  # no group has a column: the federation says so where it needs genes
        return 0
    return len({index for members in groups.values() for index in members})


def _doubts(cohort: Cohort, data: SiteDataConfig) -> tuple[str, ...]:
    """Return warnings about the tables: what the files make doubtful, and patients who are left out."""
    doubts = [str(doubt) for doubt in cohort.doubts]
    left_out = len(read_clinical(data.clinical, data.root)) - len(cohort.records)
    if left_out:
        doubts.append(
            f"{left_out} patient{'s' * (left_out > 1)} of {data.clinical.file} left out: neither molecular data nor "
            "features of a slide"
        )
    return tuple(doubts)


def _site_data(config: CohortConfig) -> SiteDataConfig:
    """Describe the cohort's files as the data of one large site."""
    assert config.root is not None
    assert config.clinical is not None
    if not config.root.is_dir():
        raise ConfigError(
            f"data.root={config.root}: no such folder; it should hold the tables of cohort {config.name}, for example "
            f"{config.clinical.file}. Set data.root=FOLDER or the environment variable MEMAMBA_DATA"
        )
    return SiteDataConfig(
        root=config.root, clinical=config.clinical, genomics=config.genomics, features=config.features
    )


def _nominal_data(config: CohortConfig) -> SiteDataConfig:
    """Describe the data that a generated site would declare; nothing is read from it."""
    return SiteDataConfig(
        root=Path(),
        clinical=ClinicalTable(file="clinical.csv"),
        features=FeatureFolder(path="features", encoder=config.name),
    )
