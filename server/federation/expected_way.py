"""How far a site of a given size goes in a round: more patients make more steps, and later ones are longer.

Honest updates differ by a factor of 60 in the first round of a default run: sites of up to one batch take a single step
at the beginning of the warm-up, larger ones take more, with rising learning rates. So the norms of two updates are
compared per unit of the way that the settings prescribe.
"""

from memamba_core.config.experiment import Experiment
from memamba_core.training.optim import learning_rate_factor
from memamba_core.wire.protocol import SIZE_BANDS

__all__ = ["MOST_EXPECTED", "expected_way"]

MOST_EXPECTED = 2 * SIZE_BANDS[-1]
"""Patients of the open band for which a long way is expected: a site cannot explain any update by its size."""


def expected_way(experiment: Experiment, server_round: int, num_patients: int, size_band: int) -> float:
    """Return the sum of the learning-rate factors of a site's steps in a round, in units of the peak rate.

    Under differential privacy the number of steps is the same at every site, and a step is divided by the site's band.

    Args:
        experiment: schedule, batch size, epochs.
        server_round: from 1.
        num_patients: patients of the site, at least 1.
        size_band: lower end of the site's band.
    """
    config, federation, privacy = experiment.training, experiment.federation, experiment.privacy
    if privacy.name == "dp_sgd":
        steps, first, total = 1, (server_round - 1) * privacy.steps_per_round, privacy.steps_per_round
        epochs, divisor = privacy.steps_per_round, max(1.0, privacy.sampling_rate * size_band)
    else:
        steps = -(-max(1, min(num_patients, MOST_EXPECTED)) // config.batch_size)
        first, total = (server_round - 1) * federation.local_epochs, federation.local_epochs
        epochs, divisor = federation.local_epochs, 1.0
    total *= federation.num_rounds
    progress = ((first + epoch + number / steps) / total for epoch in range(epochs) for number in range(steps))
    return sum(learning_rate_factor(config, share) for share in progress) / divisor
