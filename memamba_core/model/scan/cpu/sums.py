"""Compensated sums, and sums in a fixed order that does not depend on the number of threads."""

# What numba compiles has no annotations: it infers types.
# ruff: noqa: ANN001, ANN201

from typing import no_type_check

from memamba_core.model.scan.cpu.compiler import GROUPS, SEQUENCE, inlined, kernel
from memamba_core.model.scan.cpu.vector_memory import load, load_some, store, store_some
from memamba_core.model.scan.cpu.vector_type import LANES
from memamba_core.model.scan.cpu.vectors import splat

__all__ = ["add_to", "clear", "sum_parts"]


@inlined
@no_type_check
def clear(memory, size):
    """Set the first `size` numbers, whole vectors, to 0."""
    for at in range(0, size, LANES):
        store(memory, (at,), splat(0.0))


@inlined
@no_type_check
def add_to(total, lost, at, term):
    """Add a vector to a running total without losing its low digits (Kahan 1965)."""
    before = load(total, (at,))
    term = term - load(lost, (at,))
    after = before + term
    store(lost, (at,), (after - before) - term)
    store(total, (at,), after)


@kernel
@no_type_check
def sum_parts(parts: GROUPS, total: SEQUENCE):
    """Sum over the first axis, in its order: torch's own sum may depend on the number of threads."""
    for b in range(total.shape[0]):
        for t in range(total.shape[1]):
            for n in range(0, total.shape[2], LANES):
                width = total.shape[2] - n
                sum_n = load_some(parts, (0, b, t, n), width)
                for part in range(1, len(parts)):
                    sum_n = sum_n + load_some(parts, (part, b, t, n), width)
                store_some(total, (b, t, n), sum_n, width)
