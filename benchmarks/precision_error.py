"""Errors of less precise matrix products: the table of docs/explanation/model.md. Prints Markdown.

    python benchmarks/precision_error.py

The table gives the errors of a Mamba block's output and of its worst gradient, as the norm of the difference relative
to float64, with random weights. On a processor without bfloat16 units, `medium` changes nothing.
"""

import contextlib
import copy
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from memamba_core.io.process_setup import set_up_process

if __name__ == "__main__":
    set_up_process()  # before torch is imported

import torch
from torch import Tensor

from memamba_core.model.mamba import Mamba
from memamba_core.model.precision import matmul_precision

D_MODEL, LENGTH = 256, 2048


def main() -> None:
    """Measure and print."""
    torch.manual_seed(0)
    block, tokens, weights = Mamba(D_MODEL), *torch.randn(2, 1, LENGTH, D_MODEL)
    wanted = _values(copy.deepcopy(block).double(), tokens.double(), weights)
    settings: dict[str, Callable[[], AbstractContextManager[Any]]] = {
        "highest": contextlib.nullcontext,
        "high": lambda: matmul_precision("high"),
        "medium": lambda: matmul_precision("medium"),
        "precision=bfloat16": lambda: torch.autocast("cpu", torch.bfloat16),
    }
    print("| setting | output | worst gradient |\n|---|---|---|")
    for name, setting in settings.items():
        with setting():
            got = _values(block, tokens, weights)
        output, *gradients = (
            ((one - right).norm() / right.norm()).item() for one, right in zip(got, wanted, strict=True)
        )
        print(f"| `{name}` | {output:.0e} | {max(gradients):.0e} |")


def _values(block: Mamba, tokens_BLD: Tensor, weights_BLD: Tensor) -> list[Tensor]:
    """Return the output and the gradient of every parameter, in float64."""
    y_BLD = block(tokens_BLD)
    gradients = torch.autograd.grad((y_BLD * weights_BLD).sum(), list(block.parameters()))
    return [value.detach().double() for value in (y_BLD, *gradients)]


if __name__ == "__main__":
    main()
