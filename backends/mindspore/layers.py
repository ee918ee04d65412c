"""The layers that the models are built from, under names that the torch backend shares.

Here they are cells of our own, because MindSpore's call their parameters otherwise (gamma, beta, embedding_table) or do
not run on a CPU; `weight` and `bias` let one layout serve both backends.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import mindspore
import numpy as np
from mindspore import Parameter, Tensor, mint, nn, ops
from mindspore.mint.nn.functional import silu

from .operators import addcmul, convolution, in_memory_order, is_plain
from .operators import linear as product
from .precision import to_tensor

__all__ = [
    "Conv2d",
    "Conv3d",
    "Embedding",
    "GroupNorm",
    "Identity",
    "LayerNorm",
    "Linear",
    "MaxPool2d",
    "ModuleList",
    "RMSNorm",
    "ReLU",
    "Sequential",
    "cat",
    "leaky_relu",
    "linear",
    "relu",
    "silu",
]

Identity = nn.Identity
ReLU = nn.ReLU
Sequential = nn.SequentialCell
leaky_relu = ops.leaky_relu
relu = ops.relu

# transformers' margin below the largest number of fp16.
HALF_LIMIT = float(np.finfo(np.float16).max) - 1000
_LOWEST = {
    mindspore.float32: float(np.finfo(np.float32).min),
    mindspore.float16: float(np.finfo(np.float16).min),
    mindspore.bfloat16: -3.3895313892515355e38,
}
_product_dtype: Any = None
"""Inside of `autocast`, what matrix products and convolutions compute in."""


@contextmanager
def autocast(device: str, dtype: Any) -> Iterator[None]:
    """A context in which matrix products and convolutions compute in a dtype; nothing changes for float32."""
    global _product_dtype
    before, _product_dtype = _product_dtype, None if dtype == mindspore.float32 else dtype
    try:
        yield
    finally:
        _product_dtype = before


def _for_product(x: Tensor) -> Tensor:
    return x if _product_dtype is None else x.astype(_product_dtype)


class _Convolution(nn.Cell):
    """A convolution over the last `num_axes` axes of (B, C, ...)."""

    num_axes: int

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        stride: int | tuple[int, ...] = 1,
        padding: int | tuple[int, ...] = 0,
        bias: bool = True,
    ) -> None:
        super().__init__()
        shape = (outputs, inputs, *(kernel,) * self.num_axes)
        self.weight = new_parameter(*shape)
        self.bias = new_parameter(outputs) if bias else None
        self.stride = stride
        self.padding = (padding,) * self.num_axes if isinstance(padding, int) else padding

    def construct(self, x: Tensor) -> Tensor:
        bias = None if self.bias is None else _for_product(self.bias)
        return convolution(_for_product(x), _for_product(self.weight), bias, self.stride, self.padding)


class Conv2d(_Convolution):
    """2-D convolution."""

    num_axes = 2


class Linear(nn.Cell):
    """A matrix product on the last axis, and a bias."""

    def __init__(self, inputs: int, outputs: int, bias: bool = True) -> None:
        super().__init__()
        self.weight = new_parameter(outputs, inputs)
        self.bias = new_parameter(outputs) if bias else None

    def construct(self, x: Tensor, activation: str = "") -> Tensor:
        """activation: as of operators.linear."""
        return linear(x, self.weight, self.bias, activation)


class Together(nn.Cell):
    """A cell of which some linear maps read the same tokens."""

    together: tuple[str, ...] = ()
    """The maps' names; all have as many outputs."""

    def products(self, x: Tensor) -> Iterator[Tensor]:
        """What the maps make of tokens (B, N, D), in their order, when they are asked for."""
        return (getattr(self, name)(x) for name in self.together)


class Embedding(nn.Cell):
    """A table of vectors, taken by number."""

    def __init__(self, rows: int, width: int) -> None:
        super().__init__()
        self.weight = new_parameter(rows, width)

    def construct(self, ids: Tensor) -> Tensor:
        return ops.gather(self.weight, ids, 0)


class LayerNorm(nn.Cell):
    """Norm over the last axis."""

    def __init__(self, width: int, eps: float = 1e-5, elementwise_affine: bool = True) -> None:
        super().__init__()
        self.weight = new_parameter(width) if elementwise_affine else Tensor(np.ones(width, np.float32))
        self.bias = new_parameter(width) if elementwise_affine else Tensor(np.zeros(width, np.float32))
        self.is_affine = elementwise_affine
        self.normalise = ops.LayerNorm(-1, -1, eps)

    def construct(self, x: Tensor, shift: Tensor | None = None, scale: Tensor | None = None) -> Tensor:
        """Tokens (B, N, D); bent, x * (1 + scale) + shift, by what broadcasts over them.

        One sample's modulation is the norm's own factor and offset, where no gradients are asked for: those of a factor
        are sums over tokens, in no fixed order on a CPU.
        """
        if shift is None or scale is None:
            return self.normalise(x, cast(self.weight, like=x), cast(self.bias, like=x))[0]
        if shift.size == x.shape[-1] and not self.is_affine and not is_plain():
            return self.normalise(x, (1 + scale).reshape(-1), shift.reshape(-1))[0]
        return addcmul(shift, self.construct(x), 1 + scale)


