"""What is done to videos (B, C, T, H, W) without weights: folding, doubling, Haar bands, attention in frames."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
from mindspore import Tensor, mint, ops
from mindspore.mint import cat

from duosora.core.maths.haar import TAP_2D, TAP_3D

from .layers import cast, device_of, to_float32
from .operators import exchange, is_plain, linear, pad_end, softmax
from .precision import to_tensor

_TURNED = ops.MatMul(transpose_a=True)
"""A^T B."""


def channels_innermost(x: Tensor) -> Tensor:
    """A video (B, C, T, H, W) in the memory order that spares convolutions, channel norms and folding their copies.

    That is a CPU's, where no gradients are asked for; elsewhere a video is left as it is.
    """
    if is_plain() or device_of(x) != "CPU" or not x.is_contiguous():
        return x
    clips = [_TURNED(clip.reshape(x.shape[1], -1), _diagonal(x.shape[1])) for clip in ops.split(x, 1)]
    return ops.stack(clips, 0).reshape(x.shape[0], *x.shape[2:], x.shape[1]).permute(0, 4, 1, 2, 3)


def fold_frames(x: Tensor) -> Tensor:
    """(B, C, T, H, W) -> (B * T, C, H, W)."""
    batch, channels, frames, height, width = x.shape
    if not x.is_contiguous():
        return x.permute(0, 2, 3, 4, 1).reshape(-1, height, width, channels).permute(0, 3, 1, 2)
    return exchange(x.reshape(batch, channels, frames, height * width)).reshape(-1, channels, height, width)


def unfold_frames(x: Tensor, batch: int) -> Tensor:
    """(B * T, C, H, W) -> (B, C, T, H, W)."""
    frames, (channels, height, width) = x.shape[0] // batch, x.shape[1:]
    if not x.is_contiguous():
        return x.permute(0, 2, 3, 1).reshape(batch, frames, height, width, channels).permute(0, 4, 1, 2, 3)
    return exchange(x.reshape(batch, frames, channels, height * width)).reshape(batch, channels, frames, height, width)


def by_frames(function: Callable[[Tensor], Tensor], x: Tensor, at_a_time: int | None, weight: Tensor) -> Tensor:
    """A function of pictures (N, C, H, W) applied to the frames of (B, C, T, H, W), float32.

    at_a_time: how many of them it is given together, in the dtype of the weight; None: all.
    """
    frames = fold_frames(x)
    size = at_a_time or frames.shape[0]
    parts = [
        to_float32(function(cast(frames[start : start + size], like=weight)))
        for start in range(0, frames.shape[0], size)
    ]
    return unfold_frames(cat(parts, 0), x.shape[0])


def unit_channels(x: Tensor, eps: float) -> Tensor:
    """The channels of each pixel of (B, C, H, W) scaled to length 1 in float32; eps is a length added in quadrature.

    So pixels of zeros stay zeros, and the slope there is finite.
    """
    x = to_float32(x)
    return x * ops.rsqrt((x * x).sum(1, keepdims=True) + eps**2)


def pad_right_and_bottom(x: Tensor) -> Tensor:
    """One column and one row of zeros at the ends of (..., H, W)."""
    return pad_end(pad_end(_planes(x), x.ndim - 1, 1), x.ndim - 2, 1)


def frame_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention with one head among the positions of each frame by itself; all (B, C, T, H, W)."""
    batch, channels, frames, height, width = q.shape

    def positions(x: Tensor) -> Tensor:  # a view where channels are innermost
        return x.permute(0, 2, 3, 4, 1).reshape(batch * frames, height * width, channels)

    mixed = position_attention(positions(q), positions(k), positions(v))
    return mixed.reshape(batch, frames, height, width, channels).permute(0, 4, 1, 2, 3)


