"""Operations that models and layers are built from, under names that the MindSpore backend shares.

Here most are torch's own; MindSpore does them in one way on a CPU and in another on an Ascend.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn import functional
from torch.nn.functional import pad

_Widths = int | tuple[int, ...]
"""One for all axes, or one for each."""
_HAS_ONEDNN = torch.backends.mkldnn.is_available()
"""Asked here, as a compiled graph cannot ask."""
_GELU = {"gelu_tanh": "tanh", "gelu_erf": "none"}
"""Activations that a linear map may end in: torch's names of the approximations."""
_ONEDNN_LINEAR: Any = getattr(torch.ops.mkldnn, "_linear_pointwise", None)
"""oneDNN's x @ weight.T + bias, with GELU in the same pass; None where torch is built without it."""
_LEAST_PRODUCT = 2**20
"""Multiply-adds from which on its start, 10 microseconds, does not count."""
_PIECE = 512
"""Tokens."""
_fuses_bfloat16 = False
"""Settled: whether oneDNN has bfloat16 here."""
_is_plain = False
"""Inside of `plain`."""


def settle(device: str) -> None:
    """Choose how operations are done on a device, once, before models are built; in float32 without shortcuts.

    TF32's 10-bit products would put fp32 results outside every tolerance.
    """
    global _fuses_bfloat16
    _fuses_bfloat16 = device == "cpu" and _has_onednn() and _ONEDNN_LINEAR is not None and _onednn_takes(torch.bfloat16)
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False


def inference() -> AbstractContextManager[Any]:
    """A context in which no gradients are asked for."""
    return torch.inference_mode()


@contextmanager
def plain() -> Iterator[None]:
    """A context in which operations are done as on any device: the reference for a device's own ways."""
    global _is_plain
    before, _is_plain = _is_plain, True
    try:
        yield
    finally:
        _is_plain = before


def is_plain() -> bool:
    """Whether operations are done as on any device."""
    return _is_plain


def in_memory_order(function: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
    """A function of the numbers of tensors (B, C, ...) of one shape, each number by itself, in the last one's order.

    Here all functions keep it.
    """
    return function(*tensors)


def convolution(x: Tensor, weight: Tensor, bias: Tensor | None, stride: _Widths, padding: _Widths) -> Tensor:
    """A convolution of (B, C, H, W) or (B, C, T, H, W), of clips on a CPU as fast for small inputs as for large ones.

    By itself torch 2.13 hands a float32 clip with C * T * H up to 20480 to a kernel that unfolds it, 2 to 9 times
    slower than oneDNN's and hungry for memory.
    """
    if weight.ndim == 4:
        return functional.conv2d(x, weight, bias, stride, padding)
    if x.device.type == "cpu" and x.dtype == weight.dtype == torch.float32 and _has_onednn() and not _is_plain:
        stride, padding = ((width,) * 3 if isinstance(width, int) else width for width in (stride, padding))
        return torch.mkldnn_convolution(x, weight, bias, padding, stride, (1, 1, 1), 1)
    return functional.conv3d(x, weight, bias, stride, padding)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, activation: str = "") -> Tensor:
    """x @ weight.T + bias over the last axis, and then an activation: "", "gelu_tanh" or "gelu_erf".

    On a CPU by oneDNN: in float32 torch would take MKL, which has no AVX512 on AMD's processors and is half as fast
    there. Where no gradient is kept GELU is part of the product.
    """
    keeps_gradient = torch.is_grad_enabled() and any(
        tensor is not None and tensor.requires_grad for tensor in (x, weight, bias)
    )
    if not _suits_onednn(x, weight, bool(activation) and not keeps_gradient):
        y = functional.linear(x, weight, bias)
    elif keeps_gradient:
        y = _OneDNNLinear.apply(x, weight, bias)
    else:
        return _ONEDNN_LINEAR(x, weight, bias, "gelu" if activation else "none", [], _GELU.get(activation, ""))
    return functional.gelu(y, approximate=_GELU[activation]) if activation else y


def channel_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """Layer norm over the channels of each position of (B, C, ...)."""
    return functional.layer_norm(x.movedim(1, -1), weight.shape, weight, bias, eps).movedim(-1, 1)


def nearest(x: Tensor, rows: Tensor) -> Tensor:
    """The number of the row (K, C) nearest to each vector (N, C), of equals the first: (N,)."""
    products = functional.linear(x, rows)
    return ((x * x).sum(1, keepdim=True) - 2 * products + (rows * rows).sum(1)).argmin(1)


def take_rows(table: Tensor, numbers: Tensor) -> Tensor:
    """Rows (K, C) by their numbers (N,): (N, C)."""
    return table.index_select(0, numbers)


def addcmul(x: Tensor, one: Tensor, other: Tensor) -> Tensor:
    """x + one * other."""
    return torch.addcmul(x, one, other)


