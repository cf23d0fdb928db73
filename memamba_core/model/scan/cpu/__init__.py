"""The machine code of a Mamba block on a CPU, made by numba: float32, forward and backward.

From the bottom: `vector_type`, `vectors`, `vector_memory` and `avx512` (a vector, and what LLVM does with one),
`compiler` (how a function becomes a kernel, and where it is kept), `elementary`, `elementary_avx512` and `functions`
(exponential, sigmoid, softplus), `sums` (without losing digits), `scan_tiles`, `scan_forward` and `scan_backward` (the
selective scan), `convolution`, `kernels` (all of them for their callers). Beside them,
without numba: `loading` (when all that is imported), `tensors` (what kernels are given), `thread_pool` (runs kernels)
and `memory` (where large tensors come from).

Importing numba takes half a second. So what needs it is not imported before the first scan.
"""
