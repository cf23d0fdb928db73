"""ME-Mamba: the model that turns a patient's patches and genes into the logits of a discrete-time survival model.

Letters at the end of a tensor's name are its axes:

====== =====================================================================================================
letter axis
====== =====================================================================================================
B      patients of a batch (in `scan` and `mamba` also a matrix of the state space model, which the field calls B)
P      patches of a bag, or patch tokens
F      columns of a patch feature
C      agreed gene columns
G      gene groups, or gene tokens
L      tokens of a sequence; steps of time in a scan
D      width of a token
E      inner width of a Mamba block
N      state of a Mamba block
K      time bins
====== =====================================================================================================

A few letters are explained where they are used: H hidden width, S steps of a segment, W taps of a convolution, R
dt_rank, A anchor tokens, M any other axis.

Modules, from the bottom up: `scan.cpu` and `scan.triton` (compiled kernels), `scan` (the selective scan and its
backends), `convolution`, `mamba` (the block; `scan.cpu.mixer` is its compiled inside), `attention`, `tokens`, `experts`
(one modality), `transport` and `mmd`, `synergistic` (both modalities), `branches` and `me_mamba` (the whole model).
"""

from memamba_core.model.me_mamba import MEMamba, ModelOutput, build_model
from memamba_core.model.parameter_groups import PARAMETER_GROUPS, parameter_group

__all__ = ["PARAMETER_GROUPS", "MEMamba", "ModelOutput", "build_model", "parameter_group"]