def position_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention with one head among the positions of each sample; all (B, N, C)."""
    scores = to_float32(mint.bmm(q, k.swapaxes(1, 2))) * q.shape[2] ** -0.5
    return mint.bmm(cast(softmax(scores), like=v), v)


def double_space_linear(x: Tensor) -> Tensor:
    """Each frame twice as high and wide, bilinear with half-pixel centres: (B, C, T, H, W) -> (B, C, T, 2H, 2W)."""
    height, width = x.shape[3:]
    frames = fold_frames(_planes(x))
    frames = ops.interpolate(frames, size=(2 * height, 2 * width), mode="bilinear", align_corners=False)
    return _in_order_of(x, unfold_frames(frames, x.shape[0]))


def double_space_nearest(x: Tensor) -> Tensor:
    """Each frame twice as high and wide, pixels repeated: (B, C, T, H, W) -> (B, C, T, 2H, 2W)."""
    rows = interleave(x, x, 3)
    return interleave(rows, rows, 4)


def double_picture(x: Tensor) -> Tensor:
    """Twice as high and wide, pixels repeated: (B, C, H, W) -> (B, C, 2H, 2W)."""
    rows = interleave(x, x, 2)
    return interleave(rows, rows, 3)


def double_time_linear(x: Tensor) -> Tensor:
    """Two frames for each, linear with half-pixel centres and clamped ends: (B, C, T, H, W) -> (B, C, 2T, H, W)."""
    if x.shape[2] == 1:
        return double_time_nearest(x)  # the same then; of the empty slices below MindSpore has no gradient
    planes = _planes(x)
    before = cat([planes[:, :, :1], planes[:, :, :-1]], 2)
    after = cat([planes[:, :, 1:], planes[:, :, -1:]], 2)
    doubled = interleave(planes + 0.25 * (before - planes), planes + 0.25 * (after - planes), 2)
    return _in_order_of(x, doubled)


def double_time_nearest(x: Tensor) -> Tensor:
    """Each frame twice: (B, C, T, H, W) -> (B, C, 2T, H, W)."""
    planes = _planes(x)
    return _in_order_of(x, interleave(planes, planes, 2))


def channels_to_frames(x: Tensor) -> Tensor:
    """Pairs of neighbouring channels as pairs of frames: (B, 2C, T, H, W) -> (B, C, 2T, H, W)."""
    batch, channels, frames, height, width = x.shape
    pairs = x.reshape(batch, channels // 2, 2, frames, height, width).permute(0, 1, 3, 2, 4, 5)
    return pairs.reshape(batch, channels // 2, 2 * frames, height, width)


def interleave(even: Tensor, odd: Tensor, axis: int) -> Tensor:
    """The slices of two tensors (B, C, ...) by turns along an axis behind the channels."""
    return ops.stack([even, odd], axis + 1).flatten(axis, axis + 1)


def haar_analysis_3d(x: Tensor) -> Tensor:
    """Haar bands of 2 x 2 x 2 blocks: (B, C, T, H, W) -> (B, 8 * C, T // 2, H // 2, W // 2), computed in float32.

    Channels are band-major, in the order of core.maths.haar.BANDS_3D.
    """
    return cast(TAP_3D * _split_pairs(_split_pairs(_split_pairs(to_float32(_planes(x)), 4), 3), 2), like=x)


def haar_synthesis_3d(bands: Tensor) -> Tensor:
    """The inverse of haar_analysis_3d, up to 8 * TAP_3D ** 2: (B, 8 * C, T, H, W) -> (B, C, 2T, 2H, 2W)."""
    return cast(TAP_3D * _join_pairs(_join_pairs(_join_pairs(to_float32(_planes(bands)), 2), 3), 4), like=bands)


def haar_analysis_2d(x: Tensor) -> Tensor:
    """Haar bands of 2 x 2 blocks of each frame: (B, C, T, H, W) -> (B, 4 * C, T, H // 2, W // 2), computed in float32.

    Channels are band-major, in the order of core.maths.haar.BANDS_2D.
    """
    return cast(TAP_2D * _split_pairs(_split_pairs(to_float32(_planes(x)), 3), 4), like=x)


def haar_synthesis_2d(bands: Tensor) -> Tensor:
    """The inverse of haar_analysis_2d: (B, 4 * C, T, H, W) -> (B, C, T, 2H, 2W)."""
    return cast(TAP_2D * _join_pairs(_join_pairs(to_float32(_planes(bands)), 4), 3), like=bands)


def _planes(x: Tensor) -> Tensor:
    """(B, C, ...) with its memory in the order of the axes, by a product, six times as fast as MindSpore transposes."""
    if x.is_contiguous():
        return x
    rows = to_float32(x).permute(0, *range(2, x.ndim), 1).reshape(x.shape[0], -1, x.shape[1])
    planes = [linear(_diagonal(x.shape[1]), clip.reshape(clip.shape[1:])) for clip in ops.split(rows, 1)]
    return cast(ops.stack(planes, 0).reshape(x.shape), like=x)


def _in_order_of(x: Tensor, planes: Tensor) -> Tensor:
    """Planes in the memory order of another video."""
    return planes if x.is_contiguous() else channels_innermost(planes)


@lru_cache(maxsize=32)
def _diagonal(width: int) -> Tensor:
    return to_tensor(np.eye(width, dtype=np.float32))


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
