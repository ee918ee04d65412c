"""The layers that the models are built from, under names that the MindSpore backend shares.

Here they are torch's own; the twin file owns cells whose parameters are called `weight` and `bias` as well, so that one
layout serves both.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch
from torch import Tensor, cat, nn
from torch.nn import functional
from torch.nn.functional import gelu, leaky_relu, relu, silu

from .operators import convolution, linear
from .precision import to_tensor

__all__ = [
    "Conv2d",
    "Conv3d",
    "GroupNorm",
    "LayerNorm",
    "Linear",
    "cat",
    "leaky_relu",
    "linear",
    "relu",
    "silu",
]

Conv2d = nn.Conv2d
GroupNorm = nn.GroupNorm
LayerNorm = nn.LayerNorm
ModuleList = nn.ModuleList
Identity = nn.Identity
MaxPool2d = nn.MaxPool2d
ReLU = nn.ReLU
RMSNorm = nn.RMSNorm
Sequential = nn.Sequential

# transformers' margin below the largest number of fp16.
HALF_LIMIT = torch.finfo(torch.float16).max - 1000
_FEW_NUMBERS = 2**16
"""Of the tokens, up to which a CPU does several maps in one product: it saves starts, which do not count for more, and
costs memory, as the results are held together."""


def autocast(device: str, dtype: torch.dtype) -> AbstractContextManager[Any]:
    """A context in which matrix products and convolutions compute in a dtype; nothing changes for float32."""
    return torch.autocast(torch.device(device).type, dtype, enabled=dtype != torch.float32)


class Linear(nn.Linear):
    """A matrix product on the last axis, and a bias."""

    def __init__(self, inputs: int, outputs: int, bias: bool = True) -> None:
        super().__init__(inputs, outputs, bias)

    def forward(self, x: Tensor, activation: str = "") -> Tensor:
        """activation: as of operators.linear."""
        return linear(x, self.weight, self.bias, activation)


class Together(nn.Module):
    """A module of which some linear maps read the same tokens.

    Once they are packed, their weights lie one behind another under their own names, and one product does them all.
    """

    together: tuple[str, ...] = ()
    """The maps' names; all have as many outputs."""
    _packed: tuple[Tensor, Tensor | None] | None = None
    """Weight and bias of all of them; None: each map computes by itself."""

    def products(self, x: Tensor) -> Iterator[Tensor]:
        """What the maps make of tokens (B, N, D), in their order.

        Those that compute by themselves do so when they are asked for: a result is free as soon as it is used.
        """
        maps = [getattr(self, name) for name in self.together]
        keeps_apart = x.device.type == "cpu" and x.numel() > _FEW_NUMBERS
        if self._packed is None or keeps_apart or not _are_parts(maps, self._packed[0]):
            return (each(x) for each in maps)
        return iter(linear(x, *self._packed).chunk(len(maps), -1))


class Embedding(nn.Module):
    """A table of vectors, taken by number.

    torch's own draws its weights where it is made; on the meta device that loads sympy, in a second and 70 MiB.
    """

    def __init__(self, rows: int, width: int) -> None:
        super().__init__()
        self.weight = new_parameter(rows, width)

    def forward(self, ids: Tensor) -> Tensor:
        return functional.embedding(ids, self.weight)


class Conv3d(nn.Conv3d):
    """3-D convolution."""

    def forward(self, x: Tensor) -> Tensor:
        padding = tuple(int(width) for width in self.padding)  # in numbers, never "same" or "valid"
        return convolution(x, self.weight, self.bias, self.stride, padding)


class ConvTranspose3d(nn.ConvTranspose3d):
    """Transposed 3-D convolution, of whose result a kernel less one is cut off at each end."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: tuple[int, int, int]) -> None:
        super().__init__(inputs, outputs, kernel, stride, padding=kernel - 1)

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(x)


class BatchNorm3d(nn.Module):
    """Norm of each channel over batch, time and space, with running statistics for use outside training.

    These are parameters without gradients, so that they are weights of the layout like all others.
    """

    def __init__(self, channels: int, eps: float = 1e-5, momentum: float = 0.1) -> None:
        super().__init__()
        self.eps, self.momentum = eps, momentum
        self.weight = nn.Parameter(torch.empty(channels))
        self.bias = nn.Parameter(torch.empty(channels))
        self.running_mean = nn.Parameter(torch.empty(channels), requires_grad=False)
        self.running_var = nn.Parameter(torch.empty(channels), requires_grad=False)

    def forward(self, x: Tensor, is_training: bool) -> Tensor:
        statistics = self.running_mean, self.running_var
        return functional.batch_norm(x, *statistics, self.weight, self.bias, is_training, self.momentum, self.eps)


def gelu_erf(x):
    """GELU by the error function."""
    return gelu(x)


def silu_over(x: Tensor) -> Tensor:
    """SiLU of a tensor that nothing else reads, in its memory where no gradient will need it."""
    return silu(x, inplace=not (torch.is_grad_enabled() and x.requires_grad))


def submodules(module: nn.Module) -> Iterator[nn.Module]:
    """A module and all that are inside it."""
    return module.modules()


def cast(x: Tensor, like: Tensor) -> Tensor:
    """A tensor in another one's dtype."""
    return x.to(like.dtype)


