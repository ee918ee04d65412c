"""Models as compiled graphs."""

from __future__ import annotations

from torch import nn

from .denoiser import TokenDenoiser


def compile_forward(model: nn.Module) -> None:
    """Let a model's `forward` run as compiled graphs, one for each combination of shapes."""
    model.compile(dynamic=False)


def compile_blocks(model: TokenDenoiser) -> None:
    """The same for each block by itself, of a model that does more between its blocks than compute."""
    for block in model.blocks():
        block.compile(dynamic=False)
