"""Plan of the noisy steps of an experiment with differential privacy: the same public numbers for every site."""

from dataclasses import dataclass

from memamba_core.config.experiment import Experiment
from memamba_core.config.privacy import DPSGDConfig
from memamba_core.privacy.accounting import calibrate_noise
from memamba_core.privacy.noisy_step import NoisyStep

__all__ = ["PrivacyPlan", "plan_of"]


@dataclass(frozen=True)
class PrivacyPlan:
    """Noisy steps of a site in one round.

    Attributes:
        step: noise multiplier and sampling rate of each step.
        steps_per_round: number of steps in a round.
        num_rounds: rounds of the run; the noise is calibrated for all of them together.
        only_last_layers: True: only the linear skips and the last layer of the head are trained, all other parameters
            keep their initial values.
        max_norm: C, the norm to which the gradient of each patient is clipped.
        epsilon, delta: cost of the whole run for each patient of a site that takes part in every round.
    """

    step: NoisyStep
    steps_per_round: int
    num_rounds: int
    only_last_layers: bool
    max_norm: float
    epsilon: float
    delta: float

    @property
    def num_steps(self) -> int:
        """Number of steps in the whole run."""
        return self.steps_per_round * self.num_rounds

    def divisor(self, size_band: int) -> float:
        """Return the expected patients in a step of a site, by the lower end of its declared size band.

        No other number depends on the size of the site. The divisor is at least one: in the smallest band the noise
        would otherwise be divided by almost zero.
        """
        return max(1.0, self.step.sampling_rate * size_band)


def plan_of(experiment: Experiment) -> PrivacyPlan | None:
    """Compute the plan of an experiment, None without differential privacy; coordinator and sites each compute it.

    Raises:
        ConfigError: the settings have more steps than the accountants allow, or an epsilon out of reach.
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
