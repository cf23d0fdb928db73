"""Vector of 16 channels as a type of numba and LLVM: one register with AVX-512, two with AVX2, four with NEON."""

# numba's core and llvmlite have no annotations.
# mypy: allow-untyped-calls

from collections.abc import Callable
from typing import Any, Final

from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.extending import intrinsic, models, register_model

__all__ = ["IR_BITS", "IR_INDEX", "IR_VECTOR", "LANES", "VECTOR", "in_every_lane", "instruction"]

LANES: Final = 16
"""Channels in a vector."""


class _VectorType(types.Type):
    def __init__(self) -> None:
        super().__init__(name=f"float32x{LANES}")


VECTOR: Final = _VectorType()
"""Numba's type of a vector."""
IR_VECTOR: Final = ir.VectorType(ir.FloatType(), LANES)
"""LLVM's type of a vector."""
IR_BITS: Final = ir.VectorType(ir.IntType(32), LANES)
"""LLVM's type of the same bits as integers."""
IR_INDEX: Final = ir.IntType(32)


@register_model(_VectorType)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Any) -> None:
        super().__init__(manager, kind, IR_VECTOR)


def instruction(emit: Callable[..., Any], arity: int) -> Any:
    """Build a function of `arity` vectors from one or a few LLVM instructions, `emit(builder, *values)`."""

    def lower(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return emit(builder, *values)

    signature = VECTOR(*[VECTOR] * arity)
    if arity == 1:
        return intrinsic(lambda typing, a: (signature, lower))
    if arity == 2:
        return intrinsic(lambda typing, a, b: (signature, lower))
    return intrinsic(lambda typing, a, b, c: (signature, lower))


def in_every_lane(builder: Any, number: Any) -> Any:
    """Emit the LLVM instructions that repeat a number in every lane."""
    undefined = ir.Constant(IR_VECTOR, ir.Undefined)
    one = builder.insert_element(undefined, number, IR_INDEX(0))
    return builder.shuffle_vector(one, undefined, ir.Constant(IR_BITS, [0] * LANES))
