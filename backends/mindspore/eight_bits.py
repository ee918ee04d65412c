"""Layers whose weights are kept in 8 bits: whole numbers and a scale for each row, multiplied while they compute.

Activations stay as they are. Such a layer stands in the place of the one with whole weights, under the same name.
"""

from __future__ import annotations

from collections.abc import Iterable

import ml_dtypes
import numpy as np
from mindspore import Tensor, nn, ops

from .layers import Embedding, Linear, cast, linear, new_parameter, set_layer, to_float32
from .precision import MINDSPORE_DTYPES

_IN_NUMPY = {"fp32": np.dtype(np.float32), "bf16": np.dtype(ml_dtypes.bfloat16), "fp16": np.dtype(np.float16)}


class Linear8(nn.Cell):
    """A matrix product on the last axis, and a bias."""

    scale: Tensor
    """(outputs,) float32."""

    def __init__(self, rows: int, width: int, dtype: str, device: str) -> None:
        super().__init__()
        self.weight = new_parameter(rows, width)
        self.bias = None
        self.scale = Tensor(np.ones(rows, np.float32))

    def construct(self, x: Tensor) -> Tensor:
        # The whole numbers are exact in every dtype, so the scale comes after the product.
        product = cast(to_float32(linear(x, cast(self.weight, like=x))) * self.scale, like=x)
        return product if self.bias is None else product + self.bias


class Embedding8(nn.Cell):
    """A table of vectors, taken by number."""

    scale: Tensor
    """(rows,) float32."""

    def __init__(self, rows: int, width: int, dtype: str, device: str) -> None:
        super().__init__()
        self.weight = new_parameter(rows, width)
        self.scale = Tensor(np.ones(rows, np.float32))
        self.dtype = MINDSPORE_DTYPES[dtype]

    def construct(self, ids: Tensor) -> Tensor:
        rows = to_float32(ops.gather(self.weight, ids, 0))
        return (rows * ops.gather(self.scale, ids, 0).unsqueeze(-1)).astype(self.dtype)


Layer8 = Linear8 | Embedding8


def quantise(model: nn.Cell, tables: Iterable[str], dtype: str, device: str) -> dict[str, Layer8]:
    """Put layers of 8 bits in the places of a model's linear layers and of some tables; their weights are not set.

    tables: the names of their weights. dtype: of what they give. Returns the layers by the names of their weights.
    """
    tables = set(tables)
    found: dict[str, Layer8] = {}
    for path, layer in list(model.cells_and_names()):
        kind = Linear8 if isinstance(layer, Linear) else Embedding8 if f"{path}.weight" in tables else None
        if kind is not None:
            assert isinstance(layer, Linear | Embedding)
            rows, width = layer.weight.shape
            found[f"{path}.weight"] = kind(rows, width, dtype, device)
            if isinstance(layer, Linear):
                found[f"{path}.weight"].bias = layer.bias
            set_layer(model, path, found[f"{path}.weight"])
    return found
