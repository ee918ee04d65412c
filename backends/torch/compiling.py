"""Models as compiled graphs."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from .denoiser import BlockByBlock, TokenDenoiser


def compile_forward(model: nn.Module) -> None:
    """Let a model's `forward` run as compiled graphs, one for each combination of shapes.

    So do the blocks that a call in parts runs together; what is decided between the parts stays outside.
    """
    model.compile(dynamic=False)
    if isinstance(model, BlockByBlock):
        parts: Any = model
        parts.run_blocks = torch.compile(parts.run_blocks, dynamic=False)


def compile_blocks(model: TokenDenoiser) -> None:
    """The same for each block by itself, of a model that does more between its blocks than compute."""
    for block in model.blocks():
        block.compile(dynamic=False)
