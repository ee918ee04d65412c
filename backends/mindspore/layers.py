"""The layers that the models are built from, under names that the torch backend shares.

Here they are cells of our own, because MindSpore's call their parameters otherwise (gamma, beta, embedding_table) or do
not run on a CPU; `weight` and `bias` let one layout serve both backends. What is done in one way on a CPU and
in another on an Ascend asks `_on_npu`, here and in attention.py and nowhere else.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from typing import Any

import mindspore
import numpy as np
from mindspore import Parameter, Tensor, mint, nn, ops
from mindspore.mint import cat
from mindspore.mint.nn.functional import silu

from duosora.core.maths.haar import TAP_2D, TAP_3D

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
    "addcmul",
    "cat",
    "leaky_relu",
    "linear",
    "silu",
]

Identity = nn.Identity
ReLU = nn.ReLU
Sequential = nn.SequentialCell
leaky_relu = ops.leaky_relu

# transformers' margin below the largest number of fp16.
HALF_LIMIT = float(np.finfo(np.float16).max) - 1000
_GELU_LINEAR = 2 * math.sqrt(2 / math.pi)
_GELU_CUBIC = 0.044715 * _GELU_LINEAR
_PRODUCT = ops.MatMul(transpose_b=True)
_LOWEST = {
    mindspore.float32: float(np.finfo(np.float32).min),
    mindspore.float16: float(np.finfo(np.float16).min),
    mindspore.bfloat16: -3.3895313892515355e38,
}


_forced_forms: list[bool] = []
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


def _on_npu() -> bool:
    """The switch between the forms for an Ascend and those for a CPU, for everything that has both."""
    return _forced_forms[-1] if _forced_forms else mindspore.get_context("device_target") == "Ascend"


def _sum_of_squares(x: Tensor) -> float:
    """Of all elements, in float64 on a CPU, where MindSpore's threads add in varying order: no run would be another's
    twin."""
    if _on_npu():
        return float(ops.square(x).sum())
    return float(np.square(x.asnumpy(), dtype=np.float64).sum())


@contextmanager
def _forms_of_npu(wanted: bool) -> Iterator[None]:
    """A context with the switch set by hand. Forms for a CPU run on an Ascend as well, so that there both can be
    compared."""
    _forced_forms.append(wanted)
    try:
        yield
    finally:
        _forced_forms.pop()


_Convolve = Callable[[Tensor, Tensor, "Tensor | None"], Tensor]
"""Input, weight, bias or None -> output."""


def _convolution_on_host(weight: tuple[int, ...], stride: int | tuple[int, ...], padding: tuple[int, ...]) -> _Convolve:
    """A convolution by the operators that a CPU has; weight is its weight's shape."""
    outputs, _, *kernel = weight
    operator = {2: ops.Conv2D, 3: ops.Conv3D}[len(kernel)]
    add_bias = ops.BiasAdd({2: "NCHW", 3: "NCDHW"}[len(kernel)])
    pads = tuple(width for width in padding for _ in range(2))
    convolve = operator(outputs, tuple(kernel), pad_mode="pad", pad=pads, stride=stride)

    def apply(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        y = convolve(x, weight)
        return y if bias is None else add_bias(y, bias)

    return apply


def _convolution_on_npu(weight: tuple[int, ...], stride: int | tuple[int, ...], padding: tuple[int, ...]) -> _Convolve:
    """A convolution by the operators that MindSpore has for Ascend only, in any dtype."""
    convolve = {4: mint.nn.functional.conv2d, 5: mint.nn.functional.conv3d}[len(weight)]

    def apply(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return convolve(x, weight, bias, stride, padding)

    return apply


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
        make = _convolution_on_npu if _on_npu() else _convolution_on_host
        self.convolve = make(shape, stride, (padding,) * self.num_axes if isinstance(padding, int) else padding)

    def construct(self, x: Tensor) -> Tensor:
        bias = None if self.bias is None else _for_product(self.bias)
        return self.convolve(_for_product(x), _for_product(self.weight), bias)


class Conv2d(_Convolution):
    """2-D convolution."""

    num_axes = 2


class Linear(nn.Cell):
    """A matrix product on the last axis, and a bias."""

    def __init__(self, inputs: int, outputs: int, bias: bool = True) -> None:
        super().__init__()
        self.weight = new_parameter(outputs, inputs)
        self.bias = new_parameter(outputs) if bias else None

    def construct(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)


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
        self.normalise = ops.LayerNorm(-1, -1, eps)

    def construct(self, x: Tensor) -> Tensor:
        return self.normalise(x, cast(self.weight, like=x), cast(self.bias, like=x))[0]


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


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x @ weight.T + bias over the last axis."""
    x, weight, bias = _for_product(x), _for_product(weight), None if bias is None else _for_product(bias)
    if _on_npu():
        return mint.nn.functional.linear(x, weight, bias)
    # A third of the time on a CPU, where the sum of tensors of different shapes is slow.
    y = _PRODUCT(x.reshape(-1, x.shape[-1]), weight)
    return (y if bias is None else ops.bias_add(y, bias)).reshape(*x.shape[:-1], weight.shape[0])


def addcmul(x: Tensor, one: Tensor, other: Tensor) -> Tensor:
    """x + one * other."""
    if _on_npu():
        return x + one * other
    shape = np.broadcast_shapes(x.shape, one.shape, other.shape)
    x, one, other = (_repeated(each, shape) for each in (x, one, other))
    return x + one * other


def _repeated(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """A tensor brought to a shape that it broadcasts to: a CPU is ten times faster with tensors of one shape."""
    if x.shape == shape:
        return x
    sizes = (1,) * (len(shape) - x.ndim) + x.shape
    return ops.tile(x, tuple(wanted // held for wanted, held in zip(shape, sizes, strict=True)))


def gelu_tanh(x):
    """GELU by its tanh approximation."""
    if _on_npu():
        return ops.gelu(x, approximate="tanh")
    # The same written by a sigmoid; MindSpore's own takes four times as long on a CPU. In float32, because in fp16 the
    # square of 256 is infinite and a gradient NaN.
    wide = to_float32(x)
    return cast(wide * ops.sigmoid(wide * (_GELU_LINEAR + _GELU_CUBIC * (wide * wide))), like=x)


def gelu_erf(x):
    """GELU by the error function."""
    return ops.gelu(x)


def submodules(module: nn.Cell) -> Iterator[nn.Cell]:
    """A cell and all that are inside it."""
    return (cell for _, cell in module.cells_and_names())


def cast(x: Tensor, like: Tensor) -> Tensor:
    """A tensor in another one's dtype."""
    return x if x.dtype == like.dtype else x.astype(like.dtype)


def to_float32(x: Tensor) -> Tensor:
    """A tensor in float32."""
    return x if x.dtype == mindspore.float32 else x.astype(mindspore.float32)


def copy(x: Tensor) -> Tensor:
    """A tensor with memory of its own."""
    return x.copy()


def channels_innermost(x: Tensor) -> Tensor:
    """A video (B, C, T, H, W) as it is: MindSpore's tensors have one memory order."""
    return x


def fold_frames(x: Tensor) -> Tensor:
    """(B, C, T, H, W) -> (B * T, C, H, W)."""
    batch, channels, frames, height, width = x.shape
    return x.permute(0, 2, 1, 3, 4).reshape(batch * frames, channels, height, width)


def unfold_frames(x: Tensor, batch: int) -> Tensor:
    """(B * T, C, H, W) -> (B, C, T, H, W)."""
    return x.reshape(batch, -1, *x.shape[1:]).permute(0, 2, 1, 3, 4)


def norm_over_channels(norm: nn.Cell, x: Tensor) -> Tensor:
    """A norm of the last axis applied to the channels of (B, C, ...)."""
    return norm(x.movedim(1, -1)).movedim(-1, 1)


def unit_channels(x: Tensor, eps: float) -> Tensor:
    """The channels of each pixel of (B, C, H, W) scaled to length 1 in float32; eps is a length added in quadrature.

    So pixels of zeros stay zeros, and the slope there is finite.
    """
    x = to_float32(x)
    return x * ops.rsqrt((x * x).sum(1, keepdims=True) + eps**2)


def pad_right_and_bottom(x: Tensor) -> Tensor:
    """One column and one row of zeros at the ends of (..., H, W)."""
    return ops.pad(x, (0, 1, 0, 1))


def frame_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention with one head among the positions of each frame by itself; all (B, C, T, H, W)."""
    batch, channels, frames, height, width = q.shape

    def positions(x: Tensor) -> Tensor:
        return x.permute(0, 2, 3, 4, 1).reshape(batch * frames, height * width, channels)

    scores = to_float32(mint.bmm(positions(q), positions(k).swapaxes(1, 2))) * channels**-0.5
    mixed = mint.bmm(cast(_softmax(scores), like=v), positions(v))
    return mixed.reshape(batch, frames, height, width, channels).permute(0, 4, 1, 2, 3)


def _softmax(scores: Tensor) -> Tensor:
    """Softmax over the last axis."""
    if scores.shape[-1] == 1:
        # On a CPU, once MindSpore 2.10 has computed a gradient over single scores, those of all later calls are wrong.
        return ops.ones_like(scores)
    return mint.nn.functional.softmax(scores, -1)


def double_space_linear(x: Tensor) -> Tensor:
    """Each frame twice as high and wide, bilinear with half-pixel centres: (B, C, T, H, W) -> (B, C, T, 2H, 2W)."""
    height, width = x.shape[3:]
    frames = ops.interpolate(fold_frames(x), size=(2 * height, 2 * width), mode="bilinear", align_corners=False)
    return unfold_frames(frames, x.shape[0])


def double_space_nearest(x: Tensor) -> Tensor:
    """Each frame twice as high and wide, pixels repeated: (B, C, T, H, W) -> (B, C, T, 2H, 2W)."""
    rows = interleave(x, x, 3)
    return interleave(rows, rows, 4)


def double_time_linear(x: Tensor) -> Tensor:
    """Two frames for each, linear with half-pixel centres and clamped ends: (B, C, T, H, W) -> (B, C, 2T, H, W)."""
    if x.shape[2] == 1:
        return double_time_nearest(x)  # the same then; of the empty slices below MindSpore has no gradient
    before = cat([x[:, :, :1], x[:, :, :-1]], 2)
    after = cat([x[:, :, 1:], x[:, :, -1:]], 2)
    return interleave(x + 0.25 * (before - x), x + 0.25 * (after - x), 2)


def double_time_nearest(x: Tensor) -> Tensor:
    """Each frame twice: (B, C, T, H, W) -> (B, C, 2T, H, W)."""
    return interleave(x, x, 2)


def interleave(even: Tensor, odd: Tensor, axis: int) -> Tensor:
    """The slices of two tensors (B, C, ...) by turns along an axis behind the channels."""
    return ops.stack([even, odd], axis + 1).flatten(axis, axis + 1)


def haar_analysis_3d(x: Tensor) -> Tensor:
    """Haar bands of 2 x 2 x 2 blocks: (B, C, T, H, W) -> (B, 8 * C, T // 2, H // 2, W // 2), computed in float32.

    Channels are band-major, in the order of core.maths.haar.BANDS_3D.
    """
    return cast(TAP_3D * _split_pairs(_split_pairs(_split_pairs(to_float32(x), 4), 3), 2), like=x)


def haar_synthesis_3d(bands: Tensor) -> Tensor:
    """The inverse of haar_analysis_3d, up to 8 * TAP_3D ** 2: (B, 8 * C, T, H, W) -> (B, C, 2T, 2H, 2W)."""
    return cast(TAP_3D * _join_pairs(_join_pairs(_join_pairs(to_float32(bands), 2), 3), 4), like=bands)


def haar_analysis_2d(x: Tensor) -> Tensor:
    """Haar bands of 2 x 2 blocks of each frame: (B, C, T, H, W) -> (B, 4 * C, T, H // 2, W // 2), computed in float32.

    Channels are band-major, in the order of core.maths.haar.BANDS_2D.
    """
    return cast(TAP_2D * _split_pairs(_split_pairs(to_float32(x), 3), 4), like=x)


def haar_synthesis_2d(bands: Tensor) -> Tensor:
    """The inverse of haar_analysis_2d: (B, 4 * C, T, H, W) -> (B, C, T, 2H, 2W)."""
    return cast(TAP_2D * _join_pairs(_join_pairs(to_float32(bands), 4), 3), like=bands)


def _split_pairs(x: Tensor, axis: int) -> Tensor:
    """Sums and, as further channels behind them, differences of neighbours along an axis; an odd one out is dropped."""
    length = x.shape[axis] // 2
    pairs = mint.narrow(x, axis, 0, 2 * length).reshape(*x.shape[:axis], length, 2, *x.shape[axis + 1 :])
    first, second = ops.unbind(pairs, axis + 1)
    return cat([first + second, first - second], 1)


def _join_pairs(x: Tensor, axis: int) -> Tensor:
    """The inverse of _split_pairs, up to a factor of 2."""
    sums, differences = x.chunk(2, 1)
    return interleave(sums + differences, sums - differences, axis)


class _Unset:
    """A weight's place in a cell, without memory, until the weight is set."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape = shape


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


def set_parameter(model: nn.Cell, name: str, weight: Tensor) -> None:
    """Put a weight in its place in a model; it gets no gradients until it is told to."""
    parent, _, leaf = name.rpartition(".")
    setattr(dict(model.cells_and_names())[parent], leaf, Parameter(weight, name=name, requires_grad=False))


def compile_forward(model: nn.Cell) -> None:
    """Let a model's `construct` run as compiled graphs, one for each combination of shapes."""
    model.construct = _Graphs(model.construct)


_apart = threading.local()
_thread = ThreadPoolExecutor(max_workers=1, initializer=lambda: setattr(_apart, "is_here", True))


def _call_apart(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call what traces a graph, in the thread for this, gradients of it included: they are noted thread by thread.

    Tracing asks for the source of every caller and fails at one without, such as `python -m`; a thread has few.
    """
    return function(*arguments) if hasattr(_apart, "is_here") else _thread.submit(function, *arguments).result()


class _Graphs:
    """A function compiled by tracing.

    Only tensors may go into a graph, so tuples and dataclasses are taken apart before it and put together inside; all
    else in them is constant there, and another graph is made for other values.
    """

    def __init__(self, function: Callable[..., Tensor]) -> None:
        self.function = function
        self.graphs: dict[Any, Callable[..., Tensor]] = {}

    def __call__(self, *arguments: Any) -> Tensor:
        tensors: list[Tensor] = []
        pattern = _take_apart(arguments, tensors)
        if pattern not in self.graphs:
            self.graphs[pattern] = self._compile(pattern)
        return _call_apart(self.graphs[pattern], *tensors)

    def _compile(self, pattern: Any) -> Callable[..., Tensor]:
        def run(*tensors: Tensor) -> Tensor:
            return self.function(*_put_together(pattern, iter(tensors)))

        return mindspore.jit(run, capture_mode="trace")


def _take_apart(value: Any, tensors: list[Tensor]) -> Any:
    """What is left of a value without its tensors, which are added to the list: hashable and equal for equal values."""
    if isinstance(value, Tensor):
        tensors.append(value)
        return Tensor
    if is_dataclass(value):
        return type(value), tuple(_take_apart(getattr(value, field.name), tensors) for field in fields(value))
    if type(value) is tuple:
        return tuple, tuple(_take_apart(each, tensors) for each in value)
    return None, value


def _put_together(pattern: Any, tensors: Iterator[Tensor]) -> Any:
    """The inverse of _take_apart."""
    if pattern is Tensor:
        return next(tensors)
    kind, content = pattern
    if kind is None:
        return content
    parts = [_put_together(part, tensors) for part in content]
    return tuple(parts) if kind is tuple else kind(*parts)


def device_of(x: Tensor) -> str:
    """The device that a tensor is on: MindSpore has one for all."""
    return mindspore.get_context("device_target")


def place(table: np.ndarray, device: str) -> Tensor:
    """A table of core as a tensor on a device."""
    return to_tensor(table)


def take_tokens(x: Tensor, index: Tensor) -> Tensor:
    """Some tokens of each sample: (B, N, D) and indices (B, M) -> (B, M, D)."""
    return mint.gather(x, 1, index[:, :, None].broadcast_to((*index.shape, x.shape[2])))


def sinusoid(values: Tensor, frequencies: Tensor) -> Tensor:
    """Cosines, then sines, of values (B,) times frequencies (F,), (B, 2 * F) float32."""
    angles = to_float32(values)[:, None] * frequencies
    return cat([ops.cos(angles), ops.sin(angles)], 1)


def lower_where_zero(bias: Tensor, mask: Tensor) -> Tensor:
    """A bias on scores that becomes the dtype's lowest finite number where the mask is zero; both broadcast."""
    return bias.masked_fill(mask <= 0, _LOWEST[bias.dtype])


def clamp_to_dtype(x: Tensor) -> Tensor:
    """A tensor whose values are kept finite in fp16; other dtypes have room enough."""
    return x.clamp(-HALF_LIMIT, HALF_LIMIT) if x.dtype == mindspore.float16 else x
