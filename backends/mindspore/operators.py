"""Operations that models and layers are built from, under names that the torch backend shares.

What is done in one way on a CPU and in another on an Ascend is in the two tables of `_Forms` at the end, one of which
`settle` chooses when the backend is made.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from typing import Any

import mindspore
import numpy as np
from mindspore import Tensor, mint, nn, ops
from mindspore.mint import cat

from duosora.core.maths import winograd

from .precision import to_tensor

_Widths = int | tuple[int, ...]
"""One for all axes, or one for each."""
_MATRICES, _PRODUCT, _TURNED = ops.MatMul(), ops.MatMul(transpose_b=True), ops.MatMul(transpose_a=True)
"""A B, A B^T and A^T B."""
_PRODUCTS = ops.BatchMatMul(transpose_b=True)
_ADD_BIAS = {2: ops.BiasAdd("NCHW"), 3: ops.BiasAdd("NCDHW")}
"""By the number of axes behind the channels."""
_MOST_PATCHES = 1 << 22
"""Numbers that a convolution gathers at a time: more do not stay in a CPU's cache."""
_FEW_CHANNELS = 128
"""With fewer a product of patches is twice as fast the other way round."""
_NOWHERE = -(10**9)
"""A place that no one reads."""
_LEAST_CHANNELS = 16
"""Of input and result, from which on sharing products saves more than mixing takes."""
_MOST_MIXTURES = 1 << 20
"""Numbers that tiles are mixed to at a time, for a like reason."""
_FRAMES_TOGETHER, _STEP, _TILE = 4, 2, 4
"""Results that share products in time, and along each side of a picture, and the pixels that these are made of."""


class _Mode(threading.local):
    """Of each thread by itself, since several may be in `inference` at once."""

    keeps_no_gradients = False


_mode = _Mode()


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
def inference() -> Iterator[None]:
    """A context in which no gradients are asked for."""
    before, _mode.keeps_no_gradients = _mode.keeps_no_gradients, True
    try:
        yield
    finally:
        _mode.keeps_no_gradients = before


@contextmanager
def plain() -> Iterator[None]:
    """A context in which operations are done as on any device: the reference for a device's own ways."""
    global _forms
    before = _forms, _mode.keeps_no_gradients
    _forms, _mode.keeps_no_gradients = _ON_HOST, False
    try:
        yield
    finally:
        _forms, _mode.keeps_no_gradients = before


def is_plain() -> bool:
    """Whether operations are done so that they have gradients; a shorter way may have none."""
    return not _mode.keeps_no_gradients


def in_memory_order(function: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
    """A function of the numbers of tensors (B, C, ...) of one shape, each number by itself, in the last one's order.

    MindSpore by itself brings all that it computes to the order of the axes, slowly.
    """
    if tensors[-1].is_contiguous():
        return function(*tensors)
    return _channels_outer(function(*(_channels_inner(x) for x in tensors)))


def convolution(x: Tensor, weight: Tensor, bias: Tensor | None, stride: _Widths, padding: _Widths) -> Tensor:
    """A convolution of (B, C, H, W) or (B, C, T, H, W)."""
    return _forms.convolution(x, weight, bias, stride, padding)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, activation: str = "") -> Tensor:
    """x @ weight.T + bias over the last axis, and then an activation: "", "gelu_tanh" or "gelu_erf"."""
    y = _forms.linear(x, weight, bias)
    if not activation:
        return y
    return gelu_tanh(y) if activation == "gelu_tanh" else ops.gelu(y)


def channel_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """Layer norm over the channels of each position of (B, C, ...)."""
    return _forms.channel_norm(x, weight, bias, eps)


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


@dataclass(frozen=True)
class _Forms:
    """The operations that are done in one way on a CPU and in another on an Ascend."""

    convolution: Callable[[Tensor, Tensor, Tensor | None, _Widths, _Widths], Tensor]
    linear: Callable[[Tensor, Tensor, Tensor | None], Tensor]
    channel_norm: Callable[[Tensor, Tensor, Tensor, float], Tensor]
    addcmul: Callable[[Tensor, Tensor, Tensor], Tensor]
    gelu_tanh: Callable[[Tensor], Tensor]
    exchange: Callable[[Tensor], Tensor]
    swap_halves: Callable[[Tensor, int], Tensor]
    sum_of_squares: Callable[[Tensor], float]
    """Of one tensor."""


