"""Checks of requests against the settings of their run: the site's policy was applied to the settings alone."""

from memamba_core.config.agreement import AgreementConfig
from memamba_core.config.experiment import Experiment
from memamba_core.config.site import LimitsConfig
from memamba_core.config.strategy import FedProxConfig
from memamba_core.data.agreement import Agreement
from memamba_core.data.agreement_rules import check_against_settings
from memamba_core.data.genomics.table import continuous_columns
from memamba_core.errors import AgreementError
from memamba_core.training.checkpoint import count_parameters
from memamba_core.wire.protocol import Refusal, StatisticsRequest, TrainRequest

from .session import RefusedError

__all__ = ["check_agreement", "check_round", "check_statistics"]

_MAX_GROUPS = 10_000


def check_agreement(experiment: Experiment, agreement: Agreement, limits: LimitsConfig, *, strict: bool) -> None:
    """Check an agreement against the settings, and the size of its model before memory for it is allocated.

    Args:
        experiment: settings of the run.
        agreement: of the coordinator.
        limits: of the site.
        strict: whether public constants take the place of event counts and of moments of discrete columns.

    Raises:
        RefusedError: the agreement does not follow the settings, or the model is larger than the site allows.
    """
    try:
        check_against_settings(agreement, experiment.agreement, public_constants=strict)
    except AgreementError as error:
        raise RefusedError(Refusal.CONFIG, str(error)) from None
    groups = len(agreement.gene_groups) + len(agreement.feature_groups)
    if groups > _MAX_GROUPS:  # counting parameters takes half a millisecond for each group
        raise RefusedError(
            Refusal.POLICY, f"the agreement has {groups} groups of columns; expected at most {_MAX_GROUPS}"
        )
    num = count_parameters(experiment, agreement)
    if num > limits.max_parameters:
        raise RefusedError(
            Refusal.POLICY,
            f"the model has {num} parameters; expected at most limits.max_parameters={limits.max_parameters}",
        )


def check_statistics(
    config: AgreementConfig, request: StatisticsRequest, *, has_feature_columns: bool, strict: bool
) -> None:
    """Check that statistics are requested only where the settings need them, and once for each column.

    Args:
        config: time bins and scaling, as in the settings.
        request: of the coordinator.
        has_feature_columns: whether the site's features are a slide-level table, which `auto` scales.
        strict: whether event counts, and sums of columns that are not continuous, are withheld.

    Raises:
        RefusedError: the settings say that nothing is requested from data, a column is requested twice, or something
            that a strict site withholds.
    """
    scales = config.feature_scaling == "zscore" or (config.feature_scaling == "auto" and has_feature_columns)
    for requested, needed, name in (
        (request.count_events, config.time_bins == "event_quantiles", "time_bins"),
        (bool(request.gene_columns), config.gene_scaling == "statistics", "gene_scaling"),
        (request.scale_features, scales, "feature_scaling"),
    ):
        if requested and not needed:
            raise RefusedError(
                Refusal.CONFIG, f"statistics are requested that agreement.{name}={getattr(config, name)} does not need"
            )
    if strict and (request.count_events or list(request.gene_columns) != continuous_columns(request.gene_columns)):
        raise RefusedError(
            Refusal.POLICY, "event counts, or sums of columns that are not continuous, are requested; they do not leave"
        )
    if len(set(request.gene_columns)) < len(request.gene_columns):  # memory is allocated for every column in the list
        raise RefusedError(Refusal.AGREEMENT_FIELD, "a molecular column is requested twice; expected each once")


def check_round(experiment: Experiment, request: TrainRequest) -> None:
    """Check the round and the proximal term of a training request.

    Raises:
        RefusedError: the settings have no such round, or another proximal term.
    """
    strategy, num_rounds = experiment.strategy, experiment.federation.num_rounds
    if not 1 <= request.server_round <= num_rounds:
        raise RefusedError(Refusal.MESSAGE, f"server_round is {request.server_round}; expected 1 to {num_rounds}")
    expected = strategy.proximal_mu if isinstance(strategy, FedProxConfig) else None
    if request.proximal_mu != expected:
        raise RefusedError(Refusal.CONFIG, f"proximal_mu is {request.proximal_mu}; the settings have {expected}")
