"""Three instructions of AVX-512 for which other processors have no equivalent."""

# numba's core and llvmlite have no annotations.
# mypy: allow-untyped-calls

from typing import Any, Final

from llvmlite import ir  # type: ignore[import-untyped]
from numba.core import cgutils
from numba.core.registry import cpu_target

from memamba_core.model.scan.cpu.vector_type import IR_BITS, IR_VECTOR, instruction

__all__ = ["HAS_AVX512", "looked_up", "rough_reciprocal", "scaled"]

_, _, _features = cpu_target.target_context.codegen().magic_tuple()
HAS_AVX512: Final = "+avx512f" in _features.split(",")
"""True if numba compiles for a processor with AVX-512: this machine's, or that of NUMBA_CPU_FEATURES."""

_ALL: Final = ir.IntType(16)(-1)
_AS_USUAL: Final = ir.IntType(32)(4)  # rounding


def _call(builder: Any, name: str, *values: Any) -> Any:
    kind = ir.FunctionType(IR_VECTOR, [value.type for value in values])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, f"llvm.x86.avx512.{name}.512"), values)


def _emit_scaled(builder: Any, a: Any, b: Any) -> Any:
    return _call(builder, "mask.scalef.ps", a, b, ir.Constant(IR_VECTOR, ir.Undefined), _ALL, _AS_USUAL)


def _emit_looked_up(builder: Any, table: Any, a: Any) -> Any:
    return _call(builder, "permvar.sf", table, builder.bitcast(a, IR_BITS))


def _emit_rough_reciprocal(builder: Any, a: Any) -> Any:
    return _call(builder, "rcp14.ps", a, ir.Constant(IR_VECTOR, ir.Undefined), _ALL)


scaled = instruction(_emit_scaled, 2)
"""a times 2 to the power of b, rounded down."""
looked_up = instruction(_emit_looked_up, 2)
"""Lanes of the first vector, chosen by the lowest four bits of the second."""
rough_reciprocal = instruction(_emit_rough_reciprocal, 1)
"""1 / a to 14 bits."""