def _convolution_on_host(x: Tensor, weight: Tensor, bias: Tensor | None, stride: _Widths, padding: _Widths) -> Tensor:
    """By matrix products, as oneDNN has no good kernel for MindSpore's own operators, and with AVX-512 none at all."""
    axes = x.ndim - 2
    strides, paddings = _each(stride, axes), _each(padding, axes)
    wide, kernel = _to_float32(x), _to_float32(weight)
    if _shares_products(tuple(weight.shape), strides, paddings):
        y = _by_shared_products(_channels_inner(wide), kernel, bias, paddings[:-2])
        y = y if y.dtype == x.dtype else y.astype(x.dtype)
        return _channels_outer(y) if not x.is_contiguous() else _planes(_channels_outer(y))
    is_pointwise = set(weight.shape[2:]) | set(strides) == {1} and not any(paddings)
    if not x.is_contiguous():
        if is_pointwise:
            y = _linear_on_host(_channels_inner(wide), kernel.reshape(kernel.shape[:2]), bias)
            return _channels_outer(y if y.dtype == x.dtype else y.astype(x.dtype))
        return _channels_outer(_channels_inner(_convolution_on_host(_planes(x), weight, bias, stride, padding)))
    if is_pointwise:
        y = _mixed_channels(wide, kernel)
    else:
        y = _made_convolution(tuple(x.shape[2:]), tuple(weight.shape), strides, paddings)(wide, kernel)
    y = y if y.dtype == x.dtype else y.astype(x.dtype)
    return y if bias is None else _ADD_BIAS[axes](y, bias)


def _channels_inner(x: Tensor) -> Tensor:
    """(B, C, ...) -> (B, ..., C), where memory lies so without a copy."""
    if x.is_contiguous():
        flat = _channels_first(x.reshape(*x.shape[:2], -1)).reshape(x.shape[1], -1)
        return _transpose(flat).reshape(x.shape[0], *x.shape[2:], x.shape[1])
    return x.permute(0, *range(2, x.ndim), 1)


def _channels_outer(x: Tensor) -> Tensor:
    """(B, ..., C) -> (B, C, ...), its memory as it is."""
    return x.permute(0, x.ndim - 1, *range(1, x.ndim - 1))


def _planes(x: Tensor) -> Tensor:
    """(B, C, ...) with its memory in the order of the axes."""
    if x.is_contiguous():
        return x
    rows = _to_float32(_channels_inner(x))
    planes = _PRODUCT(_diagonal(x.shape[1]), rows.reshape(-1, x.shape[1]))
    planes = planes if x.dtype == planes.dtype else planes.astype(x.dtype)
    return _channels_first(planes.reshape(x.shape[1], x.shape[0], -1)).reshape(x.shape)


def _shares_products(weight: tuple[int, ...], stride: tuple[int, ...], padding: tuple[int, ...]) -> bool:
    """Whether a convolution is one of three by three pixels, and frames, whose neighbouring results share products."""
    return (
        _mode.keeps_no_gradients
        and set(weight[2:]) == {winograd.NUM_TAPS}
        and set(stride) | set(padding[-2:]) == {1}
        and set(padding) <= {0, 1}
        and min(weight[:2]) >= _LEAST_CHANNELS
    )


