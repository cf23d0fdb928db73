"""Compiled code of a Mamba block on a CPU, made by numba: float32, forward and backward.

Modules that need numba, from the bottom up: `vector_type`, `vectors`, `vector_memory` and `avx512` (a vector, and its
operations in LLVM), `compiler` (turns a function into a kernel and keeps it on the disk), `elementary`,
`elementary_avx512` and `functions` (exponential, sigmoid, softplus), `sums` (compensated sums), `scan_tiles`,
`scan_forward` and `scan_backward` (the selective scan), `convolution`, and `kernels` (all kernels for their callers).
Modules without numba: `loading` (imports the others at the first scan), `tensors` (arguments of kernels), `thread_pool`
(runs kernels), `passes` and `convolution_function` (the passes without a graph), `scan` and `mixer` (with a graph).

Importing numba takes half a second, so the modules that need it are not imported before the first scan.
"""
