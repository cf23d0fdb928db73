"""All kernels. Importing this module compiles them: seconds after an installation, later a fraction of a second."""

from memamba_core.model.scan.cpu.convolution import CHUNK, MOST_TAPS, conv_backward, conv_forward
from memamba_core.model.scan.cpu.functions import EXP2_TABLE
from memamba_core.model.scan.cpu.scan_backward import scan_backward
from memamba_core.model.scan.cpu.scan_forward import scan_forward
from memamba_core.model.scan.cpu.scan_tiles import TILE, state_size
from memamba_core.model.scan.cpu.sums import sum_parts
from memamba_core.model.scan.cpu.vector_type import LANES

__all__ = [
    "CHUNK",
    "EXP2_TABLE",
    "LANES",
    "MOST_TAPS",
    "TILE",
    "conv_backward",
    "conv_forward",
    "scan_backward",
    "scan_forward",
    "state_size",
    "sum_parts",
]
