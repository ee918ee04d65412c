"""Convolutions of 3 x 3 x 3 that see the frames before each frame, never those behind it.

On a CPU, where no gradient is kept, neighbouring frames share products (core.maths.winograd): each is a 2-D convolution
of a mixture of frames. That takes half of the multiplications and no copy of the clip with frames in front.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import groupby, product
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
_POSITIONS_AT_A_TIME = 2048
"""Of each product, as far as rows allow: they bound the memory; with fewer, mixing the weights would count."""
_LARGEST = {torch.float32: 4, torch.bfloat16: 2}
"""Frames that share products. Mixtures of six frames would cost bfloat16 two of its eight bits."""


def convolve_causally(conv: Conv3d, frames: Tensor, before: Tensor | None, onto: Tensor | None = None) -> Tensor:
    """A convolution of 3 x 3 x 3 of frames (B, C, T, H, W): (B, O, T, H, W), added to `onto` if there is one.

    before: (B, C, 0 to 2, H, W), the frames in front, zeros in front of those; None: copies of the first frame.
    """
    if _shares_products(conv, frames):
        return _shared(conv, frames, before, onto)
    result = conv(_extended(frames, before))
    return result if onto is None else onto + result


def _extended(frames: Tensor, before: Tensor | None) -> Tensor:
    if before is None:
        return cat([frames[:, :, :1], frames[:, :, :1], frames], 2)
    zeros = operators.pad_start(before, 2, NUM_BEFORE - before.shape[2])
    return cat([zeros, frames], 2)


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

    windows: list[_Window]
    taps: Tensor
    results_mixing: Tensor
    bias: Tensor


@lru_cache(maxsize=256)
def _groups(length: int, num_before: int, dtype: torch.dtype, at_a_time: int) -> list[_Group]:
    """The windows of so many frames, at most `at_a_time` together."""

    def matrix(values: np.ndarray) -> Tensor:
        return to_tensor(values).to(dtype)

    groups: list[_Group] = []
    planned = winograd.windows(length, num_before, _LARGEST[dtype])
    for products, alike in groupby(planned, lambda window: window.products):
        shared = matrix(products.taps), matrix(products.results), matrix(products.bias)
        windows = [
            _Window(
                slice(window.start, window.stop),
                slice(window.first, window.stop),
                matrix(window.inputs),
                matrix(window.before) if window.before.any() else None,
            )
            for window in alike
        ]
        groups += [_Group(windows[i : i + at_a_time], *shared) for i in range(0, len(windows), at_a_time)]
    return groups


def _shared(conv: Conv3d, frames: Tensor, before: Tensor | None, onto: Tensor | None) -> Tensor:
    batch, _, length, height, width = frames.shape
    at_a_time = max(1, _POSITIONS_AT_A_TIME // (batch * height * width))
    groups = _groups(length, winograd.FIRST if before is None else before.shape[2], frames.dtype, at_a_time)
    bands = _bands(height, max(1, _POSITIONS_AT_A_TIME // (batch * width)))
    kernels = _Kernels(conv, keeps=len(groups) * len(bands) > 1)
    result = frames.new_empty(batch, length, height, width, conv.out_channels)
    pieces = _channels_last(frames), None if before is None else _channels_last(before)
    sums = None if onto is None else _channels_last(onto)
    for group in groups:
        for band in bands:
            products = _products(_mixtures(group, band, *pieces), group, kernels, conv)
            for number, (window, sample) in enumerate(product(group.windows, range(batch))):
                place = sample, window.results, band
                made, of_window = result[place].flatten(1), products[:, number].flatten(1)
                if sums is None:
                    torch.mm(group.results_mixing, of_window, out=made)
                else:
                    torch.addmm(sums[place].flatten(1), group.results_mixing, of_window, out=made)
    return result.permute(0, 4, 1, 2, 3)


def _mixtures(group: _Group, band: slice, frames: Tensor, before: Tensor | None) -> Tensor:
    """Of frames (B, T, H, W, C) the mixtures of each window and sample, of a band of rows and one more at both sides.

    (P, windows * B, rows + 2, W, C); zeros outside of the picture.
    """
    batch, _, height, width, channels = frames.shape
    first, stop = max(0, band.start - 1), min(height, band.stop + 1)
    rows, inside = slice(first, stop), slice(first - band.start + 1, stop - band.start + 1)
    size = len(group.taps), len(group.windows) * batch, band.stop - band.start + 2, width, channels
    mixtures = frames.new_empty(size)
    mixtures[:, :, : inside.start] = 0
    mixtures[:, :, inside.stop :] = 0
    for number, (window, sample) in enumerate(product(group.windows, range(batch))):
        mixed = mixtures[:, number, inside].flatten(1)
        torch.mm(window.inputs_mixing, frames[sample, window.inputs, rows].flatten(1), out=mixed)
        if before is not None and window.before_mixing is not None:
            mixed.addmm_(window.before_mixing, before[sample, :, rows].flatten(1))
    return mixtures


def _products(pictures: Tensor, group: _Group, kernels: _Kernels, conv: Conv3d) -> Tensor:
    """Mixtures (P, N, rows + 2, W, C), each by its mixture of the taps: (P, N, rows, W, O)."""
    number, count, height, width, _ = pictures.shape
    products = pictures.new_empty(number, count, height - 2, width, conv.out_channels)
    for i in range(number):
        bias = None if conv.bias is None else group.bias[i] * conv.bias
        picture = pictures[i].permute(0, 3, 1, 2)
        # By its name: of themselves small pictures go to a slower kernel.
        made = torch.mkldnn_convolution(picture, kernels.get(group.taps, i), bias, (0, 1), (1, 1), (1, 1), 1)
        products[i] = made.permute(0, 2, 3, 1)
    return products


class _Kernels:
    """The mixtures of a convolution's taps, (O, C, 3, 3) each."""

    def __init__(self, conv: Conv3d, keeps: bool) -> None:
        self.shape = conv.out_channels, 3, 3, conv.in_channels
        self.taps = conv.weight.permute(2, 0, 3, 4, 1).reshape(winograd.NUM_TAPS, -1)
        self.keeps = keeps
        """They are asked for more than once."""
        self.kept: dict[tuple[int, int], Tensor] = {}

    def get(self, mixing: Tensor, i: int) -> Tensor:
        """By row i of a group's matrix."""
        kernel = self.kept.get((id(mixing), i))
        if kernel is None:
            kernel = (mixing[i : i + 1] @ self.taps).view(self.shape).permute(0, 3, 1, 2)
            if self.keeps:
                self.kept[id(mixing), i] = kernel
        return kernel


def _bands(height: int, rows: int) -> list[slice]:
    """The rows of a picture, so many at a time."""
    return [slice(start, min(start + rows, height)) for start in range(0, height, rows)]


def _channels_last(frames: Tensor) -> Tensor:
    """(B, C, T, H, W) -> (B, T, H, W, C), which is how they lie in memory already, or are copied."""
    return frames.permute(0, 2, 3, 4, 1).contiguous()