def to_float32(x: Tensor) -> Tensor:
    """A tensor in float32."""
    return x.float()


def detach(x: Tensor) -> Tensor:
    """A tensor through which no gradient goes."""
    return x.detach()


def copy(x: Tensor) -> Tensor:
    """A tensor with memory of its own."""
    return x.clone()


def new_parameter(*shape: int) -> nn.Parameter:
    """A trainable tensor that a model holds by itself, to be filled with its weight."""
    return nn.Parameter(torch.empty(*shape))


def parameter_shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """The shape of each parameter by its name, whether or not its weight has been set."""
    return {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}


def kernel(layer: Any) -> Tensor:
    """The weight of a layer that is no linear map, with what is trained beside it."""
    return layer.weight + layer.added() if hasattr(layer, "added") else layer.weight


def set_dtype(model: nn.Module, dtype: torch.dtype) -> None:
    """Have a model keep all its parameters in a dtype."""
    model.to(dtype)


def parameter_dtype(model: nn.Module, name: str) -> torch.dtype:
    """The dtype in which a model keeps a parameter, whether or not its weight has been set."""
    return model.get_parameter(name).dtype


def set_parameter(model: nn.Module, name: str, weight: Tensor) -> None:
    """Put a weight in its place in a model; it gets no gradients until it is told to."""
    parent, _, leaf = name.rpartition(".")
    model.get_submodule(parent).register_parameter(leaf, nn.Parameter(weight, requires_grad=False))


def set_layer(model: nn.Module, path: str, layer: nn.Module) -> None:
    """Put a layer in the place of another one in a model."""
    model.set_submodule(path, layer)


def pack(model: nn.Module) -> None:
    """Pack the linear maps of a model that read the same tokens, for use without gradients.

    Their weights are set, and stay as they are; adapted maps are left alone.
    """
    for module in (each for each in model.modules() if isinstance(each, Together)):
        maps = [getattr(module, name) for name in module.together]
        if maps and all(type(each) is Linear for each in maps):
            module._packed = _pack(maps, "weight"), None if maps[0].bias is None else _pack(maps, "bias")


def device_of(x: Tensor) -> torch.device:
    """The device that a tensor is on."""
    return x.device


def place(table: np.ndarray, device: torch.device | str) -> Tensor:
    """A copy of a table of core on a device, for which the host does not wait."""
    tensor = to_tensor(table)
    if torch.device(device).type == "cuda":
        tensor = tensor.pin_memory()
    return tensor.to(device, copy=True, non_blocking=True)


def take_tokens(x: Tensor, index: Tensor) -> Tensor:
    """Some tokens of each sample: (B, N, D) and indices (B, M) -> (B, M, D)."""
    return x.take_along_dim(index[:, :, None], 1)


def first_largest(values: Tensor) -> Tensor:
    """The place (B, 1) of the largest of values (B, N), the first of equal ones."""
    return values.float().argmax(1, keepdim=True)


def sinusoid(values: Tensor, frequencies: Tensor) -> Tensor:
    """Cosines, then sines, of values (B,) times frequencies (F,), (B, 2 * F) float32."""
    angles = values.float()[:, None] * frequencies
    return cat([angles.cos(), angles.sin()], 1)


def lower_where_zero(bias: Tensor, mask: Tensor) -> Tensor:
    """A bias on scores that becomes the dtype's lowest finite number where the mask is zero; both broadcast."""
    return bias.where(mask > 0, torch.finfo(bias.dtype).min)


def clamp_to_dtype(x: Tensor) -> Tensor:
    """A tensor whose values are kept finite in fp16; other dtypes have room enough."""
    return x.clamp(-HALF_LIMIT, HALF_LIMIT) if x.dtype == torch.float16 else x


def _are_parts(maps: list[Any], whole: Tensor) -> bool:
    """Whether maps still are what was packed: whoever has the model may wrap, move, copy or train them."""
    if any(type(each) is not Linear or each.weight.requires_grad for each in maps):
        return False
    if torch.compiler.is_compiling():  # where tensors have no places
        return True
    return {each.weight.untyped_storage().data_ptr() for each in maps} == {whole.untyped_storage().data_ptr()}


def _pack(layers: list[Any], name: str) -> Tensor:
    """One tensor with the parameters of a name of all layers, which become its parts."""
    parts = [getattr(layer, name) for layer in layers]
    whole = cat([part.detach() for part in parts])
    for layer, part in zip(layers, whole.split([len(part) for part in parts]), strict=True):
        setattr(layer, name, nn.Parameter(part, requires_grad=False))
    return whole
