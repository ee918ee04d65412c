"""Convolutions of 3 x 3 x 3 that see the frames before each frame, never those behind it.

On a CPU, where no gradient is kept, neighbouring frames share products (core.maths.winograd): each is a 2-D convolution
of a mixture of frames. That takes half of the multiplications and no copy of the clip with frames in front.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from duosora.core.maths import winograd

from . import operators
from .layers import Conv3d, cat
from .precision import to_tensor

LEAST_POSITIONS = 1024
"""Positions, T * H * W, from which on sharing saves more than mixing the weights takes."""
LEAST_CHANNELS = 16
"""Of input and result; with fewer, a product takes no longer than the memory that it passes through."""
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
    zeros = operators.pad_start(before, 2, winograd.NUM_TAPS - 1 - before.shape[2])
    return cat([zeros, frames], 2)


def _shares_products(conv: Conv3d, frames: Tensor) -> bool:
    channels = min(conv.in_channels, conv.out_channels)
    return (
        frames.device.type == "cpu"
        and frames.dtype == conv.weight.dtype
        and frames.dtype in _LARGEST
        and not operators.is_plain()
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
        and not (torch.is_grad_enabled() and (frames.requires_grad or conv.weight.requires_grad))
        and channels >= LEAST_CHANNELS
        and frames.shape[0] * frames[0, 0].numel() >= LEAST_POSITIONS
    )


class _Tables(NamedTuple):
    """A window's matrices as tensors."""

    start: int
    stop: int
    first: int
    inputs: Tensor
    before: Tensor
    taps: Tensor
    results: Tensor
    bias: Tensor


@lru_cache(maxsize=256)
def _tables(length: int, num_before: int, dtype: torch.dtype) -> list[_Tables]:
    planned = winograd.windows(length, num_before, _LARGEST[dtype])
    shared: dict[object, tuple[Tensor, ...]] = {}
    tables = []
    for window in planned:
        ways = window.products
        if ways not in shared:
            shared[ways] = tuple(to_tensor(part).to(dtype) for part in (ways.taps, ways.results, ways.bias))
        inputs, before = (to_tensor(part).to(dtype) for part in (window.inputs, window.before))
        tables.append(_Tables(window.start, window.stop, window.first, inputs, before, *shared[ways]))
    return tables


def _shared(conv: Conv3d, frames: Tensor, before: Tensor | None, onto: Tensor | None) -> Tensor:
    batch, _, length, height, width = frames.shape
    taps = conv.weight.permute(2, 0, 3, 4, 1).reshape(winograd.NUM_TAPS, -1)
    rows, ahead, sums = _rows(frames), None if before is None else _rows(before), None if onto is None else _rows(onto)
    result = frames.new_empty(batch, length, height, width, conv.out_channels)
    made = result.view(batch, length, -1)
    mixed: dict[int, tuple[Tensor, Tensor | None]] = {}
    for window in _tables(length, winograd.FIRST if before is None else before.shape[2], frames.dtype):
        if id(window.taps) not in mixed:
            bias = None if conv.bias is None else window.bias[:, None] * conv.bias
            mixed[id(window.taps)] = window.taps @ taps, bias
        span = slice(window.start, window.stop)
        for sample in range(batch):
            mixtures = window.inputs @ rows[sample, window.first : window.stop]
            if ahead is not None and window.before.any():
                mixtures.addmm_(window.before, ahead[sample])
            products = _convolved(mixtures.view(-1, height, width, conv.in_channels), *mixed[id(window.taps)], conv)
            if sums is None:
                torch.mm(window.results, products, out=made[sample, span])
            else:
                torch.addmm(sums[sample, span], window.results, products, out=made[sample, span])
    return result.permute(0, 4, 1, 2, 3)


def _convolved(mixtures: Tensor, weights: Tensor, bias: Tensor | None, conv: Conv3d) -> Tensor:
    """Each mixture (P, H, W, C) by its weights, as rows (P, H * W * O)."""
    number, height, width, inputs = mixtures.shape
    products = mixtures.new_empty(number, height, width, conv.out_channels)
    for i in range(number):
        kernel = weights[i].view(conv.out_channels, 3, 3, inputs).permute(0, 3, 1, 2)
        picture = mixtures[i : i + 1].permute(0, 3, 1, 2)
        product = functional.conv2d(picture, kernel, None if bias is None else bias[i], padding=1)
        products[i] = product[0].permute(1, 2, 0)
    return products.view(number, -1)


def _rows(frames: Tensor) -> Tensor:
    """(B, C, T, H, W) -> (B, T, H * W * C)."""
    return frames.permute(0, 2, 3, 4, 1).flatten(2)
