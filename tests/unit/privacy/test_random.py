"""Noise and sampling: the right distributions, and no way to repeat them."""

import numpy as np
import pytest
from scipy import stats

from memamba_core.privacy.secure_random import SecureRandom
from memamba_core.training.seeding import seeded


def test_normal_numbers_are_normal():
    numbers = SecureRandom().normal(200_001)
    assert len(numbers) == 200_001
    assert stats.kstest(numbers, "norm").pvalue > 1e-6
    assert np.isfinite(numbers).all()
    assert abs(np.corrcoef(numbers[:100_000], numbers[100_001:])[0, 1]) < 0.02  # both halves of Box-Muller


@pytest.mark.parametrize("probability", [0.0, 0.1, 0.5, 1.0])
def test_coins_fall_as_often_as_asked(probability):
    share = SecureRandom().bernoulli(100_000, probability).mean()
    assert share == pytest.approx(probability, abs=6 * np.sqrt(max(probability * (1 - probability), 1e-12) / 100_000))


@pytest.mark.parametrize("probability", [-0.1, 1.1, float("nan")])
def test_a_probability_is_one(probability):
    with pytest.raises(ValueError, match="probability"):
        SecureRandom().bernoulli(3, probability)


def test_nothing_seeds_it():
    numbers = []
    for _ in range(2):
        with seeded(0):
            numbers.append(SecureRandom().normal(8))
    assert not np.array_equal(*numbers)


def test_a_new_key_gives_another_stream():
    random = SecureRandom()
    first = random.normal(8)
    random.rekey()
    assert not np.array_equal(first, random.normal(8))
