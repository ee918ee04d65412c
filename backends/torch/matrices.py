"""Matrices of linear layers and tables, set and let go of one by one."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from duosora.core.loading import Matrix

from .eight_bits import Embedding8, Linear8
from .layers import Embedding, Linear
from .precision import to_weight


def linear_layers(model: nn.Module, block: str) -> dict[str, Any]:
    """The linear layers inside of a block by the names of their weights."""
    inner = model.get_submodule(block).named_modules(prefix=block)
    return {f"{path}.weight": layer for path, layer in inner if isinstance(layer, Linear | Linear8)}


def put(layer: Any, matrix: Matrix, device: str) -> None:
    """Set a layer's weight, in the array's own memory where that is the device's."""
    layer.weight = nn.Parameter(to_weight(matrix.numbers, device), requires_grad=False)
    if matrix.scales is not None:
        layer.scale = to_weight(matrix.scales, device)


def drop(layer: Any) -> None:
    """Let go of a layer's weight, of which the shape stays."""
    layer.weight = nn.Parameter(torch.empty_like(layer.weight, device="meta"), requires_grad=False)


def table_of(matrix: Matrix, dtype: str, device: str) -> Any:
    """A table of vectors, taken by number. dtype: of what it gives."""
    rows, width = matrix.numbers.shape
    table: Any = Embedding(rows, width, device="meta")
    if matrix.scales is not None:
        table = Embedding8(rows, width, dtype, device)
    put(table, matrix, device)
    return table
