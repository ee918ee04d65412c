"""Models as compiled graphs."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from .denoiser import TokenDenoiser

_MOST_GRAPHS = 256
"""Of all blocks together. torch's own limit is 8, behind which it compiles no more: less than three sizes of a model
whose blocks are of three kinds."""


def compile_forward(model: nn.Module) -> None:
    """Let a denoiser run as compiled graphs, one for each kind of block and combination of shapes."""
    of_one_rank: Any = getattr(model, "model", model)  # where ranks share the tokens, it is inside
    compile_blocks(of_one_rank)


def compile_blocks(model: TokenDenoiser) -> None:
    """Let each block run as a compiled graph, whoever calls it.

    Blocks of one kind share a graph for each combination of shapes and arrangements, so that 32 of them are compiled
    in the time of one.
    """
    from torch._dynamo import config

    config.cache_size_limit = max(config.cache_size_limit, _MOST_GRAPHS)  # its name before torch 2.6, and ever since
    for block in model.blocks():
        block.forward = torch.compile(block.forward, dynamic=False)
