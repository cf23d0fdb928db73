"""Batches of patients in a seeded order, and parts of a batch whose graph fits into memory."""

from collections.abc import Iterator, Sequence

import numpy as np

from memamba_core.patient import PatientInputs

__all__ = ["MICRO_BATCH_ROWS", "batches_of", "num_batches", "parts_of_batch", "parts_of_stream"]

MICRO_BATCH_ROWS = 16_384
"""Bag rows whose graph is held at once; a batch with more rows is cut into parts. The number changes memory use. Of the
result it changes only which random numbers dropout and the sampled tokens of the fusion loss get."""


def num_batches(num: int, size: int, smallest: int = 1) -> int:
    """Return the number of batches of `batches_of`."""
    return max(1, min(-(-num // size), num // smallest))


def batches_of(num: int, size: int, seed: int, smallest: int = 1) -> Iterator[list[int]]:
    """Yield indices in a seeded order, `size` at a time; the last batch may be smaller.

    Args:
        num: number of patients.
        size: patients of a batch.
        seed: of the order.
        smallest: fewest patients of a batch. Above 1 the patients are dealt out evenly instead, over so few batches
            that none is smaller: the step of a last batch of one patient would be that patient's gradient.
    """
    order = np.random.default_rng(seed).permutation(num)
    if smallest > 1:
        yield from ([int(i) for i in part] for part in np.array_split(order, num_batches(num, size, smallest)))
        return
    for start in range(0, num, size):
        yield [int(i) for i in order[start : start + size]]


def parts_of_batch(patients: Sequence[PatientInputs]) -> Iterator[list[PatientInputs]]:
    """Cut a batch into parts of at most `MICRO_BATCH_ROWS` rows (or one patient), bags of similar length together."""
    ordered = sorted(enumerate(patients), key=lambda item: _rows(item[1]))
    for part in parts_of_stream(iter(ordered), limit=None):
        yield [patient for _, patient in part]


def parts_of_stream(
    patients: Iterator[tuple[int, PatientInputs]], limit: int | None = 256
) -> Iterator[list[tuple[int, PatientInputs]]]:
    """Yield runs of at most `limit` consecutive patients with at most `MICRO_BATCH_ROWS` rows (or one patient)."""
    part: list[tuple[int, PatientInputs]] = []
    rows = 0
    for item in patients:
        if part and (rows + _rows(item[1]) > MICRO_BATCH_ROWS or len(part) == limit):
            yield part
            part, rows = [], 0
        part.append(item)
        rows += _rows(item[1])
    if part:
        yield part


def _rows(patient: PatientInputs) -> int:
    return 0 if patient.bag is None else len(patient.bag.patches_PF)