def gelu_tanh(x: Tensor) -> Tensor:
    """GELU by its tanh approximation."""
    return functional.gelu(x, approximate="tanh")


def softmax(scores: Tensor) -> Tensor:
    """Softmax over the last axis."""
    return scores.softmax(-1)


def in_pieces(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """A function of each token by itself, (B, N, D) -> (B, N, E).

    On a CPU, where no gradient is kept, of some tokens at a time: what is wide inside of it takes less memory, and no
    more time.
    """
    rows = x.reshape(-1, x.shape[-1])
    keeps_whole = x.device.type != "cpu" or torch.is_grad_enabled() or torch.compiler.is_compiling()
    if keeps_whole or len(rows) <= _PIECE or _is_plain:
        return function(x)
    first = function(rows[:_PIECE])
    y = first.new_empty(len(rows), first.shape[-1])
    y[:_PIECE] = first
    for start in range(_PIECE, len(rows), _PIECE):
        y[start : start + _PIECE] = function(rows[start : start + _PIECE])
    return y.reshape(*x.shape[:-1], -1)


def exchange(x: Tensor) -> Tensor:
    """(B, N, A, K) -> (B, A, N, K)."""
    return x.swapaxes(1, 2)


def swap_halves(x: Tensor, parts: int) -> Tensor:
    """The two halves of each of so many parts of the last axis in the other order."""
    first, second = x.unflatten(-1, (parts, 2, -1)).unbind(-2)
    return torch.stack((second, first), -2).reshape(x.shape)


def reorder(x: Tensor, order: Tensor, inverse: Tensor) -> Tensor:
    """Tokens (B, N, ...) in another order (N,); the inverse order is the way of the gradient."""
    return x.index_select(1, order)


def expand(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """A tensor brought to a shape that it broadcasts to, in the same memory."""
    return x.expand(shape)


def pad_end(x: Tensor, axis: int, count: int) -> Tensor:
    """A tensor with so many zeros behind it along an axis."""
    return pad(x, [0, 0] * (x.ndim - 1 - axis) + [0, count]) if count else x


def pad_start(x: Tensor, axis: int, count: int) -> Tensor:
    """A tensor with so many zeros before it along an axis."""
    return pad(x, [0, 0] * (x.ndim - 1 - axis) + [count, 0]) if count else x


def sum_of_squares(tensors: Sequence[Tensor]) -> Tensor:
    """Of all elements of all tensors."""
    return length(tensors) ** 2


def length(tensors: Sequence[Tensor]) -> Tensor:
    """Of all tensors as one vector, as nn.utils.clip_grad_norm_ counts."""
    return torch.linalg.vector_norm(torch.stack(torch._foreach_norm(list(tensors))))


class _OneDNNLinear(Function):
    """oneDNN's linear map with its gradient, in the same products."""

    @staticmethod
    def forward(context: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        context.save_for_backward(x, weight)
        return _ONEDNN_LINEAR(x, weight, bias, "none", [], "")

    @staticmethod
    @once_differentiable
    def backward(context: Any, gradient: Tensor) -> Any:
        x, weight = context.saved_tensors
        of_x, of_weight, of_bias = context.needs_input_grad
        gradient = gradient.contiguous()
        rows, x_rows = gradient.reshape(-1, gradient.shape[-1]), x.reshape(-1, x.shape[-1])
        return (
            _ONEDNN_LINEAR(gradient, weight.t(), None, "none", [], "") if of_x else None,
            _ONEDNN_LINEAR(rows.t(), x_rows.t(), None, "none", [], "") if of_weight else None,
            rows.sum(0) if of_bias else None,
        )


def _suits_onednn(x: Tensor, weight: Tensor, is_activated: bool) -> bool:
    """Whether oneDNN does a linear map; a compiled graph does not know it."""
    if torch.compiler.is_compiling():
        return False
    if x.device.type != "cpu" or x.dtype != weight.dtype or _is_plain or _ONEDNN_LINEAR is None:
        return False
    if not (x.is_contiguous() and (weight.is_contiguous() or weight.t().is_contiguous())):
        return False  # ten times slower
    is_faster = x.dtype == torch.float32 or (x.dtype == torch.bfloat16 and is_activated and _fuses_bfloat16)
    return is_faster and x.numel() * weight.shape[0] >= _LEAST_PRODUCT and _has_onednn()


def _onednn_takes(dtype: torch.dtype) -> bool:
    """Whether oneDNN has linear maps of a dtype on this processor; of bfloat16 it needs AVX512."""
    try:
        _ONEDNN_LINEAR(torch.zeros(1, 16, dtype=dtype), torch.zeros(16, 16, dtype=dtype), None, "none", [], "")
    except RuntimeError:
        return False
    return True


def _has_onednn() -> bool:
    # Autocast knows conv3d and would not see the call by its other name.
    return _HAS_ONEDNN and not torch.is_autocast_enabled("cpu")