def _by_shared_products(x: Tensor, weight: Tensor, bias: Tensor | None, padding: tuple[int, ...]) -> Tensor:
    """A convolution of (B, [T], H, W, C) by (O, C, [3], 3, 3), padded along time: (B, [T'], H, W, O).

    Four results in time and two by two in space come of 6 * 16 products instead of 16 * 27: frames are mixed, their
    tiles of 4 x 4 pixels gathered and mixed, and the products of the mixtures are mixed into results.
    """
    batch, (height, width, channels), outputs = x.shape[0], x.shape[-3:], weight.shape[0]
    zeros = ops.zeros((math.prod(x.shape[:-3]), 1, channels), x.dtype)
    rows = cat([x.reshape(zeros.shape[0], -1, channels), zeros], 1)  # what tiles read outside of a picture
    clips = ops.split(rows, x.shape[1]) if padding else [rows]
    groups = _groups(clips[0].shape[0], padding, max(1, _MOST_PATCHES // (height * width * max(channels, outputs))))
    flat = weight.reshape(outputs * channels, -1)
    kernels = {id(group.taps): _PRODUCT(group.taps, flat).reshape(-1, _TILE**2, outputs, channels) for group in groups}
    results = [_results(group, clip, kernels[id(group.taps)], height, width) for clip in clips for group in groups]
    y = results[0] if len(results) == 1 else cat(results, 0)
    y = y if bias is None else ops.bias_add(y, _to_float32(bias))
    return y.reshape(batch, *(-1 for _ in padding), height, width, outputs)


def _results(group: _Group, clip: Tensor, kernels: Tensor, height: int, width: int) -> Tensor:
    """What a group makes of frames (T, P + 1, C) by kernels (products in time, in space, O, C): (T' * P, O)."""
    channels, outputs = clip.shape[2], kernels.shape[2]
    frames = clip[group.frames]
    if group.mixing is not None:
        frames = _MATRICES(group.mixing, frames.reshape(frames.shape[0], -1))
    mixtures = [each.reshape(-1, channels) for each in ops.split(frames.reshape(len(kernels), -1), 1)]
    by_kernel = [kernel.reshape(kernel.shape[1:]) for kernel in ops.split(kernels, 1)]
    inwards, outwards = _in_space()
    at_a_time = max(1, _MOST_MIXTURES // (_TILE**2 * max(channels, outputs)))
    parts = []
    for places in _tiles(group.count, height, width, at_a_time):
        made = []
        for mixture, kernel in zip(mixtures, by_kernel, strict=True):
            mixed = _MATRICES(inwards, ops.gather(mixture, places, 0).reshape(_TILE**2, -1))
            products = _PRODUCTS(mixed.reshape(_TILE**2, -1, channels), kernel)
            made.append(_MATRICES(outwards, products.reshape(_TILE**2, -1)).reshape(1, -1))
        y = made[0] if group.results is None else _MATRICES(group.results, cat(made, 0))
        parts.append(y.reshape(-1, outputs))
    y = parts[0] if len(parts) == 1 else cat(parts, 0)
    return ops.gather(y, _order(group.num_results, group.count, height, width, at_a_time), 0)


@dataclass(frozen=True)
class _Group:
    """Windows of core.maths.winograd, or pictures, whose products are made together."""

    frames: slice
    """That they are made of."""
    count: int
    """Of windows."""
    num_results: int
    """Of a window."""
    mixing: Tensor | None
    """(products * windows, frames); None for pictures, which are not mixed."""
    taps: Tensor
    """(products in time * products in space, taps)."""
    results: Tensor | None
    """(results, products)."""


@lru_cache(maxsize=256)
def _groups(num_frames: int, padding: tuple[int, ...], at_a_time: int) -> list[_Group]:
    """How so many frames, or pictures where there is no padding in time, are treated."""
    taps = np.kron(winograd.mixing(_STEP)[1].taps, winograd.mixing(_STEP)[1].taps)
    groups = []
    if not padding:
        of_pictures = to_tensor(taps.astype(np.float32))
        for start in range(0, num_frames, at_a_time):
            count = min(at_a_time, num_frames - start)
            groups.append(_Group(slice(start, start + count), count, 1, None, of_pictures, None))
        return groups
    front = winograd.NUM_TAPS - 1
    planned = winograd.windows(num_frames + 2 * padding[0] - front, front, _FRAMES_TOGETHER)
    for products, alike in groupby(planned, lambda window: window.products):
        windows = list(alike)
        of_time = to_tensor(np.kron(products.taps, taps).astype(np.float32))
        of_results = to_tensor(products.results.astype(np.float32))
        for part in (windows[i : i + at_a_time] for i in range(0, len(windows), at_a_time)):
            mixing = np.zeros((len(products.taps), len(part), num_frames + 2 * padding[0]), np.float32)
            for number, window in enumerate(part):
                mixing[:, number, :front] += window.before
                mixing[:, number, front + window.first : front + window.stop] += window.inputs
            # Of the frames that are read, those that are there: the others are zeros.
            start, stop = part[0].start, part[-1].stop + front
            frames = slice(max(0, start - padding[0]), min(num_frames, stop - padding[0]))
            read = mixing[:, :, frames.start + padding[0] : frames.stop + padding[0]]
            mixed = to_tensor(read.reshape(-1, read.shape[2]).copy())
            groups.append(_Group(frames, len(part), len(products.results), mixed, of_time, of_results))
    return groups


@lru_cache(maxsize=1)
def _in_space() -> tuple[Tensor, Tensor]:
    """(16, 16) and (4, 16): what mixes the pixels of a tile, and products into results."""
    inputs, products = winograd.mixing(_STEP)
    inwards, outwards = np.kron(inputs, inputs), np.kron(products.results, products.results)
    return to_tensor(inwards.astype(np.float32)), to_tensor(outwards.astype(np.float32))


@lru_cache(maxsize=64)
def _tiles(count: int, height: int, width: int, at_a_time: int) -> list[Tensor]:
    """Of so many pictures with a row of zeros behind each, where pixels of some tiles are: (4 * 4 * tiles,) each."""
    rows, columns = (np.arange(0, size, _STEP)[:, None] - 1 + np.arange(_TILE) for size in (height, width))
    inside = ((rows >= 0) & (rows < height))[:, None, :, None] & ((columns >= 0) & (columns < width))[:, None]
    places = np.where(inside, rows[:, None, :, None] * width + columns[:, None], height * width).reshape(
        1, -1, _TILE**2
    )
    places = (places + np.arange(count)[:, None, None] * (height * width + 1)).reshape(-1, _TILE**2).astype(np.int32)
    parts = (places[start : start + at_a_time] for start in range(0, len(places), at_a_time))
    return [to_tensor(part.T.reshape(-1)) for part in parts]


@lru_cache(maxsize=64)
def _order(num_results: int, count: int, height: int, width: int, at_a_time: int) -> Tensor:
    """Where the pixels of each frame are among what some tiles give after the others, (results, 2 * 2, tiles) each."""
    across, down = -(-width // _STEP), -(-height // _STEP)
    num_tiles, of_tile = count * down * across, num_results * _STEP**2
    made = [
        np.arange(start * of_tile, min(start + at_a_time, num_tiles) * of_tile, dtype=np.int32).reshape(of_tile, -1)
        for start in range(0, num_tiles, at_a_time)
    ]
    tiles = np.concatenate(made, 1).reshape(num_results, _STEP, _STEP, count, down, across)
    whole = tiles.transpose(3, 0, 4, 1, 5, 2).reshape(count, num_results, _STEP * down, _STEP * across)
    return to_tensor(whole[:, :, :height, :width].reshape(-1))


def _mixed_channels(x: Tensor, weight: Tensor) -> Tensor:
    """A convolution whose kernel is one element."""
    flat = _channels_first(x.reshape(*x.shape[:2], -1))  # (C, B, P)
    y = _MATRICES(weight.reshape(weight.shape[0], -1), flat.reshape(flat.shape[0], -1))
    return _channels_first(y.reshape(-1, *flat.shape[1:])).reshape(x.shape[0], -1, *x.shape[2:])


def _channels_first(x: Tensor) -> Tensor:
    """(B, C, P) -> (C, B, P), or the other way round."""
    if 1 in x.shape[:2]:
        return x.reshape(x.shape[1], x.shape[0], x.shape[2])
    return _exchange_on_host(x.unsqueeze(0)).reshape(x.shape[1], x.shape[0], x.shape[2])


@lru_cache(maxsize=256)
def _made_convolution(
    sizes: tuple[int, ...], weight: tuple[int, ...], stride: tuple[int, ...], padding: tuple[int, ...]
) -> _Convolution:
    """The convolution of inputs of a size by a weight of a shape."""
    return _Convolution(sizes, weight, stride, padding)


class _Convolution(nn.Cell):
    """A convolution as products of its patches, which are gathered from rows of channels, some at a time.

    The frames of a clip, or the pictures of a batch, are gathered together; along time a kernel is a sum of products.
    Gradients are written out: that of the input is a sum over the outputs that a place went into, gathered likewise.
    """

    def __init__(
        self, sizes: tuple[int, ...], weight: tuple[int, ...], stride: tuple[int, ...], padding: tuple[int, ...]
    ) -> None:
        super().__init__()
        inputs, *kernel = weight[1:]
        counts = [
            (size + 2 * pad - taps) // step + 1
            for size, taps, step, pad in zip(sizes, kernel, stride, padding, strict=True)
        ]
        axes = list(zip(kernel, stride, padding, strict=True))
        self.counts = tuple(counts)
        self.of_outputs = _Patches(
            [_read_by_outputs(count, *axis) for count, axis in zip(counts, axes, strict=True)], sizes
        )
        self.of_inputs = _Patches(
            [_that_read_inputs(size, *axis) for size, axis in zip(sizes, axes, strict=True)], self.counts
        )
        order = np.arange(inputs * math.prod(kernel), dtype=np.int32).reshape(inputs, self.of_outputs.num_times, -1)
        by_place = order.transpose(1, 2, 0).reshape(self.of_outputs.num_times, -1)  # (kt, kh * kw * C)
        self.order = [to_tensor(row.copy()) for row in by_place]
        self.inverse = to_tensor(np.argsort(by_place.reshape(-1)).astype(np.int32))

    def construct(self, x: Tensor, weight: Tensor) -> Tensor:
        flat = weight.reshape(weight.shape[0], -1)
        weights = [ops.gather(flat, order, 1) for order in self.order]  # (O, kh * kw * C) for each time
        results = [self.of_outputs.product(rows, weights) for rows in self._rows(x, self.of_outputs)]
        return self._batch(results, x.shape[0], self.counts)

    def bprop(self, x: Tensor, weight: Tensor, out: Tensor, dout: Tensor) -> tuple[Tensor, Tensor]:
        outputs, inputs = weight.shape[:2]
        turned = _transpose(weight.reshape(outputs, -1)).reshape(inputs, self.of_outputs.num_times, -1)
        weights = [part.reshape(inputs, -1) for part in ops.split(turned, 1, 1)]  # (C, kh * kw * O)
        of_x, of_weight = [], None
        for rows, drows in zip(self._rows(x, self.of_outputs), self._rows(dout, self.of_inputs), strict=True):
            of_x.append(self.of_inputs.product(drows, weights))
            share = self.of_outputs.gradient(rows, self.of_inputs.bare(drows))
            of_weight = share if of_weight is None else of_weight + share
        dweight = ops.gather(of_weight, self.inverse, 1).reshape(weight.shape)
        return self._batch(of_x, x.shape[0], x.shape[2:]), dweight

    def _rows(self, x: Tensor, patches: _Patches) -> list[Tensor]:
        """Clips, as many as are to be treated one by one, as rows of channels."""
        if self.of_outputs.of_pictures:
            clips = [_channels_first(x.reshape(*x.shape[:2], -1))]
        else:
            clips = [clip.reshape(x.shape[1:]) for clip in ops.split(x, 1)]  # an index fails in a gradient of gradients
        return [patches.rows(clip) for clip in clips]

    def _batch(self, clips: list[Tensor], batch: int, sizes: Sequence[int]) -> Tensor:
        """The inverse of that for results (C, T, P)."""
        if self.of_outputs.of_pictures:
            clip = clips[0].reshape(clips[0].shape[0], batch, -1)
            return _channels_first(clip).reshape(batch, -1, *sizes)
        return ops.stack(clips, 0).reshape(batch, -1, *sizes)


class _Patches:
    """What is gathered for each place of a result."""

    def __init__(self, taps: list[np.ndarray], sizes: Sequence[int]) -> None:
        """taps: of each axis, (results, kernel), the places that they read; zeros are read beyond the sizes."""
        *times, rows, columns = taps
        height, width = sizes[-2:]
        self.frame_size = height * width
        self.of_pictures = not times
        times = times or [np.zeros((1, 1), np.int64)]
        self.num_times = times[0].shape[1]
        is_inside = ((rows >= 0) & (rows < height))[:, None, :, None] & ((columns >= 0) & (columns < width))[:, None]
        places = np.where(is_inside, rows[:, None, :, None] * width + columns[:, None], self.frame_size)
        self.places = places.reshape(len(rows) * len(columns), -1).astype(np.int32)
        """(P, kh * kw), of which the last of a frame's rows are zeros."""
        is_read = times[0] != _NOWHERE
        self.before = max(0, -int(times[0][is_read].min()))
        num_frames = sizes[0] if len(sizes) == 3 else 1
        self.behind = max(0, int(times[0].max()) + 1 - num_frames, int(not is_read.all()))
        self.times = np.where(is_read, times[0] + self.before, num_frames + self.before).astype(np.int32)
        self.indices: dict[tuple[int, int], Tensor] = {}

    def rows(self, clip: Tensor) -> Tensor:
        """Frames (C, T, ...) -> (T, P + 1, C): rows of channels, the last of each frame zeros; and frames of zeros."""
        channels = clip.shape[0]
        rows = _transpose(clip.reshape(channels, -1)).reshape(-1, self.frame_size, channels)
        rows = cat([rows, ops.zeros((rows.shape[0], 1, channels), rows.dtype)], 1)
        return pad_end(pad_start(rows, 0, self.before), 0, self.behind)

    def bare(self, rows: Tensor) -> Tensor:
        """The rows without zeros."""
        return rows[self.before : rows.shape[0] - self.behind]

    def product(self, rows: Tensor, weights: Sequence[Tensor]) -> Tensor:
        """The rows' patches times weights (O, kh * kw * C) for each time: (O, T * P), or (O, T, P)."""
        outputs = weights[0].shape[0]
        in_rows = outputs < _FEW_CHANNELS
        results = []
        for _, patches in self._parts(rows):
            total: Any = None
            for time, weight in enumerate(weights):
                read = self._frames(patches, time)
                part = _PRODUCT(read, weight) if in_rows else _PRODUCT(weight, read)
                total = part if total is None else ops.add(total, part)
            shape = (-1, patches.shape[1], outputs) if in_rows else (outputs, -1, patches.shape[1])
            results.append(total.reshape(shape))
        result = results[0] if len(results) == 1 else cat(results, 1 if in_rows else 2)
        return _PRODUCT(_diagonal(outputs), result.reshape(-1, outputs)) if in_rows else result

    def gradient(self, rows: Tensor, drows: Tensor) -> Tensor:
        """That of the weights, (O, kt * kh * kw * C), from the gradient's rows (T, P + 1, O)."""
        totals: list[Tensor] = []
        for (start, stop), patches in self._parts(rows):
            own = ops.gather(drows, to_tensor(np.arange(start, stop, dtype=np.int32)), 1)
            own = own.reshape(-1, drows.shape[2])
            shares = [_TURNED(own, self._frames(patches, time)) for time in range(self.num_times)]
            totals = [total + share for total, share in zip(totals, shares, strict=True)] if totals else shares
        return cat(totals, 1)

    def _parts(self, rows: Tensor) -> Iterator[tuple[tuple[int, int], Tensor]]:
        """The patches (T, p, kh * kw * C) of some places, from which to which, after the others."""
        frames, _, channels = rows.shape
        count = max(1, _MOST_PATCHES // (frames * channels * self.places.shape[1]))
        for start in range(0, len(self.places), count):
            stop = min(start + count, len(self.places))
            if (start, stop) not in self.indices:
                self.indices[start, stop] = to_tensor(self.places[start:stop].reshape(-1))
            yield (start, stop), ops.gather(rows, self.indices[start, stop], 1).reshape(frames, stop - start, -1)

    def _frames(self, patches: Tensor, time: int) -> Tensor:
        """Those that results read at one time of the kernel, as a matrix."""
        frames = self.times[:, time]
        if self.of_pictures:  # of which there may be any number
            chosen = patches
        elif (np.diff(frames) == 1).all():
            chosen = patches[int(frames[0]) : int(frames[0]) + len(frames)]
        else:
            chosen = ops.gather(patches, to_tensor(frames.copy()), 0)
        return chosen.reshape(-1, patches.shape[2])


def _read_by_outputs(count: int, taps: int, step: int, pad: int) -> np.ndarray:
    """(count, taps): which place of the input each output of an axis reads with each tap of its kernel."""
    return np.arange(count)[:, None] * step + np.arange(taps) - pad


def _that_read_inputs(count: int, taps: int, step: int, pad: int) -> np.ndarray:
    """(count, taps): which output read each place of the input with each tap."""
    ahead = np.arange(count)[:, None] + pad - np.arange(taps)
    return np.where(ahead % step == 0, ahead // step, _NOWHERE)


def _transpose(x: Tensor) -> Tensor:
    """A matrix (M, N) as (N, M), by a product, six times as fast as MindSpore transposes."""
    turned = _TURNED(_to_float32(x), _diagonal(x.shape[0]))
    return turned if x.dtype == turned.dtype else turned.astype(x.dtype)


@lru_cache(maxsize=32)
def _diagonal(width: int) -> Tensor:
    return to_tensor(np.eye(width, dtype=np.float32))


def _each(widths: _Widths, count: int) -> tuple[int, ...]:
    return (widths,) * count if isinstance(widths, int) else tuple(widths)


def _to_float32(x: Tensor) -> Tensor:
    return x if x.dtype == mindspore.float32 else x.astype(mindspore.float32)


def _convolution_on_npu(x: Tensor, weight: Tensor, bias: Tensor | None, stride: _Widths, padding: _Widths) -> Tensor:
    """By the operators that MindSpore has for Ascend only, in any dtype."""
    convolve = {4: mint.nn.functional.conv2d, 5: mint.nn.functional.conv3d}[weight.ndim]
    return convolve(x, weight, bias, stride, padding)


_GELU_LINEAR = 2 * math.sqrt(2 / math.pi)
_GELU_CUBIC = 0.044715 * _GELU_LINEAR


def _linear_on_host(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """A third of the time on a CPU, where the sum of tensors of different shapes is slow."""
    y = _PRODUCT(x.reshape(-1, x.shape[-1]), weight)
    return (y if bias is None else ops.bias_add(y, bias)).reshape(*x.shape[:-1], weight.shape[0])


def _channel_norm_on_host(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """Written out, because moving the channels behind and back takes a CPU nine times as long."""
    if not x.is_contiguous():
        y = ops.LayerNorm(-1, -1, eps)(_to_float32(_channels_inner(x)), _to_float32(weight), _to_float32(bias))[0]
        return _channels_outer(y if y.dtype == x.dtype else y.astype(x.dtype))
    batch, channels = x.shape[:2]
    flat = _channels_first(_to_float32(x).reshape(batch, channels, -1)).reshape(channels, -1)
    mean = _mean_of(channels)
    centred = ops.sub(flat, ops.tile(_MATRICES(mean, flat), (channels, 1)))
    deviation = ops.rsqrt(ops.add(_MATRICES(mean, ops.square(centred)), eps))
    scaled = ops.mul(centred, _MATRICES(_to_float32(weight).reshape(-1, 1), deviation))
    y = _ADD_BIAS[2](scaled.reshape(1, channels, 1, -1), _to_float32(bias)).reshape(channels, batch, -1)
    y = _channels_first(y).reshape(x.shape)
    return y if y.dtype == x.dtype else y.astype(x.dtype)


@lru_cache(maxsize=32)
def _mean_of(count: int) -> Tensor:
    return to_tensor(np.full((1, count), 1 / count, np.float32))


def _channel_norm_on_npu(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    moved = x.movedim(1, -1)
    return ops.LayerNorm(-1, -1, eps)(moved, weight.astype(x.dtype), bias.astype(x.dtype))[0].movedim(-1, 1)


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
    """By a product, nearly twice as fast as gathering, and ten times as fast on a CPU as cutting and joining."""
    width = x.shape[-1]
    return _MATRICES(x.reshape(-1, width), _halves_swapped(width, parts)).reshape(x.shape)


@lru_cache(maxsize=64)
def _halves_swapped(width: int, parts: int) -> Tensor:
    order = np.arange(width).reshape(parts, 2, -1)[:, ::-1]
    return to_tensor(np.eye(width, dtype=np.float32)[order.reshape(-1)])


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
    channel_norm=_channel_norm_on_host,
    addcmul=_addcmul_on_host,
    gelu_tanh=_gelu_tanh_on_host,
    exchange=_exchange_on_host,
    swap_halves=_swap_halves_on_host,
    sum_of_squares=_sum_of_squares_on_host,
)
_ON_NPU = _Forms(
    convolution=_convolution_on_npu,
    linear=mint.nn.functional.linear,
    channel_norm=_channel_norm_on_npu,
    addcmul=_addcmul_on_npu,
    gelu_tanh=_gelu_tanh_on_npu,
    exchange=_exchange_on_npu,
    swap_halves=_swap_halves_on_npu,
    sum_of_squares=_sum_of_squares_on_npu,
)
_forms = _ON_HOST
"""What is settled on; until then forms that run anywhere."""
