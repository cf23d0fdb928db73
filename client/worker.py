"""Site worker: compute the answer to each request from the site's patients, without Flower.

Each answer is one of the classes of `memamba_core.wire.protocol` and holds weights, and aggregates that reach the
site's thresholds; nothing else leaves.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from memamba_core.config.experiment import Experiment
from memamba_core.data.agreement import Agreement
from memamba_core.data.dataset import PatientDataset
from memamba_core.data.records import Cohort
from memamba_core.data.statistics import (
    ColumnMoments,
    column_moments,
    count_events,
    transform_features,
    transform_genes,
)
from memamba_core.errors import AgreementError
from memamba_core.model import MEMamba
from memamba_core.privacy.disclosure import disclose_metrics, may_disclose_outcomes, suppress_below
from memamba_core.survival.concordance import count_pairs
from memamba_core.survival.histogram import risk_time_histogram
from memamba_core.training.checkpoint import Checkpoint, code_digest, save_checkpoint, weights_of
from memamba_core.training.seeding import derive_seed
from memamba_core.training.trainer import Predictions, Span, predict, resolve_device, train
from memamba_core.training.update_norm import bound_update
from memamba_core.wire.protocol import (
    AgreementReply,
    AgreementRequest,
    EvaluateReply,
    EvaluateRequest,
    FactsReply,
    FactsRequest,
    Metrics,
    Refusal,
    StatisticsReply,
    StatisticsRequest,
    TrainReply,
    TrainRequest,
    size_band,
)
from memamba_core.wire.weight_deltas import encode_delta

from .block_answers import answer_round, rounded_loss
from .block_statistics import sum_features, sum_genes
from .declared_bands import bands_of
from .model_cache import ModelCache
from .private_round import train_private_round
from .request_checks import check_agreement, check_round, check_statistics
from .scaling_checks import check_scaling
from .session import Admission, RefusedError, Session, SessionStore
from .site import Site
from .weight_checks import WeightChecks

__all__ = ["SiteWorker", "site_metrics"]


class SiteWorker:
    """Worker of one site.

    Args:
        site: patients and policy.
        models: cache of one built model per process, shared by the workers of a simulation; default: a new cache.
        admission: approval of runs by the site's operator; None lets every run pass.
    """

    def __init__(self, site: Site, models: ModelCache | None = None, admission: Admission | None = None) -> None:
        self.site = site
        self._models = models or ModelCache()
        self._sessions = SessionStore(site, admission)
        self._weights = WeightChecks(strict=site.strict)

    def facts(self, request: FactsRequest) -> FactsReply:
        """Open the run and declare the site's data: columns, encoder, units and size bands.

        Raises:
            RefusedError: version or settings differ from the coordinator's, or the site's policy forbids the run.
        """
        session = self._sessions.open(request)
        exact = not self.site.strict and session.plan is None
        cohort, thresholds = self._training(session), self.site.config.disclosure
        records, data, features = cohort.records, self.site.config.data, cohort.features
        bands = bands_of(self.site, cohort)
        return FactsReply(
            site=self.site.name,
            time_unit=data.clinical.time_unit,
            event_means=data.clinical.event_means,
            encoder=features.encoder if features else "",
            feature_width=features.width if features else 0,
            feature_columns=features.columns if features else (),
            feature_families=features.families if features else (),
            gene_columns=self.site.gene_columns,
            size_band=bands.patients,
            pathology_band=bands.pathology,
            genomics_band=bands.genomics,
            boundary="deployment" if self.site.strict else "simulation",
            num_patients=suppress_below(len(records), thresholds.min_patients) if exact else None,
            num_events=(
                cohort.num_events
                if exact and may_disclose_outcomes(thresholds, len(records), cohort.num_events)
                else None
            ),
        )

    def statistics(self, request: StatisticsRequest) -> StatisticsReply:
        """Sum columns and count events over the training patients; a site below its thresholds returns zeros.

        A strict site sums continuous columns over its blocks, and counts no events.
        """
        session = self._sessions.get(request.run_id, request.config_digest, request.fold)
        if session.plan is not None:
            raise RefusedError(Refusal.POLICY, "sums over patients do not leave under differential privacy")
        cohort, thresholds, config = self._training(session), self.site.config.disclosure, session.experiment.agreement
        has_columns = cohort.features is None or bool(cohort.features.columns)
        check_statistics(config, request, has_feature_columns=has_columns, strict=self.site.strict)
        if self.site.strict:
            blocks = self.site.training_blocks(request.fold)
            genes = ColumnMoments.zeros(0)
            if request.gene_columns:
                genes = sum_genes(self.site, blocks, request.gene_columns, config)
            features = ColumnMoments.zeros(0)
            if request.scale_features and cohort.features is not None:
                features = sum_features(self.site, blocks)
            return StatisticsReply(genes=dict(genes.arrays()), features=dict(features.arrays()), events={})
        with_genes = [r for r in cohort.records if cohort.has_genes(r)] if request.gene_columns else []
        with_slides = [r for r in cohort.records if cohort.has_slides(r)] if request.scale_features else []
        genes = ColumnMoments.zeros(len(request.gene_columns))
        if with_genes and len(with_genes) >= thresholds.min_patients:
            genes = _gene_moments(cohort, request.gene_columns, [r.gene_row for r in with_genes], session.experiment)
            genes = _suppress_small_counts(genes, thresholds.min_patients)
        features = ColumnMoments.zeros(cohort.features.width if cohort.features and request.scale_features else 0)
        if with_slides and len(with_slides) >= thresholds.min_patients and cohort.features is not None:
            limit = self.site.config.limits.max_patches
            bags = (cohort.features.load(r, limit) for r in with_slides)
            rows = (transform_features(bag.patches_PF.numpy()) for bag in bags if bag is not None)
            features = _suppress_small_counts(column_moments(rows, cohort.features.width), thresholds.min_patients)
        events = count_events([r.time_months for r in cohort.records], [r.event for r in cohort.records], config)
        if not may_disclose_outcomes(thresholds, len(cohort.records), cohort.num_events):
            events = {name: np.zeros_like(counts) for name, counts in events.items()}
        if not request.count_events:
            events = {}
        return StatisticsReply(genes=dict(genes.arrays()), features=dict(features.arrays()), events=dict(events))

    def agreement(self, request: AgreementRequest) -> AgreementReply:
        """Check the federation's agreement against the site's data and store it.

        Raises:
            RefusedError: the agreement does not fit the data or the settings, or its digest does not match its content.
        """
        session = self._sessions.get(request.run_id, request.config_digest, request.fold)
        agreement = Agreement.from_json(request.agreement, request.scaling)
        if agreement.digest() != request.agreement_digest:
            raise RefusedError(Refusal.AGREEMENT, "the digest of the agreement does not match its content")
        check_agreement(session.experiment, agreement, self.site.config.limits, strict=self.site.strict)
        if self.site.strict and session.plan is None:
            check_scaling(self.site, session.request.fold, agreement, session.experiment.agreement)
        session = self._sessions.agree(session, agreement)
        self._dataset(session, "test")  # checks columns and widths now, not in the first round
        return AgreementReply(agreement_digest=agreement.digest())

    def train(self, request: TrainRequest) -> TrainReply:
        """Evaluate the received weights, train from them, and return weights with counts per parameter group.

        Raises:
            RefusedError: settings or agreement differ, the weights do not fit the model, too few patients, or a loss
                that is not finite.
        """
        session = self._sessions.get(request.run_id, request.config_digest, request.fold, request.agreement_digest)
        check_round(session.experiment, request)
        self._weights.accept_round(session, request, self._sessions.folder(request.run_id))
        reply = self._train(session, request)
        if session.experiment.federation.wire == "bfloat16_delta":
            return reply.model_copy(update={"weights": encode_delta(reply.weights, request.weights)})
        return reply

    def _train(self, session: Session, request: TrainRequest) -> TrainReply:
        dataset = self._dataset(session, "train")
        config = self.site.config
        if session.plan is not None:  # first, because no answer may depend on the number of patients
            folder = self._sessions.folder(request.run_id)
            assert folder is not None
            model = self._load(session, request.weights)
            return train_private_round(self.site, session, folder, session.plan, request, dataset, model)
        if not len(dataset):
            raise RefusedError(Refusal.NOTHING_TO_DO, "no training patient in this fold")
        if len(dataset) < config.disclosure.min_round_patients:
            raise RefusedError(
                Refusal.POLICY,
                f"{len(dataset)} training patients; expected at least disclosure.min_round_patients="
                f"{config.disclosure.min_round_patients}, because patients could be reconstructed from the weights of "
                "fewer",
            )
        model = self._load(session, request.weights)
        if not self.site.strict:
            return self._train_once(session, request, dataset, model)
        return answer_round(self.site, request, model, lambda: self._train_once(session, request, dataset, model))

    def _train_once(
        self, session: Session, request: TrainRequest, dataset: PatientDataset, model: MEMamba
    ) -> TrainReply:
        experiment, federation, config = session.experiment, session.experiment.federation, self.site.config
        metrics = self._curve_metrics(session, model)
        result = train(
            model,
            dataset,
            config=experiment.training,
            optimizer=federation.optimizer,
            span=Span(
                first=(request.server_round - 1) * federation.local_epochs,
                num=federation.local_epochs,
                total=federation.num_rounds * federation.local_epochs,
            ),
            seed=derive_seed(experiment.seed, self.site.name, request.server_round),
            device=resolve_device(config.device),
            proximal_mu=request.proximal_mu or 0.0,
            smallest_batch=self.site.registry.smallest.patients if self.site.registry is not None else 1,
        )
        if not np.isfinite(result.mean_loss) or not result.steps:
            raise RefusedError(
                Refusal.NOT_FINITE,
                f"mean training loss is {result.mean_loss}, with {result.skipped_steps} steps skipped",
            )
        return TrainReply(
            **{name: getattr(metrics, name) for name in Metrics.model_fields},
            weights=bound_update(weights_of(model), request.weights, federation.update_norm),
            trained={group: _or_band(count, config.disclosure.min_patients) for group, count in result.trained.items()},
            train_loss=result.mean_loss if len(dataset) >= config.disclosure.min_patients else None,
        )

    def evaluate(self, request: EvaluateRequest) -> EvaluateReply:
        """Evaluate the final weights on the patients of the test fold, and store them in the site's state folder."""
        session = self._sessions.get(request.run_id, request.config_digest, request.fold, request.agreement_digest)
        folder = self._sessions.folder(request.run_id)
        if (answered := self._weights.accept_evaluation(session, request, folder)) is not None:
            return answered
        model = self._load(session, request.weights)
        if session.plan is not None:
            metrics = Metrics(counts={})
        elif self.site.strict:
            device, loss = resolve_device(self.site.config.device), session.experiment.training.loss
            metrics = rounded_loss(model, lambda: self._dataset(session, "test"), device, loss)
        else:
            metrics = self._metrics(session, model, self._dataset(session, "test"))
        if folder is not None and session.agreement is not None:
            num_rounds = session.experiment.federation.num_rounds
            final = Checkpoint(weights_of(model), session.experiment, session.agreement, num_rounds, code_digest())
            save_checkpoint(folder, "model", final)
        reply = EvaluateReply(**{name: getattr(metrics, name) for name in Metrics.model_fields})
        self._weights.finish_evaluation(session, request, folder, reply)
        return reply

    def _training(self, session: Session) -> Cohort:
        holdout = session.experiment.federation.curve_holdout
        return self.site.training_cohort(session.request.fold, session.experiment.seed, holdout)

    def _dataset(self, session: Session, part: str) -> PatientDataset:
        """Return the patients of `train`, `holdout` or `test`, scaled once per session."""
        key = (part, self.site.selection())
        if key not in session.datasets:
            experiment, fold = session.experiment, session.request.fold
            assert session.agreement is not None
            if part == "train":
                cohort = self._training(session)
            elif part == "holdout":
                cohort = self.site.holdout_cohort(fold, experiment.seed, experiment.federation.curve_holdout)
            else:
                cohort = self.site.test_cohort(fold, experiment.seed)
            try:
                session.datasets[key] = PatientDataset(
                    cohort, session.agreement, experiment.agreement, max_patches=self.site.config.limits.max_patches
                )
            except AgreementError as error:
                raise RefusedError(Refusal.AGREEMENT_FIELD, str(error)) from None
        return session.datasets[key]

    def _load(self, session: Session, weights: Mapping[str, npt.NDArray[Any]]) -> MEMamba:
        assert session.agreement is not None
        device = resolve_device(self.site.config.device)
        try:
            return self._models.load(session.experiment, session.agreement, weights, device)
        except ValueError as error:
            raise RefusedError(Refusal.MESSAGE, str(error)) from None

    def _curve_metrics(self, session: Session, model: MEMamba) -> Metrics:
        """Compute the metrics of the received weights: on the holdout, on the test fold if requested, or none."""
        federation = session.experiment.federation
        if not (federation.curve_on_test_fold or federation.curve_holdout):
            return Metrics(counts={})
        dataset = self._dataset(session, "test" if federation.curve_on_test_fold else "holdout")
        # A histogram is nearly a list of patients: it leaves once, in the final evaluation, and not every round.
        return self._metrics(session, model, dataset).model_copy(update={"counts": {}})

    def _metrics(self, session: Session, model: MEMamba, dataset: PatientDataset) -> Metrics:
        if not len(dataset):
            return Metrics(counts={})
        device = resolve_device(self.site.config.device)
        return site_metrics(
            predict(model, dataset, device=device, loss=session.experiment.training.loss), session, self.site
        )


