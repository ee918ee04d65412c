"""Convolutions of 3 x 3 x 3 that see the frames before each frame, never those behind it."""

from __future__ import annotations

from collections.abc import Callable

from mindspore import Tensor, ops

from .layers import Conv3d, cat
from .operators import in_memory_order, pad_start

NUM_BEFORE = 2
"""Frames that a kernel of three looks back at."""


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
    activation: of all frames, first.
    """
    result = conv(_extended(frames, before, activation))
    return result if onto is None else in_memory_order(ops.add, onto, result)


def _extended(frames: Tensor, before: Tensor | None, activation: Activation | None) -> Tensor:
    seen = frames if before is None or before.shape[2] == 0 else cat([before, frames], 2)
    seen = seen if activation is None else activation(seen)
    if before is None:
        return cat([seen[:, :, :1], seen[:, :, :1], seen], 2)
    return pad_start(seen, 2, NUM_BEFORE - before.shape[2])
