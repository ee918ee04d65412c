"""Operations that models and layers are built from, under names that the torch backend shares.

What is done in one way on a CPU and in another on an Ascend is in the two tables of `_Forms` at the end, one of which
`settle` chooses when the backend is made.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import mindspore
import numpy as np
from mindspore import Tensor, mint, nn, ops
from mindspore.mint import cat

from .precision import to_tensor

_Widths = int | tuple[int, ...]
"""One for all axes, or one for each."""


def settle(device: str) -> None:
    """Choose how operations are done on a device, once, before models are built; in float32 without shortcuts.

    HF32 is Ascend's shortened float32: its products would put fp32 results outside every tolerance.
    """
    global _forms
    _forms = _ON_NPU if device.startswith("npu") else _ON_HOST
    if mindspore.get_context("device_target") == "Ascend":
        mindspore.device_context.ascend.op_precision.conv_allow_hf32(False)
        mindspore.device_context.ascend.op_precision.matmul_allow_hf32(False)


@contextmanager
def plain() -> Iterator[None]:
    """A context in which operations are done as on any device: the reference for a device's own ways."""
    global _forms
    before, _forms = _forms, _ON_HOST
    try:
        yield
    finally:
        _forms = before


def is_plain() -> bool:
    """Whether operations are done as on any device."""
    return _forms is _ON_HOST


def convolution(x: Tensor, weight: Tensor, bias: Tensor | None, stride: _Widths, padding: _Widths) -> Tensor:
    """A convolution of (B, C, H, W) or (B, C, T, H, W)."""
    return _forms.convolution(x, weight, bias, stride, padding)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, activation: str = "") -> Tensor:
    """x @ weight.T + bias over the last axis, and then an activation: "", "gelu_tanh" or "gelu_erf"."""
    y = _forms.linear(x, weight, bias)
    if not activation:
        return y
    return gelu_tanh(y) if activation == "gelu_tanh" else ops.gelu(y)


def nearest(x: Tensor, rows: Tensor) -> Tensor:
    """The number of the row (K, C) nearest to each vector (N, C), of equals the first: (N,)."""
    products = _forms.linear(x, rows, None)
    return ((x * x).sum(1, keepdims=True) - 2 * products + (rows * rows).sum(1)).argmin(1)


def take_rows(table: Tensor, numbers: Tensor) -> Tensor:
    """Rows (K, C) by their numbers (N,): (N, C)."""
    return ops.gather(table, numbers, 0)


def addcmul(x: Tensor, one: Tensor, other: Tensor) -> Tensor:
    """x + one * other."""
    return _forms.addcmul(x, one, other)


def gelu_tanh(x: Tensor) -> Tensor:
    """GELU by its tanh approximation."""
    return _forms.gelu_tanh(x)


def softmax(scores: Tensor) -> Tensor:
    """Softmax over the last axis."""
    if scores.shape[-1] == 1:
        # On a CPU, once MindSpore 2.10 has computed a gradient over single scores, those of all later calls are wrong.
        return ops.ones_like(scores)
    return mint.nn.functional.softmax(scores, -1)


