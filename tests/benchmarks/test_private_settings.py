"""The numpy version of private training, with which settings are compared: its gradients equal those of the model."""

import numpy as np
import pytest
import torch

from memamba_core.privacy.accounting import calibrate_noise
from memamba_core.survival.losses import nll_loss

pytest.importorskip("opacus", reason="differential privacy needs the extra `privacy`")


NUM_COLUMNS = 40


@pytest.fixture(scope="module")
def script(benchmarks):
    return benchmarks("private_settings")


@pytest.fixture
def split(script):
    """Draw three sites of planted patients; their risk is a common factor of a quarter of the columns."""
    rng = np.random.default_rng(0)
    factor = rng.normal(size=240)
    columns = rng.normal(size=(240, NUM_COLUMNS)) * 0.5
    columns[:, : NUM_COLUMNS // 4] += 0.5 * factor[:, None]
    time = rng.exponential(60 * np.exp(-1.5 * factor))
    sites = tuple(np.arange(start, start + 60) for start in (0, 60, 120))
    return script.Split(columns * 15 / NUM_COLUMNS**0.5, time, rng.random(240) < 0.7, sites, np.arange(180, 240))


@pytest.mark.parametrize("max_norm", [1.0, 1e9])
def test_sums_are_those_of_clipped_gradients_of_the_likelihood(script, split, max_norm):
    rng = np.random.default_rng(1)
    site, weights, bias = split.sites[1], rng.normal(size=NUM_COLUMNS) * 0.02, rng.normal(size=4) - 2
    wanted = np.zeros(NUM_COLUMNS + 4)
    for patient in site:
        parameters = torch.tensor(np.concatenate([weights, bias]), requires_grad=True)
        logits = parameters[NUM_COLUMNS:] + torch.tensor(split.columns_NC[patient]) @ parameters[:NUM_COLUMNS]
        time_bin = torch.tensor([int(np.searchsorted(script.EDGES, split.time_N[patient], side="right"))])
        event = torch.tensor([bool(split.event_N[patient])])
        nll_loss(logits[None], time_bin, event, alpha=0.0, censored_bin="through").backward()
        gradient = parameters.grad.numpy()
        wanted += gradient * min(1.0, max_norm / np.linalg.norm(gradient))
    logits = (bias + (split.columns_NC[site] @ weights)[:, None])[:, :, None]
    everybody = np.ones((len(site), 1), dtype=bool)
    got = script.clipped_sums(split, site, logits, max_norm, everybody, only_biases=False)
    np.testing.assert_allclose(np.concatenate(got)[:, 0], wanted, rtol=1e-9, atol=1e-12)


@pytest.mark.ci_slow
def test_noise_is_that_of_the_epsilon_and_hurts(script, split):
    setting = script.SETTINGS[0]
    clear, noisy = (script.c_indices(split, setting, epsilon, 40, seed=0) for epsilon in (None, 0.5))
    assert clear.mean() > 0.65
    assert noisy.mean() < clear.mean() - 0.03
    assert noisy.std() > 2 * clear.std()
    assert calibrate_noise(0.5, script.DELTA, script.SAMPLING_RATE, setting.num_steps) > 5


def test_defaults_are_those_of_the_mode(script):
    from memamba_core.config.compose import compose_experiment

    experiment, setting = compose_experiment(["privacy=dp_sgd"]), script.SETTINGS[0]
    assert setting.num_steps == experiment.privacy.steps_per_round * experiment.federation.num_rounds
    assert setting.learning_rate == experiment.federation.optimizer.learning_rate
    assert (setting.max_norm, setting.hazard_bias) == (experiment.privacy.max_norm, experiment.model.hazard_bias)
    assert (experiment.privacy.sampling_rate, experiment.privacy.delta) == (script.SAMPLING_RATE, script.DELTA)
    assert experiment.agreement.public_edges == script.EDGES