class RMSNorm(nn.Cell):
    """Division by the root of the mean square over the last axis, in float32, and a factor."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = new_parameter(width)
        self.eps = eps

    def construct(self, x: Tensor) -> Tensor:
        wide = to_float32(x)
        wide = wide * ops.rsqrt((wide * wide).mean(-1, keep_dims=True) + self.eps)
        return cast(wide, like=x) * self.weight


class GroupNorm(nn.Cell):
    """Norm over groups of channels and all positions of (B, C, ...)."""

    def __init__(self, groups: int, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.weight = new_parameter(channels)
        self.bias = new_parameter(channels)
        self.groups, self.eps = groups, eps

    def construct(self, x: Tensor) -> Tensor:
        x = cast(x, like=self.weight)  # float32 also where products are half as wide
        return mint.nn.functional.group_norm(x, self.groups, self.weight, self.bias, self.eps)


class MaxPool2d(nn.Cell):
    """The largest of each window of (B, C, H, W)."""

    def __init__(self, kernel: int, stride: int) -> None:
        super().__init__()
        self.kernel, self.stride = kernel, stride

    def construct(self, x: Tensor) -> Tensor:
        return ops.max_pool2d(x, self.kernel, self.stride)


class ModuleList(nn.CellList):
    """Cells under their numbers."""

    def __init__(self, cells: Iterable[nn.Cell] = ()) -> None:
        super().__init__(list(cells))

    def __getitem__(self, index: Any) -> Any:
        # MindSpore's makes a slice into a list that puts its own numbers before the parameters' names.
        return list(self)[index] if isinstance(index, slice) else super().__getitem__(index)


class Conv3d(_Convolution):
    """3-D convolution."""

    num_axes = 3

    def construct(self, x: Tensor) -> Tensor:
        return super().construct(x)


class ConvTranspose3d(nn.Cell):
    """Transposed 3-D convolution, of whose result a kernel less one is cut off at each end.

    That is a convolution of the input with zeros between its values, by the kernel from behind.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: tuple[int, int, int]) -> None:
        super().__init__()
        self.weight = new_parameter(inputs, outputs, *(kernel,) * 3)
        self.bias = new_parameter(outputs)
        self.stride = stride

    def construct(self, x: Tensor) -> Tensor:
        for axis, stride in enumerate(self.stride, start=2):
            x = _spaced(x, axis, stride)
        kernel = ops.flip(self.weight, (2, 3, 4)).swapaxes(0, 1)
        return convolution(_for_product(x), _for_product(kernel), _for_product(self.bias), (1, 1, 1), (0, 0, 0))


def _spaced(x: Tensor, axis: int, stride: int) -> Tensor:
    """Zeros between the values along an axis, so that they are `stride` apart."""
    if stride == 1:
        return x
    between = ops.zeros((*x.shape[: axis + 1], stride - 1, *x.shape[axis + 1 :]), x.dtype)
    spread = cat([x.unsqueeze(axis + 1), between], axis + 1)
    whole = spread.reshape(*x.shape[:axis], x.shape[axis] * stride, *x.shape[axis + 1 :])
    return whole.narrow(axis, 0, (x.shape[axis] - 1) * stride + 1)


class BatchNorm3d(nn.Cell):
    """Norm of each channel over batch, time and space, with running statistics for use outside training.

    These are parameters without gradients, so that they are weights of the layout like all others.
    """

    def __init__(self, channels: int, eps: float = 1e-5, momentum: float = 0.1) -> None:
        super().__init__()
        self.eps, self.momentum = eps, momentum
        self.weight = new_parameter(channels)
        self.bias = new_parameter(channels)
        self.running_mean = new_parameter(channels)
        self.running_var = new_parameter(channels)

    def construct(self, x: Tensor, is_training: bool) -> Tensor:
        mean, variance = self._batch_statistics(x) if is_training else (self.running_mean, self.running_var)
        scale = self.weight * ops.rsqrt(variance + self.eps)
        shift = self.bias - mean * scale
        return x * _per_channel(scale) + _per_channel(shift)

    def _batch_statistics(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance (C,) of the batch, which are added to the running ones."""
        x, axes = to_float32(x), (0, 2, 3, 4)
        mean = x.mean(axes)
        variance = ops.square(x - _per_channel(mean)).mean(axes)
        count = x.size // x.shape[1]
        for running, new in ((self.running_mean, mean), (self.running_var, variance * (count / (count - 1)))):
            ops.assign(running, running + self.momentum * (ops.stop_gradient(new) - running))
        return mean, variance


def _per_channel(values: Tensor) -> Tensor:
    return values.reshape(1, -1, 1, 1, 1)


def cat(tensors: Sequence[Tensor], axis: int) -> Tensor:
    """Tensors behind one another along an axis; where they are (B, C, ...), in the last one's memory order."""
    if tensors[-1].ndim < 4 or tensors[-1].is_contiguous():
        return mint.cat(tensors, axis)
    inner = {0: 0, 1: tensors[-1].ndim - 1}.get(axis, axis - 1)
    return in_memory_order(lambda *parts: mint.cat(parts, inner), *tensors)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, activation: str = "") -> Tensor:
    """As operators.linear."""
    bias = None if bias is None else _for_product(bias)
    return product(_for_product(x), _for_product(weight), bias, activation)


