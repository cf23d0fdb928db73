"""From settings to hospitals: read or generate the cohort, cut it into sites, assign folds."""

import statistics
from dataclasses import dataclass
from pathlib import Path

from client.site import Site
from memamba_core.config.experiment import Experiment
from memamba_core.config.simulation import CohortConfig, SimulationConfig
from memamba_core.config.site import ClinicalTable, FeatureFolder, LimitsConfig, SiteConfig, SiteDataConfig
from memamba_core.data.clinical import read_clinical
from memamba_core.data.genomics import read_signatures
from memamba_core.data.manifest import load_cohort
from memamba_core.data.records import Cohort
from memamba_core.data.synthetic.generate import SyntheticCohort, generate_cohort
from memamba_core.errors import ConfigError, DataError, NoPatientsError

from .folds import assign_folds
from .partition import partition_cohort

__all__ = ["SimulatedCohort", "prepare_cohort"]

_SHORTEST_MEDIAN, _LONGEST_MEDIAN = 1.0, 240.0  # months; a median outside is likely days for months, or the reverse
_NO_LIMIT = LimitsConfig(
    local_epochs=1_000_000, max_patches=1_000_000, max_parameters=10**9, settings=("*",)
)  # simulated hospitals agree to what is asked


@dataclass(frozen=True)
class SimulatedCohort:
    """A cohort cut into hospitals.

    Attributes:
        cohort: everybody, with folds.
        sites: each hospital, a view of the cohort; sorted by name.
        signatures: gene groups, None where the cohort has none.
        synthetic: the truth behind a generated cohort, None for a real one.
        warnings: sentences about what its tables say that is no error and may still be a mistake.
    """

    cohort: Cohort
    sites: dict[str, Site]
    signatures: dict[str, tuple[str, ...]] | None
    synthetic: SyntheticCohort | None
    warnings: tuple[str, ...] = ()

    def test_cohort(self, fold: int) -> Cohort:
        """The union of the hospitals' test patients of a fold."""
        return self.cohort.subset([r.case_id for r in self.cohort.records if r.fold == fold])

    def training_cohort(self, fold: int, experiment: Experiment) -> Cohort:
        """The union of what the hospitals train on: all folds but `fold`, less their holdouts for learning curves."""
        holdout = experiment.federation.curve_holdout
        parts = [site.training_cohort(fold, experiment.seed, holdout) for site in self.sites.values()]
        return self.cohort.subset({r.case_id for part in parts for r in part.records})

    def site_of(self) -> dict[str, str]:
        """Case id -> hospital."""
        return {record.case_id: name for name, site in self.sites.items() for record in site.cohort.records}


def prepare_cohort(config: SimulationConfig) -> SimulatedCohort:
    """Read or generate the cohort, cut it into hospitals and assign folds.

    Raises:
        DataError: a table is not what the settings say.
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
    root = data.root
    partition = partition_cohort(
        cohort,
        config.partition,
        tss_table=root / config.data.tss_table if config.data.tss_table else None,
        seed=config.experiment.seed,
    )
    cohort = assign_folds(
        cohort,
        source=config.fold_source,
        splits=root / config.data.splits if config.data.splits else None,
        num_folds=config.num_folds,
        seed=config.experiment.seed,
        sites=partition,
    )
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
        )
        for name, case_ids in partition.items()
    }
    return SimulatedCohort(cohort, sites, signatures, synthetic, warnings)


def _doubts(cohort: Cohort, data: SiteDataConfig) -> tuple[str, ...]:
    """What a person should look at twice: patients who are left out, a unit of time that is hardly right."""
    doubts = []
    left_out = len(read_clinical(data.clinical, data.root)) - len(cohort.records)
    if left_out:
        doubts.append(
            f"{left_out} patient{'s' * (left_out > 1)} of {data.clinical.file} left out: neither molecular data nor "
            "features of a slide"
        )
    median = statistics.median(record.time_months for record in cohort.records) if cohort.records else None
    if median is not None and not _SHORTEST_MEDIAN <= median <= _LONGEST_MEDIAN:
        unit = data.clinical.time_unit
        doubts.append(
            f"the median follow-up is {median:.3g} months, read from column {data.clinical.time!r} in {unit}; if it "
            f"holds {'days' if unit == 'months' else 'months'}, correct data.clinical.time_unit"
        )
    return tuple(doubts)


def _site_data(config: CohortConfig) -> SiteDataConfig:
    """The cohort as one big site's data."""
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
    """What a generated hospital would declare; nothing is read from it."""
    return SiteDataConfig(
        root=Path(),
        clinical=ClinicalTable(file="clinical.csv"),
        features=FeatureFolder(path="features", encoder=config.name),
    )
