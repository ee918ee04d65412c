"""Convolutions of 3 x 3 x 3 that see the frames before each frame, never those behind it."""

from __future__ import annotations

from mindspore import Tensor, ops

from .layers import Conv3d, cat
from .operators import in_memory_order, pad_start

NUM_BEFORE = 2
"""Frames that a kernel of three looks back at."""


def convolve_causally(conv: Conv3d, frames: Tensor, before: Tensor | None, onto: Tensor | None = None) -> Tensor:
    """A convolution of 3 x 3 x 3 of frames (B, C, T, H, W): (B, O, T, H, W), added to `onto` if there is one.

    before: (B, C, 0 to 2, H, W), the frames in front, zeros in front of those; None: copies of the first frame.
    """
    result = conv(_extended(frames, before))
    return result if onto is None else in_memory_order(ops.add, onto, result)


def _extended(frames: Tensor, before: Tensor | None) -> Tensor:
    if before is None:
        return cat([frames[:, :, :1], frames[:, :, :1], frames], 2)
    if before.shape[2] == 0:
        return pad_start(frames, 2, NUM_BEFORE)
    return cat([pad_start(before, 2, NUM_BEFORE - before.shape[2]), frames], 2)
