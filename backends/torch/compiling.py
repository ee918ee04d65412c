"""Models as compiled graphs."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


def compile_forward(model: nn.Module) -> None:
    """Let each block of a denoiser run as a compiled graph, whoever calls it.

    Blocks of one kind share a graph for each combination of shapes and arrangements, so that 32 of them are compiled
    in the time of one.
    """
    of_one_rank: Any = getattr(model, "model", model)  # where ranks share the tokens, it is inside
    for block in of_one_rank.blocks():
        block.forward = torch.compile(block.forward, dynamic=False)
