"""ME-Mamba: what turns one patient's patches and genes into the logits of a discrete-time survival model.

Letters at the end of a tensor's name are its axes:

====== =====================================================================================================
letter axis
====== =====================================================================================================
B      patients of a batch (in `scan` and `mamba`, also the field's name for a matrix: there axes come last)
P      patches of a bag, or patch tokens
F      columns of a patch feature
C      agreed gene columns
G      gene groups, or gene tokens
L      tokens of a sequence; in a scan, time
D      width of a token
E      inner width of a Mamba block
N      state of a Mamba block
K      time bins
====== =====================================================================================================

The few others (H hidden, S steps of a segment, W a window, R dt_rank, A anchor tokens, M the rest) are said
where they are used.

Rooms, from the bottom: `cpu` (machine code for a CPU), `scan` and its backends, `conv` and `conv_cpu`, `mamba` (the
block; `mixer_cpu` is its inside, compiled), `attention`, `tokens`, `experts` (one modality), `transport` and `mmd`,
`synergistic` (both), `branches` and `me_mamba` (all of it).
"""

from memamba_core.model.me_mamba import MEMamba, ModelOutput, build_model
from memamba_core.model.parameter_groups import PARAMETER_GROUPS, parameter_group

__all__ = ["PARAMETER_GROUPS", "MEMamba", "ModelOutput", "build_model", "parameter_group"]
