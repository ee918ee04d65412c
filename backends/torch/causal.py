"""Convolutions of 3 x 3 x 3 that see the frames before each frame, never those behind it.

On a CPU, where no gradient is kept, neighbouring frames share products (core.maths.winograd): each is a 2-D convolution
of a mixture of frames. That takes half of the multiplications and no copy of the clip with frames in front.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from itertools import groupby, product
from math import prod
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from duosora.core.maths import winograd

from . import operators
from .layers import Conv3d, cat
from .precision import to_tensor

NUM_BEFORE = 2
"""Frames that a kernel of three looks back at."""
_LEAST_POSITIONS = 1024
"""Positions, T * H * W, from which on sharing saves more than mixing the weights takes."""
_LEAST_CHANNELS = 16
"""Of input and result; with fewer, a product takes no longer than the memory that it passes through."""
_POSITIONS_AT_A_TIME = 1024
"""Of each product, as far as rows allow: they bound the memory; with fewer, rows beside them are mixed too often."""
_KERNELS_AT_A_TIME = {torch.float32: 1, torch.bfloat16: 6}
"""Mixed together. Of bfloat16, which is half as large, single ones take twice as long."""
_LARGEST = {torch.float32: 4, torch.bfloat16: 2}
"""Frames that share products. Mixtures of six frames would cost bfloat16 two of its eight bits."""

Activation = Callable[[Tensor], Tensor]
"""Of each position by itself."""


def convolve_causally(
    conv: Conv3d,
    frames: Tensor,
    before: Tensor | None,
    onto: Tensor | None = None,
    activation: Activation | None = None,
) -> Tensor:
    """A convolution of 3 x 3 x 3 of frames (B, C, T, H, W): (B, O, T, H, W), added to `onto` if there is one.

    before: (B, C, 0 to 2, H, W), the frames in front, zeros in front of those; None: copies of the first frame.
    onto: where no gradient is kept, the result may lie in its memory. activation: of all frames, first.
    """
    if _shares_products(conv, frames):
        return _shared(conv, frames, before, onto, activation)
    result = conv(_extended(frames, before, activation))
    return result if onto is None else onto + result


def _extended(frames: Tensor, before: Tensor | None, activation: Activation | None) -> Tensor:
    seen = frames if before is None else cat([before, frames], 2)
    seen = seen if activation is None else activation(seen)
    if before is None:
        return cat([seen[:, :, :1], seen[:, :, :1], seen], 2)
    return operators.pad_start(seen, 2, NUM_BEFORE - before.shape[2])


def _shares_products(conv: Conv3d, frames: Tensor) -> bool:
    channels = min(conv.in_channels, conv.out_channels)
    return (
        frames.device.type == "cpu"
        and frames.dtype == conv.weight.dtype
        and frames.dtype in _LARGEST
        and (frames.dtype == torch.float32 or torch.ops.mkldnn._is_mkldnn_bf16_supported())
        and not operators.is_plain()
        and torch.backends.mkldnn.is_available()
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
        and not (torch.is_grad_enabled() and (frames.requires_grad or conv.weight.requires_grad))
        and channels >= _LEAST_CHANNELS
        and frames.shape[0] * frames[0, 0].numel() >= _LEAST_POSITIONS
    )


class _Window(NamedTuple):
    """A window of core.maths.winograd, its matrices as tensors."""

    results: slice
    inputs: slice
    inputs_mixing: Tensor
    before_mixing: Tensor | None


class _Group(NamedTuple):
    """Windows whose products come of the same mixtures of taps."""

    windows: Sequence[_Window]
    taps: Tensor
    results_mixing: Tensor
    bias: Tensor


_Place = tuple[_Window, int]
"""A window of a sample."""


@lru_cache(maxsize=256)
def _groups(length: int, num_before: int, dtype: torch.dtype) -> list[_Group]:
    """The windows of so many frames."""

    def matrix(values: np.ndarray) -> Tensor:
        return to_tensor(values).to(dtype)

    def window(planned: winograd.FilterWindow) -> _Window:
        before = matrix(planned.before) if planned.before.any() else None
        results, inputs = slice(planned.start, planned.stop), slice(planned.first, planned.stop)
        return _Window(results, inputs, matrix(planned.inputs), before)

    planned = winograd.windows(length, num_before, _LARGEST[dtype])
    return [
        _Group([window(each) for each in alike], matrix(products.taps), matrix(products.results), matrix(products.bias))
        for products, alike in groupby(planned, lambda window: window.products)
    ]


def _shared(
    conv: Conv3d, frames: Tensor, before: Tensor | None, onto: Tensor | None, activation: Activation | None
) -> Tensor:
    batch, _, length, height, width = frames.shape
    seen = _Frames(frames, before, activation)
    sums = None if onto is None else _innermost(onto)
    size = batch, length, height, width, conv.out_channels
    result = sums if sums is not None and sums.is_contiguous() else frames.new_empty(size)
    at_a_time = max(1, _POSITIONS_AT_A_TIME // (height * width))
    bands = _bands(height, max(1, _POSITIONS_AT_A_TIME // width))
    for group in _groups(length, winograd.FIRST if before is None else before.shape[2], frames.dtype):
        places = list(product(group.windows, range(batch)))
        pieces = list(product([places[i : i + at_a_time] for i in range(0, len(places), at_a_time)], bands))
        kernels = _kernels(conv, group.taps, width if len(pieces) > 1 else None)
        room = _room(conv, len(group.taps), len(pieces[0][0]), bands[0], frames)
        for some, band in pieces:
            products = _products(seen.mixtures(some, band, room), group, kernels, conv)
            for number, (window, sample) in enumerate(some):
                place = sample, window.results, band
                _unmix(products[:, number], group.results_mixing, None if sums is None else sums[place], result[place])
    return result.permute(0, 4, 1, 2, 3)


class _Frames:
    """Frames and those in front of them, of which mixtures are made."""

    def __init__(self, frames: Tensor, before: Tensor | None, activation: Activation | None) -> None:
        self.frames, self.before = _innermost(frames), None if before is None else _innermost(before)
        self.activation = activation

    def mixtures(self, places: Sequence[_Place], band: slice, room: Tensor) -> Tensor:
        """(P, places, rows + 2, W, C): of a band of rows and one more at both sides, zeros outside of the picture."""
        height, width, channels = self.frames.shape[2:]
        first, stop = max(0, band.start - 1), min(height, band.stop + 1)
        rows, inside = slice(first, stop), slice(first - band.start + 1, stop - band.start + 1)
        mixtures = _front(room, len(places), band.stop - band.start + 2, width, channels)
        mixtures[:, :, : inside.start] = 0
        mixtures[:, :, inside.stop :] = 0
        for i, (window, sample) in enumerate(places):
            mixed = mixtures[:, i, inside].flatten(1)
            torch.mm(window.inputs_mixing, self._activated(self.frames[sample, window.inputs, rows]), out=mixed)
            if self.before is not None and window.before_mixing is not None:
                mixed.addmm_(window.before_mixing, self._activated(self.before[sample, :, rows]))
        return mixtures

    def _activated(self, frames: Tensor) -> Tensor:
        """(T, rows, W, C) -> (T, rows * W * C)."""
        return (frames if self.activation is None else self.activation(frames.movedim(-1, 1)).movedim(1, -1)).flatten(1)


def _products(pictures: Tensor, group: _Group, kernels: Iterable[Tensor], conv: Conv3d) -> Tensor:
    """Mixtures (P, N, rows + 2, W, C), each by its mixture of the taps: (P, N, rows, W, O), in their memory."""
    _, count, height, width, _ = pictures.shape
    products = _front(pictures, count, height - 2, width, conv.out_channels)
    for i, kernel in enumerate(kernels):
        bias = None if conv.bias is None else group.bias[i] * conv.bias
        products[i] = _convolved(pictures[i].movedim(-1, 1), kernel, bias).movedim(1, -1)
    return products


def _unmix(products: Tensor, mixing: Tensor, sums: Tensor | None, result: Tensor) -> None:
    """Products (P, rows, W, O) to results (R, rows, W, O), added to what may lie in the same place."""
    made, of_window = result.flatten(1), products.flatten(1)
    if sums is None:
        torch.mm(mixing, of_window, out=made)
    else:
        torch.addmm(sums.flatten(1), mixing, of_window, out=made)


def _room(conv: Conv3d, number: int, places: int, band: slice, frames: Tensor) -> Tensor:
    """Memory for mixtures of a band, and for their products in the same place."""
    positions = places * (band.stop - band.start + 2) * frames.shape[-1]
    return frames.new_empty(number, positions * max(conv.in_channels, conv.out_channels))


def _front(memory: Tensor, *size: int) -> Tensor:
    """(P, ...) -> (P, *size), at the front of the memory of each of them."""
    strides = [prod(size[i + 1 :]) for i in range(len(size))]
    return memory.as_strided((len(memory), *size), (memory.stride(0), *strides))


def _convolved(pictures: Tensor, kernel: Tensor, bias: Tensor | None) -> Tensor:
    """Pictures (N, C, rows + 2, W), whose first and last row are not in the result: (N, O, rows, W).

    oneDNN by its name: of themselves small pictures go to a slower kernel.
    """
    return torch.ops.mkldnn._convolution_pointwise(pictures, kernel, bias, (0, 1), (1, 1), (1, 1), 1, "none", [], "")


def _kernels(conv: Conv3d, mixing: Tensor, width: int | None) -> Iterable[Tensor]:
    """A convolution's taps as mixed by the rows of (P, 3): P kernels (O, C, 3, 3).

    width: of the pictures, where there are several; kernels are kept then, in oneDNN's order.
    """
    outputs, inputs = conv.weight.shape[:2]
    taps = conv.weight.permute(2, 0, 3, 4, 1).reshape(winograd.NUM_TAPS, -1)
    mixed = (
        kernel.view(outputs, 3, 3, inputs).permute(0, 3, 1, 2)
        for some in mixing.split(_KERNELS_AT_A_TIME[mixing.dtype])
        for kernel in torch.mm(some, taps)
    )
    return mixed if width is None else [_reordered(kernel, width) for kernel in mixed]


def _reordered(kernel: Tensor, width: int) -> Tensor:
    """A kernel (O, C, 3, 3) in the order in which oneDNN reads it for pictures of some width."""
    size = 1, kernel.shape[1], 3, width
    return torch.ops.mkldnn._reorder_convolution_weight(kernel, (0, 1), (1, 1), (1, 1), 1, size)


def _bands(height: int, rows: int) -> list[slice]:
    """The rows of a picture, so many at a time."""
    return [slice(start, min(start + rows, height)) for start in range(0, height, rows)]


def _innermost(frames: Tensor) -> Tensor:
    """(B, C, T, H, W) -> (B, T, H, W, C), whose channels lie side by side in memory already, or it is copied."""
    frames = frames.permute(0, 2, 3, 4, 1)
    return frames if frames.stride(-1) == 1 else frames.contiguous()
