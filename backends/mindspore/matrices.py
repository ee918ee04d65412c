"""Matrices of linear layers and tables, set and let go of one by one."""

from __future__ import annotations

from typing import Any

import numpy as np
from mindspore import Tensor, nn

from duosora.core.loading import IN_NUMPY, CheckedWeights, Matrix

from .eight_bits import Embedding8, Linear8
from .layers import Embedding, Linear, device_of, new_parameter, place
from .precision import to_array, to_weight


def linear_layers(model: nn.Cell, block: str) -> dict[str, Any]:
    """The linear layers inside of a block by the names of their weights."""
    inside = f"{block}."
    cells = ((path, cell) for path, cell in model.cells_and_names() if path.startswith(inside))
    return {f"{path}.weight": cell for path, cell in cells if isinstance(cell, Linear | Linear8)}


def put(layer: Any, matrix: Matrix, device: str) -> None:
    """Set a layer's weight, in the array's own memory where that is the device's.

    It is no parameter, which would be a copy.
    """
    is_known = matrix.numbers.dtype != IN_NUMPY["bf16"]
    layer.weight = Tensor.from_numpy(matrix.numbers) if is_known else to_weight(matrix.numbers, device)
    if matrix.scales is not None:
        layer.scale = Tensor.from_numpy(matrix.scales)


def drop(layer: Any) -> None:
    """Let go of a layer's weight, of which the shape stays."""
    layer.weight = new_parameter(*layer.weight.shape)


def table_of(matrix: Matrix, dtype: str, device: str) -> Any:
    """A table of vectors, taken by number. dtype: of what it gives."""
    rows, width = matrix.numbers.shape
    table: Any = Embedding(rows, width)
    if matrix.scales is not None:
        table = Embedding8(rows, width, dtype, device)
    put(table, matrix, device)
    return table


class TableInFile(nn.Cell):
    """A table of vectors, taken by number, of which only the rows of the texts at hand are read."""

    def __init__(self, name: str, weights: CheckedWeights, dtype: str, computed: str, device: str) -> None:
        """dtype: of the table, or EIGHT_BITS. computed: of what it gives."""
        super().__init__()
        self.name, self.weights, self.dtype = name, weights, dtype
        self.options = (computed, device)

    def construct(self, ids: Tensor) -> Tensor:
        numbers, places = np.unique(to_array(ids), return_inverse=True)
        table = table_of(self.weights.few_rows(self.name, numbers.tolist(), self.dtype), *self.options)
        return table(place(places.reshape(ids.shape), device_of(ids)))
