"""LoRA in training: two small matrices beside linear maps and convolutions (core.models.lora).

The models know nothing of it: a layer becomes one that adds to its result, and whose `weight` is the sum for whoever
uses that by itself.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from duosora.core.models.lora import DOWN, UP, Adapter, Adapters, down_shape, up_shape

from .layers import Linear, cast, linear, new_parameter, set_dtype
from .precision import TORCH_DTYPES


def adapt(model: nn.Module, adapters: Adapters, dtype: str) -> None:
    """Put adapters into a model that has no memory for its weights yet; its own weights will have a dtype."""
    set_dtype(model, TORCH_DTYPES[dtype])
    for name, adapter in adapters.items():
        layer: Any = model.get_submodule(name)
        layer.__class__ = AdaptedLinear if type(layer) is Linear else _by_the_sum(type(layer))
        layer.add_adapter(adapter)


class Adapted:
    """What the adapted layers share."""

    _parameters: Any

    def add_adapter(self, adapter: Adapter) -> None:
        """Make the two matrices, without memory."""
        shape = tuple(self.kept.shape)
        self.scale = adapter.scale
        with self.kept.device:  # the meta device, as the model
            setattr(self, DOWN, Matrix(down_shape(shape, adapter.rank)))
            setattr(self, UP, Matrix(up_shape(shape, adapter.rank)))

    @property
    def kept(self) -> Tensor:
        """The layer's own weight."""
        return self._parameters["weight"]

    @property
    def weight(self) -> Tensor:
        """The sum of that and what the matrices add."""
        down, up = self.matrices(self.kept)
        rank = down.shape[0]
        added = linear(up.reshape(-1, rank), down.reshape(rank, -1).T)
        return self.kept + cast(added, like=self.kept).reshape(self.kept.shape)

    def matrices(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """A, and B times the scale, in another tensor's dtype."""
        down, up = getattr(self, DOWN).weight, getattr(self, UP).weight
        return cast(down, like=like), cast(up * self.scale, like=like)


class AdaptedLinear(Adapted, Linear):  # type: ignore[override]
    """A linear map; the matrices are applied to its input, so that no second weight of its size comes about."""

    def forward(self, x: Tensor) -> Tensor:
        down, up = self.matrices(x)
        return linear(x, self.kept, self.bias) + linear(linear(x, down), up)


class Matrix(nn.Module):
    """A matrix that is a weight of its own."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.weight = new_parameter(*shape)


def _by_the_sum(kind: type[Any]) -> type[Any]:
    """A layer of that kind which uses `weight` by itself, the embedding of patches, with the sum in its place."""
    return type(f"Adapted{kind.__name__}", (Adapted, kind), {})