def in_pieces(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """A function of each token by itself, (B, N, D) -> (B, N, E).

    Of all at once: joining pieces would be a copy here.
    """
    return function(x)


def exchange(x: Tensor) -> Tensor:
    """(B, N, A, K) -> (B, A, N, K)."""
    return _forms.exchange(x)


def swap_halves(x: Tensor, parts: int) -> Tensor:
    """The two halves of each of so many parts of the last axis in the other order."""
    return _forms.swap_halves(x, parts)


def reorder(x: Tensor, order: Tensor, inverse: Tensor) -> Tensor:
    """Tokens (B, N, ...) in another order (N,); the inverse order is the way of the gradient."""
    return _gather_rows(x, order, inverse)


def expand(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """A tensor brought to a shape that it broadcasts to, in memory of its own."""
    if x.shape == shape:
        return x
    sizes = (1,) * (len(shape) - x.ndim) + x.shape
    return ops.tile(x, tuple(wanted // held for wanted, held in zip(shape, sizes, strict=True)))


def pad_end(x: Tensor, axis: int, count: int) -> Tensor:
    """A tensor with so many zeros behind it along an axis."""
    if not count:
        return x
    shape = (*x.shape[:axis], count, *x.shape[axis + 1 :])
    return cat([x, ops.zeros(shape, x.dtype)], axis)


def pad_start(x: Tensor, axis: int, count: int) -> Tensor:
    """A tensor with so many zeros before it along an axis."""
    if not count:
        return x
    shape = (*x.shape[:axis], count, *x.shape[axis + 1 :])
    return cat([ops.zeros(shape, x.dtype), x], axis)


def sum_of_squares(tensors: Sequence[Tensor]) -> float:
    """Of all elements of all tensors."""
    return sum(map(_forms.sum_of_squares, tensors))


def length(tensors: Sequence[Tensor]) -> float:
    """Of all tensors as one vector."""
    return math.sqrt(sum_of_squares(tensors))


class _Reorder(nn.Cell):
    """Slices along an axis in another order. `inverse` undoes the order and is the way of its gradient: MindSpore's
    own, which adds up, takes four times as long on a CPU."""

    def __init__(self, axis: int) -> None:
        super().__init__()
        self.axis = axis

    def construct(self, x: Tensor, order: Tensor, inverse: Tensor) -> Tensor:
        return ops.gather(x, order, self.axis)

    def bprop(self, x: Tensor, order: Tensor, inverse: Tensor, out: Tensor, dout: Tensor) -> tuple[Any, ...]:
        return ops.gather(dout, inverse, self.axis), None, None


_gather_rows = _Reorder(1)
_gather_last = _Reorder(-1)


@dataclass(frozen=True)
class _Forms:
    """The operations that are done in one way on a CPU and in another on an Ascend."""

    convolution: Callable[[Tensor, Tensor, Tensor | None, _Widths, _Widths], Tensor]
    linear: Callable[[Tensor, Tensor, Tensor | None], Tensor]
    addcmul: Callable[[Tensor, Tensor, Tensor], Tensor]
    gelu_tanh: Callable[[Tensor], Tensor]
    exchange: Callable[[Tensor], Tensor]
    swap_halves: Callable[[Tensor, int], Tensor]
    sum_of_squares: Callable[[Tensor], float]
    """Of one tensor."""


def _convolution_on_host(x: Tensor, weight: Tensor, bias: Tensor | None, stride: _Widths, padding: _Widths) -> Tensor:
    """By the operators that a CPU has."""
    convolve, add_bias = _made_convolution(tuple(weight.shape), stride, padding)
    y = convolve(x, weight)
    return y if bias is None else add_bias(y, bias)


@lru_cache(maxsize=256)
def _made_convolution(weight: tuple[int, ...], stride: _Widths, padding: _Widths) -> tuple[Any, Any]:
    """The operators of a convolution, by its weight's shape, and of its bias."""
    outputs, _, *kernel = weight
    operator, order = {2: (ops.Conv2D, "NCHW"), 3: (ops.Conv3D, "NCDHW")}[len(kernel)]
    padding = (padding,) * len(kernel) if isinstance(padding, int) else padding
    pads = tuple(width for width in padding for _ in range(2))
    return operator(outputs, tuple(kernel), pad_mode="pad", pad=pads, stride=stride), ops.BiasAdd(order)


def _convolution_on_npu(x: Tensor, weight: Tensor, bias: Tensor | None, stride: _Widths, padding: _Widths) -> Tensor:
    """By the operators that MindSpore has for Ascend only, in any dtype."""
    convolve = {4: mint.nn.functional.conv2d, 5: mint.nn.functional.conv3d}[weight.ndim]
    return convolve(x, weight, bias, stride, padding)


_GELU_LINEAR = 2 * math.sqrt(2 / math.pi)
_GELU_CUBIC = 0.044715 * _GELU_LINEAR
_PRODUCT = ops.MatMul(transpose_b=True)


def _linear_on_host(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """A third of the time on a CPU, where the sum of tensors of different shapes is slow."""
    y = _PRODUCT(x.reshape(-1, x.shape[-1]), weight)
    return (y if bias is None else ops.bias_add(y, bias)).reshape(*x.shape[:-1], weight.shape[0])


def _addcmul_on_host(x: Tensor, one: Tensor, other: Tensor) -> Tensor:
    """A CPU is ten times faster with tensors of one shape."""
    shape = np.broadcast_shapes(x.shape, one.shape, other.shape)
    x, one, other = (expand(each, shape) for each in (x, one, other))
    return x + one * other


def _addcmul_on_npu(x: Tensor, one: Tensor, other: Tensor) -> Tensor:
    return x + one * other


def _gelu_tanh_on_host(x: Tensor) -> Tensor:
    """The same written by a sigmoid; MindSpore's own takes four times as long on a CPU.

    In float32, because in fp16 the square of 256 is infinite and a gradient NaN.
    """
    wide = x if x.dtype == mindspore.float32 else x.astype(mindspore.float32)
    y = wide * ops.sigmoid(wide * (_GELU_LINEAR + _GELU_CUBIC * (wide * wide)))
    return y if y.dtype == x.dtype else y.astype(x.dtype)


def _gelu_tanh_on_npu(x: Tensor) -> Tensor:
    return ops.gelu(x, approximate="tanh")


def _exchange_on_host(x: Tensor) -> Tensor:
    """A CPU gathers whole rows six times faster than it transposes."""
    batch, first, second, width = x.shape
    rows = _gather_rows(x.reshape(batch, first * second, width), *_transposition(first, second))
    return rows.reshape(batch, second, first, width)


@lru_cache(maxsize=64)
def _transposition(rows: int, columns: int) -> tuple[Tensor, Tensor]:
    """The order of the elements of a matrix (rows, columns) in its transpose, and the inverse."""
    matrix = np.arange(rows * columns, dtype=np.int32).reshape(rows, columns)
    order = matrix.T.reshape(-1)
    return to_tensor(order), to_tensor(np.argsort(order).astype(np.int32))


def _exchange_on_npu(x: Tensor) -> Tensor:
    return x.swapaxes(1, 2)


def _swap_halves_on_host(x: Tensor, parts: int) -> Tensor:
    """Eight times faster on a CPU than cutting and joining."""
    order = _halves_swapped(x.shape[-1], parts)
    return _gather_last(x, order, order)


@lru_cache(maxsize=64)
def _halves_swapped(width: int, parts: int) -> Tensor:
    order = np.arange(width, dtype=np.int32).reshape(parts, 2, -1)[:, ::-1]
    return to_tensor(order.reshape(-1))


def _swap_halves_on_npu(x: Tensor, parts: int) -> Tensor:
    first, second = x.reshape(*x.shape[:-1], parts, 2, x.shape[-1] // (2 * parts)).chunk(2, -2)
    return cat([second, first], -2).reshape(x.shape)


def _sum_of_squares_on_host(x: Tensor) -> float:
    """In float64, because MindSpore's threads add in varying order: no run would be another's twin."""
    return float(np.square(x.asnumpy(), dtype=np.float64).sum())


def _sum_of_squares_on_npu(x: Tensor) -> float:
    return float(ops.square(x).sum())


_ON_HOST = _Forms(
    convolution=_convolution_on_host,
    linear=_linear_on_host,
    addcmul=_addcmul_on_host,
    gelu_tanh=_gelu_tanh_on_host,
    exchange=_exchange_on_host,
    swap_halves=_swap_halves_on_host,
    sum_of_squares=_sum_of_squares_on_host,
)
_ON_NPU = _Forms(
    convolution=_convolution_on_npu,
    linear=mint.nn.functional.linear,
    addcmul=_addcmul_on_npu,
    gelu_tanh=_gelu_tanh_on_npu,
    exchange=_exchange_on_npu,
    swap_halves=_swap_halves_on_npu,
    sum_of_squares=_sum_of_squares_on_npu,
)
_forms = _ON_HOST
"""What is settled on; until then forms that run anywhere."""