def gelu_erf(x):
    """GELU by the error function."""
    return ops.gelu(x)


def silu_over(x: Tensor) -> Tensor:
    """SiLU of a tensor that nothing else reads."""
    return in_memory_order(silu, x)


def submodules(module: nn.Cell) -> Iterator[nn.Cell]:
    """A cell and all that are inside it."""
    return (cell for _, cell in module.cells_and_names())


def cast(x: Tensor, like: Tensor) -> Tensor:
    """A tensor in another one's dtype."""
    return x if x.dtype == like.dtype else x.astype(like.dtype)


def to_float32(x: Tensor) -> Tensor:
    """A tensor in float32."""
    return x if x.dtype == mindspore.float32 else x.astype(mindspore.float32)


def detach(x: Tensor) -> Tensor:
    """A tensor through which no gradient goes."""
    return ops.stop_gradient(x)


def copy(x: Tensor) -> Tensor:
    """A tensor with memory of its own."""
    return x.copy()


class _Unset:
    """A weight's place in a cell, without memory, until the weight is set."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape, self.dtype = shape, mindspore.float32


def new_parameter(*shape: int) -> Any:
    """A trainable tensor that a model holds by itself, to be filled with its weight."""
    return _Unset(shape)


def parameter_shapes(model: nn.Cell) -> dict[str, tuple[int, ...]]:
    """The shape of each parameter by its name, whether or not its weight has been set."""
    shapes = {}
    for path, cell in model.cells_and_names():
        for name, value in (*cell.__dict__.items(), *cell.parameters_and_names(expand=False)):
            if isinstance(value, (_Unset, Parameter)):
                shapes[f"{path}.{name}".lstrip(".")] = tuple(value.shape)
    return shapes


def kernel(layer: Any) -> Tensor:
    """The weight of a layer that is no linear map, with what is trained beside it."""
    return layer.weight + layer.added() if hasattr(layer, "added") else layer.weight


def set_dtype(model: nn.Cell, dtype: Any) -> None:
    """Have a model keep all its parameters in a dtype."""
    for _, cell in model.cells_and_names():
        for value in cell.__dict__.values():
            if isinstance(value, _Unset):
                value.dtype = dtype


def parameter_dtype(model: nn.Cell, name: str) -> Any:
    """The dtype in which a model keeps a parameter, whether or not its weight has been set."""
    parent, _, leaf = name.rpartition(".")
    cell = dict(model.cells_and_names())[parent]
    return (cell.__dict__.get(leaf) or cell._params[leaf]).dtype


def set_parameter(model: nn.Cell, name: str, weight: Tensor) -> None:
    """Put a weight in its place in a model; it gets no gradients until it is told to."""
    parent, _, leaf = name.rpartition(".")
    setattr(dict(model.cells_and_names())[parent], leaf, Parameter(weight, name=name, requires_grad=False))


def set_layer(model: nn.Cell, path: str, layer: nn.Cell) -> None:
    """Put a layer in the place of another one in a model."""
    parent, _, leaf = path.rpartition(".")
    setattr(dict(model.cells_and_names())[parent], leaf, layer)


def pack(model: nn.Cell) -> None:
    """Nothing: to cut the result of one product takes longer than three (a tiny step 42 ms instead of 36 on a CPU)."""


def device_of(x: Tensor) -> str:
    """The device that a tensor is on: MindSpore has one for all."""
    return mindspore.get_context("device_target")


def place(table: np.ndarray, device: str) -> Tensor:
    """A table of core as a tensor on a device."""
    return to_tensor(table)


def take_tokens(x: Tensor, index: Tensor) -> Tensor:
    """Some tokens of each sample: (B, N, D) and indices (B, M) -> (B, M, D)."""
    return mint.gather(x, 1, index.unsqueeze(2).broadcast_to((*index.shape, x.shape[2])))


def first_largest(values: Tensor) -> Tensor:
    """The place (B, 1) of the largest of values (B, N), the first of equal ones."""
    return ops.argmax(to_float32(values), 1, True)


def sinusoid(values: Tensor, frequencies: Tensor) -> Tensor:
    """Cosines, then sines, of values (B,) times frequencies (F,), (B, 2 * F) float32."""
    angles = to_float32(values).unsqueeze(1) * frequencies
    return cat([ops.cos(angles), ops.sin(angles)], 1)


def lower_where_zero(bias: Tensor, mask: Tensor) -> Tensor:
    """A bias on scores that becomes the dtype's lowest finite number where the mask is zero; both broadcast."""
    return bias.masked_fill(mask <= 0, _LOWEST[bias.dtype])


def clamp_to_dtype(x: Tensor) -> Tensor:
    """A tensor whose values are kept finite in fp16; other dtypes have room enough."""
    return x.clamp(-HALF_LIMIT, HALF_LIMIT) if x.dtype == mindspore.float16 else x
