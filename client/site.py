"""Site: patients and policy. The policy limits what a coordinator may request, and the coordinator cannot change it."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from memamba_core.config.experiment import Experiment
from memamba_core.config.guarded_settings import check_constants
from memamba_core.config.privacy import DPSGDConfig
from memamba_core.config.setting_rules import check_differences
from memamba_core.config.site import SiteConfig
from memamba_core.data.manifest import load_cohort
from memamba_core.data.records import Cohort, PatientRecord
from memamba_core.data.tables import is_table
from memamba_core.errors import ConfigError, PolicyError
from memamba_core.training.seeding import derive_seed

from .blocks import SmallestBlock
from .cohort_registry import CohortRegistry
from .cohort_status import UsableBlock
from .private_policy import check_private_run
from .rare_values import suppress_rare_values

__all__ = ["HASH_FOLDS", "Site", "open_site"]

_log = logging.getLogger(__name__)
HASH_FOLDS = 5
"""Number of folds of a cohort without fold assignments: a hash of seed, site and case id decides."""


@dataclass(frozen=True)
class Site:
    """One site.

    A *strict* site answers over a network. Without differential privacy its training and test sets are unions of the
    blocks of its registry. With differential privacy every patient trains in every fold, and none is tested: the noise
    hides a patient who is added or removed, a block that a patient fills would not. A *permissive* site, in a
    simulation, cuts its patients as the coordinator's fold, seed and holdout say.

    Attributes:
        config: name, limits, disclosure thresholds, device.
        cohort: its patients; in a simulation a view of the whole cohort.
        registry: blocks and withdrawals; None for a permissive site.
    """

    config: SiteConfig
    cohort: Cohort
    registry: CohortRegistry | None = None

    @property
    def name(self) -> str:
        """Name under which the site is enrolled."""
        return self.config.name

    @property
    def strict(self) -> bool:
        """True for a site that answers over a network, or imitates one."""
        return self.registry is not None

    @property
    def gene_columns(self) -> tuple[str, ...]:
        """Molecular columns that the site declares: those of the draw of its blocks, which no later value changes."""
        if self.registry is not None and (frozen := self.registry.read()).generation:
            return frozen.gene_columns
        return self.cohort.genes.columns if self.cohort.genes is not None else ()

    def open_cohort(self) -> None:
        """Draw the blocks before the first run is answered, and admit newcomers who fill a block.

        Raises:
            PolicyError: the site has no block that is over its thresholds.
            TamperedLogError: the registry was edited or removed.
        """
        if self.registry is None:
            return
        if self.config.privacy is not None:
            self.registry.begin()
            return
        self.registry.freeze(self.cohort)
        if not self._blocks():
            thresholds = self.config.disclosure
            raise PolicyError(
                "the site has no block of patients over its thresholds (disclosure.min_patients="
                f"{thresholds.min_patients}, min_round_patients={thresholds.min_round_patients}, min_events="
                f"{thresholds.min_events} with the event and as many without it); `flower-client cohort show` lists "
                "the blocks"
            )

    def training_blocks(self, fold: int) -> tuple[UsableBlock, ...]:
        """Return the blocks that train; none for a permissive site and under differential privacy."""
        return tuple(block for block in self._blocks() if block.fold is None or block.fold != fold)

    def training_cohort(self, fold: int, seed: int, holdout: float = 0.0) -> Cohort:
        """Select the training patients: all folds but `fold`, without the holdout for learning curves."""
        if self.registry is None:
            return self._subset(self._outside(fold, seed)[self._holdout_size(fold, seed, holdout) :])
        if self.config.privacy is not None:
            return self.registry.present(self.cohort)
        blocks = self.training_blocks(fold)
        smallest = self.registry.smallest.patients
        return suppress_rare_values(self._union(blocks), blocks, self.config.disclosure.min_patients, smallest)

    def holdout_cohort(self, fold: int, seed: int, holdout: float) -> Cohort:
        """Select the patients held out of training for learning curves; none at a strict site."""
        if self.registry is not None:
            return self._subset([])
        return self._subset(self._outside(fold, seed)[: self._holdout_size(fold, seed, holdout)])

    def test_cohort(self, fold: int, seed: int) -> Cohort:
        """Select the patients of the test fold; none for fold -1."""
        if self.registry is None:
            return self._subset([r for r in self.cohort.records if self._fold_of(r, seed) == fold])
        return self._union(tuple(block for block in self._blocks() if block.fold == fold))

    def selection(self) -> str:
        """Return a name of the patients that answers depend on now; it changes when somebody withdraws."""
        if self.registry is None:
            return ""
        return " ".join([*(block.name for block in self._blocks()), *sorted(self.registry.read().withdrawn)])

    def _blocks(self) -> tuple[UsableBlock, ...]:
        if self.registry is None or self.config.privacy is not None:
            return ()
        return self.registry.status(self.cohort).usable

    def _union(self, blocks: Sequence[UsableBlock]) -> Cohort:
        return self.cohort.subset(frozenset().union(*(block.case_ids for block in blocks)))

    def check_policy(self, experiment: Experiment, installed: Experiment) -> None:
        """Check that this site's policy allows an experiment.

        Args:
            experiment: settings of the run, as received from the coordinator.
            installed: this site's installed defaults. Every setting that differs from them is checked against
                `limits.settings`.

        Raises:
            PolicyError: the policy does not allow the experiment; the text, for the site's own log, says why.
        """
        limits, federation = self.config.limits, experiment.federation
        private = experiment.privacy.name != "none"
        if not private and self.config.privacy is not None:
            raise PolicyError("the run has no differential privacy; site.yaml has a section privacy, which requires it")
        if private and self.config.privacy is None:
            raise PolicyError(
                f"the run has privacy={experiment.privacy.name}; site.yaml has no section privacy (a budget)"
            )
        if isinstance(experiment.privacy, DPSGDConfig) and self.config.privacy is not None:
            check_private_run(experiment.privacy, self.config.privacy)
        if federation.local_epochs > limits.local_epochs:
            raise PolicyError(
                f"federation.local_epochs={federation.local_epochs} is above limits.local_epochs={limits.local_epochs}"
            )
        if experiment.strategy.name not in limits.strategies:
            raise PolicyError(
                f"strategy {experiment.strategy.name} is not among limits.strategies={list(limits.strategies)}"
            )
        refused = check_differences(experiment, installed, limits.setting_rules)
        if self.strict:
            refused += check_constants(experiment, installed)
        if refused:
            raise PolicyError("; ".join(refused))

    def _outside(self, fold: int, seed: int) -> list[PatientRecord]:
        """Return the patients of the other folds in a seeded order, so that a prefix is a random holdout."""
        folds = [(self._fold_of(r, seed), r) for r in self.cohort.records]
        return sorted(
            (r for own, r in folds if own is not None and own != fold),
            key=lambda r: derive_seed(seed, self.name, r.case_id, "holdout"),
        )

    def _holdout_size(self, fold: int, seed: int, holdout: float) -> int:
        return round(holdout * len(self._outside(fold, seed)))

    def _fold_of(self, record: PatientRecord, seed: int) -> int | None:
        """Return the test fold that holds a patient; None: the fold table has no row for the patient."""
        if self.cohort.has_folds:
            return record.fold
        return derive_seed(seed, self.name, record.case_id, "fold") % HASH_FOLDS

    def _subset(self, records: Sequence[PatientRecord]) -> Cohort:
        return self.cohort.subset([r.case_id for r in records])


def open_site(config: SiteConfig) -> Site:
    """Read the site's tables as its `site.yaml` describes them. A site with a state folder is strict.

    Raises:
        ConfigError: under differential privacy, a folder of features without a declared width.
        DataError: a table or feature file does not match `site.yaml`.
    """
    features = config.data.features
    if config.privacy is not None and features is not None and features.width is None and not is_table(features.path):
        raise ConfigError(
            "site.yaml has a section privacy and a folder of features without data.features.width, for example "
            "width: 1024. The width must be declared: taken from a file, it would depend on one patient"
        )
    registry = None if config.state is None else CohortRegistry(config.state, SmallestBlock.of(config.disclosure))
    cohort = load_cohort(config.data)
    if config.privacy is not None and (declared := config.data.with_decimal_points()) != config.data:
        # The cell of one patient must not decide how the cells of the others are read: a notation that was found only
        # stops the client where it is ambiguous, as a bad row does.
        cohort = load_cohort(declared)
    if cohort.doubts:
        _log.warning("doubts about the data: %d; `flower-client doctor` shows them", len(cohort.doubts))
    return Site(config, cohort, registry)
