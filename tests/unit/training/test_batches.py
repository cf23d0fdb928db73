"""Batches: each patient once, in a seeded order, in parts whose graph fits into memory."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from memamba_core.patient import Bag, PatientInputs, SurvivalTarget
from memamba_core.training import batches
from memamba_core.training.batches import batches_of, parts_of_batch, parts_of_stream

TARGET = SurvivalTarget(10.0, True, 1)


def patients(sizes):
    return [PatientInputs(TARGET, Bag(torch.zeros(size, 1)) if size else None) for size in sizes]


def rows(part):
    return [0 if patient.bag is None else len(patient.bag.patches_PF) for patient in part]


@given(st.integers(1, 40), st.integers(1, 12), st.integers(0, 99))
def test_everybody_is_in_one_batch(num, size, seed):
    found = list(batches_of(num, size, seed))
    assert sorted(index for batch in found for index in batch) == list(range(num))
    assert [len(batch) for batch in found] == [size] * (num // size) + [num % size] * bool(num % size)
    assert found == list(batches_of(num, size, seed))


def test_the_order_is_that_of_the_seed():
    assert list(batches_of(20, 20, 1)) != list(batches_of(20, 20, 2))


@pytest.mark.parametrize(
    ("sizes", "parts"),
    [
        ([3, 0, 5, 1, 4], [[0, 1, 3], [4], [5]]),
        ([9, 5, 0, 9], [[0, 5], [9], [9]]),  # a bag above the limit stands alone
        ([0, 0], [[0, 0]]),
        ([], []),
    ],
)
def test_a_batch_is_cut_with_bags_of_like_length_together(sizes, parts, monkeypatch):
    monkeypatch.setattr(batches, "MICRO_BATCH_ROWS", 5)
    assert [rows(part) for part in parts_of_batch(patients(sizes))] == parts


def test_a_stream_keeps_its_order_and_ends_a_part_at_its_limits(monkeypatch):
    monkeypatch.setattr(batches, "MICRO_BATCH_ROWS", 5)
    sizes = [3, 0, 5, 1, 4, 0, 0, 0]
    found = list(parts_of_stream(enumerate(patients(sizes)), limit=3))
    assert [[index for index, _ in part] for part in found] == [[0, 1], [2], [3, 4, 5], [6, 7]]
    many = patients([0] * 600)  # no rows at all: only their number ends a part
    assert [len(part) for part in parts_of_stream(enumerate(many))] == [256, 256, 88]