def _or_band(count: int, threshold: int) -> int:
    """Return a count that reaches the threshold unchanged, and a smaller one as the lower end of its size band."""
    return count if count >= threshold else size_band(count)


def site_metrics(predictions: Predictions, session: Session, site: Site) -> Metrics:
    """Aggregate a set of predictions, and suppress every number below the site's thresholds."""
    config = session.experiment.agreement
    times, events, risk = predictions.time_months, predictions.event, predictions.risk
    return disclose_metrics(
        site.config.disclosure,
        num_patients=len(risk),
        num_events=int(events.sum()),
        loss_sum=float(predictions.loss.sum()),
        pairs=count_pairs(risk, times, events),
        histogram=risk_time_histogram(
            risk, times, events, config.num_bins, config.grid_step_months, config.grid_num_cells
        ),
    )


def _gene_moments(
    cohort: Cohort, columns: tuple[str, ...], rows: list[int | None], experiment: Experiment
) -> ColumnMoments:
    """Compute moments of the transformed values of agreed columns over some rows of the site's table."""
    assert cohort.genes is not None
    position = {column: i for i, column in enumerate(cohort.genes.columns)}
    absent = [column for column in columns if column not in position]
    if absent:
        raise RefusedError(
            Refusal.AGREEMENT_FIELD,
            f"the molecular table lacks {len(absent)} of the requested columns, the first is {absent[0]}",
        )
    values = cohort.genes.values_NC[np.ix_([r for r in rows if r is not None], [position[c] for c in columns])]
    return column_moments([transform_genes(values, experiment.agreement)], len(columns))


def _suppress_small_counts(moments: ColumnMoments, threshold: int) -> ColumnMoments:
    """Set a column to zeros if fewer patients than the threshold have a value: their mean could reveal a value."""
    enough = moments.count >= threshold
    return ColumnMoments(*(np.where(enough, part, 0.0) for part in moments.arrays().values()))
