"""Cost of a step with differential privacy against a plain step on the same patients.

    python benchmarks/private_step.py [--patients 16] [--patches 2000] [--repeats 3]

A private step takes one patient at a time, clips the gradients and adds noise. The model has three experts and five
million parameters; each patient has genes and a bag of patches. Plain and private steps take turns, so that a busy
machine slows both; the result is the ratio of the medians. The noise is drawn once per step, so the ratio falls with
the number of patients.
"""

import argparse
import statistics
import time

from memamba_core.io.process_setup import set_up_process

if __name__ == "__main__":
    set_up_process()  # before torch is imported

import numpy as np
import torch

from memamba_core.config.model import ModelConfig
from memamba_core.config.training import TrainingConfig
from memamba_core.model import build_model
from memamba_core.patient import Bag, InputSpec, PatientInputs, SurvivalTarget
from memamba_core.privacy.dp_sgd import PatientOptimizer
from memamba_core.privacy.secure_random import SecureRandom
from memamba_core.training.trainer import training_loss

NUM_GENES = 3000
FEATURE_WIDTH = 1024


def patients(num: int, num_patches: int) -> list[PatientInputs]:
    """Draw random patients who have both modalities."""
    rng = torch.Generator().manual_seed(0)
    return [
        PatientInputs(
            SurvivalTarget(12.0, i % 3 == 0, i % 4),
            Bag(torch.randn(num_patches, FEATURE_WIDTH, generator=rng)),
            torch.randn(NUM_GENES, generator=rng),
        )
        for i in range(num)
    ]


def main() -> None:
    """Print the medians and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--patients", type=int, default=16, help="patients in a step")
    parser.add_argument("--patches", type=int, default=2000, help="patches of each patient")
    parser.add_argument("--repeats", type=int, default=3, help="steps of each kind, after one to warm up")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    groups = {f"group-{i}": tuple(range(500 * i, 500 * (i + 1))) for i in range(6)}
    spec = InputSpec(num_bins=4, num_genes=NUM_GENES, gene_groups=groups, feature_width=FEATURE_WIDTH)
    model = build_model(ModelConfig(d_model=288, group_hidden=320), spec, seed=0)
    config, drawn = TrainingConfig(), patients(arguments.patients, arguments.patches)
    sgd = torch.optim.SGD(model.parameters(), lr=1e-6)
    private = PatientOptimizer(sgd, noise_multiplier=1.0, max_norm=1.0, divisor=len(drawn), random=SecureRandom())
    print(model.describe())

    def plain_step() -> None:
        sgd.zero_grad(set_to_none=True)
        for patient in drawn:
            (training_loss(model, [patient], config)[0] / len(drawn)).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        sgd.step()

    def private_step() -> None:
        private.zero_grad(set_to_none=True)
        for patient in drawn:
            training_loss(model, [patient], config)[0].backward()
            private.add_patient()
        private.noisy_step()

    seconds: dict[str, list[float]] = {"plain": [], "private": []}
    for repeat in range(arguments.repeats + 1):
        for name, step in (("plain", plain_step), ("private", private_step)):
            start = time.process_time()
            step()
            if repeat:
                seconds[name].append(time.process_time() - start)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    ratios = np.array(seconds["private"]) / np.array(seconds["plain"])
    print(
        f"{len(drawn)} patients of {arguments.patches} patches, processor seconds per step: plain "
        f"{medians['plain']:.2f}, private {medians['private']:.2f}, ratio {medians['private'] / medians['plain']:.2f} "
        f"(pairs {ratios.min():.2f} to {ratios.max():.2f})"
    )


if __name__ == "__main__":
    main()
