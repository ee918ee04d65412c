"""Models as compiled graphs."""

from __future__ import annotations

from torch import nn


def compile_forward(model: nn.Module) -> None:
    """Let a model's `forward` run as compiled graphs, one for each combination of shapes."""
    model.compile(dynamic=False)
