"""LoRA in training: two small matrices beside linear maps and convolutions (core.models.lora.adapter).

The models know nothing of it: a linear map becomes one that adds to its result. Of other layers, the embeddings of
patches, `layers.kernel` is the sum of both weights.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from duosora.core.models.lora.adapter import DOWN, UP, Adapter, Adapters, down_shape, up_shape

from .layers import Linear, cast, gelu_erf, linear, new_parameter, set_dtype
from .operators import gelu_tanh
from .precision import TORCH_DTYPES


def adapt(model: nn.Module, adapters: Adapters, dtype: str) -> None:
    """Put adapters into a model that has no memory for its weights yet; its own weights will have a dtype."""
    set_dtype(model, TORCH_DTYPES[dtype])
    for name, adapter in adapters.items():
        layer: Any = model.get_submodule(name)
        layer.__class__ = AdaptedLinear if type(layer) is Linear else _adapted(type(layer))
        layer.add_adapter(adapter)


class Adapted:
    """What the adapted layers share."""

    weight: Any

    def add_adapter(self, adapter: Adapter) -> None:
        """Make the two matrices, without memory."""
        shape = tuple(self.weight.shape)
        self.scale = adapter.scale
        with self.weight.device:  # the meta device, as the model
            setattr(self, DOWN, Matrix(down_shape(shape, adapter.rank)))
            setattr(self, UP, Matrix(up_shape(shape, adapter.rank)))

    def added(self) -> Tensor:
        """What they add to the layer's weight."""
        down, up = self.matrices(self.weight)
        rank = down.shape[0]
        product = linear(up.reshape(-1, rank), down.reshape(rank, -1).T)
        return cast(product, like=self.weight).reshape(self.weight.shape)

    def matrices(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """A, and B times the scale, in another tensor's dtype."""
        down, up = getattr(self, DOWN).weight, getattr(self, UP).weight
        return cast(down, like=like), cast(up * self.scale, like=like)


class AdaptedLinear(Adapted, Linear):
    """A linear map; the matrices are applied to its input, so that no second weight of its size comes about."""

    def forward(self, x: Tensor, activation: str = "") -> Tensor:
        """activation: as of operators.linear."""
        down, up = self.matrices(x)
        y = linear(x, self.weight, self.bias) + linear(linear(x, down), up)
        if not activation:
            return y
        return gelu_tanh(y) if activation == "gelu_tanh" else gelu_erf(y)


class Matrix(nn.Module):
    """A matrix that is a weight of its own."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.weight = new_parameter(*shape)


def _adapted(kind: type[Any]) -> type[Any]:
    """A layer of that kind that computes by its `layers.kernel`, with an adapter."""
    return type(f"Adapted{kind.__name__}", (Adapted, kind), {})
