"""What an experiment with differential privacy asks of every site: the same public numbers everywhere."""

from dataclasses import dataclass

from memamba_core.config.experiment import Experiment
from memamba_core.config.privacy import DPSGDConfig
from memamba_core.privacy.accounting import NoisyStep, calibrate_noise

__all__ = ["PrivacyPlan", "plan_of"]


@dataclass(frozen=True)
class PrivacyPlan:
    """The noisy steps of a site in one round.

    Attributes:
        step: noise multiplier and sampling rate of each.
        steps_per_round: their number in a round.
        num_rounds: rounds of the run, for which the noise was calibrated together.
        only_last_layers: the linear skips and the last layer of the head learn, the rest stays as it was drawn.
        max_norm: C, to which each patient's gradient is clipped.
        epsilon, delta: what the whole run costs each patient of a site that takes part in every round.
    """

    step: NoisyStep
    steps_per_round: int
    num_rounds: int
    only_last_layers: bool
    max_norm: float
    epsilon: float
    delta: float

    def divisor(self, size_band: int) -> float:
        """Expected patients in a step of a site, by the lower end of its public size band: nothing else depends on n.

        At least one: in the smallest band the noise would be divided by almost nothing.
        """
        return max(1.0, self.step.sampling_rate * size_band)


def plan_of(experiment: Experiment) -> PrivacyPlan | None:
    """The plan of an experiment, None without differential privacy. Coordinator and sites each compute it.

    Raises:
        ConfigError: the settings ask for more steps than are accounted for, or for an epsilon out of reach.
        MissingBackendError: Opacus is not installed.
    """
    privacy, rounds = experiment.privacy, experiment.federation.num_rounds
    if not isinstance(privacy, DPSGDConfig):
        return None
    noise = calibrate_noise(privacy.epsilon, privacy.delta, privacy.sampling_rate, privacy.steps_per_round * rounds)
    step = NoisyStep(noise, privacy.sampling_rate)
    return PrivacyPlan(
        step,
        privacy.steps_per_round,
        rounds,
        privacy.trained == "last_layers",
        privacy.max_norm,
        privacy.epsilon,
        privacy.delta,
    )
