"""Layers whose weights are kept in 8 bits: whole numbers and a scale for each row, multiplied while they compute.

Activations stay as they are. Such a layer stands in the place of the one with whole weights, under the same name.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from .layers import Embedding, Linear, cast, linear, set_layer, to_float32
from .precision import TORCH_DTYPES


class Linear8(nn.Module):
    """A matrix product on the last axis, and a bias."""

    bias: nn.Parameter | None
    scale: Tensor
    """(outputs,) float32."""

    def __init__(self, rows: int, width: int, dtype: str, device: str) -> None:
        super().__init__()
        self.weight = _without_memory(rows, width)
        self.register_parameter("bias", None)
        self.register_buffer("scale", torch.empty(rows, device=device), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        # The whole numbers are exact in every dtype, so the scale comes after the product.
        product = cast(to_float32(linear(x, cast(self.weight, like=x))) * self.scale, like=x)
        return product if self.bias is None else product + self.bias


class Embedding8(nn.Module):
    """A table of vectors, taken by number."""

    scale: Tensor
    """(rows,) float32."""

    def __init__(self, rows: int, width: int, dtype: str, device: str) -> None:
        super().__init__()
        self.weight = _without_memory(rows, width)
        self.register_buffer("scale", torch.empty(rows, device=device), persistent=False)
        self.dtype = TORCH_DTYPES[dtype]

    def forward(self, ids: Tensor) -> Tensor:
        return (to_float32(self.weight[ids]) * self.scale[ids][..., None]).to(self.dtype)


Layer8 = Linear8 | Embedding8


def quantise(model: nn.Module, tables: Iterable[str], dtype: str, device: str) -> dict[str, Layer8]:
    """Put layers of 8 bits in the places of a model's linear layers and of some tables; their weights are not set.

    tables: the names of their weights. dtype: of what they give. Returns the layers by the names of their weights.
    """
    tables = set(tables)
    found: dict[str, Layer8] = {}
    for path, layer in list(model.named_modules()):
        kind = Linear8 if isinstance(layer, Linear) else Embedding8 if f"{path}.weight" in tables else None
        if kind is not None:
            assert isinstance(layer, Linear | Embedding)
            rows, width = layer.weight.shape
            found[f"{path}.weight"] = kind(rows, width, dtype, device)
            set_layer(model, path, found[f"{path}.weight"])
    return found


def _without_memory(rows: int, width: int) -> nn.Parameter:
    return nn.Parameter(torch.empty(rows, width, dtype=torch.int8, device="meta"), requires_grad=False)
