"""What is done to videos (B, C, T, H, W) without weights: folding, doubling, Haar bands, attention in frames."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, cat
from torch.nn import functional

from duosora.core.maths.haar import TAP_2D, TAP_3D

from .layers import cast, to_float32


def channels_innermost(x: Tensor) -> Tensor:
    """A video (B, C, T, H, W) in the memory order that spares convolutions, channel norms and folding their copies."""
    return x.contiguous(memory_format=torch.channels_last_3d)


def fold_frames(x: Tensor) -> Tensor:
    """(B, C, T, H, W) -> (B * T, C, H, W)."""
    batch, channels, frames, height, width = x.shape
    return x.permute(0, 2, 1, 3, 4).reshape(batch * frames, channels, height, width)


def unfold_frames(x: Tensor, batch: int) -> Tensor:
    """(B * T, C, H, W) -> (B, C, T, H, W)."""
    return x.unflatten(0, (batch, -1)).permute(0, 2, 1, 3, 4)


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
    x = x.float()
    return x * torch.rsqrt((x * x).sum(1, keepdim=True) + eps**2)


def pad_right_and_bottom(x: Tensor) -> Tensor:
    """One column and one row of zeros at the ends of (..., H, W)."""
    return functional.pad(x, (0, 1, 0, 1))


def frame_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention with one head among the positions of each frame by itself; all (B, C, T, H, W)."""
    batch, channels, frames, height, width = q.shape

    def positions(x: Tensor) -> Tensor:
        return x.permute(0, 2, 3, 4, 1).reshape(batch * frames, height * width, channels)

    mixed = position_attention(positions(q), positions(k), positions(v))
    return mixed.reshape(batch, frames, height, width, channels).permute(0, 4, 1, 2, 3)


def position_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention with one head among the positions of each sample; all (B, N, C)."""
    return functional.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None])[:, 0]


def double_space_linear(x: Tensor) -> Tensor:
    """Each frame twice as high and wide, bilinear with half-pixel centres: (B, C, T, H, W) -> (B, C, T, 2H, 2W)."""
    frames = functional.interpolate(fold_frames(x), scale_factor=2, mode="bilinear", align_corners=False)
    return unfold_frames(frames, x.shape[0])


def double_space_nearest(x: Tensor) -> Tensor:
    """Each frame twice as high and wide, pixels repeated: (B, C, T, H, W) -> (B, C, T, 2H, 2W)."""
    return unfold_frames(functional.interpolate(fold_frames(x), scale_factor=2, mode="nearest"), x.shape[0])


def double_picture(x: Tensor) -> Tensor:
    """Twice as high and wide, pixels repeated: (B, C, H, W) -> (B, C, 2H, 2W)."""
    return functional.interpolate(x, scale_factor=2, mode="nearest")


def double_time_linear(x: Tensor) -> Tensor:
    """Two frames for each, linear with half-pixel centres and clamped ends: (B, C, T, H, W) -> (B, C, 2T, H, W)."""
    before = cat([x[:, :, :1], x[:, :, :-1]], 2)
    after = cat([x[:, :, 1:], x[:, :, -1:]], 2)
    return interleave(torch.lerp(x, before, 0.25), torch.lerp(x, after, 0.25), 2)


def double_time_nearest(x: Tensor) -> Tensor:
    """Each frame twice: (B, C, T, H, W) -> (B, C, 2T, H, W)."""
    return interleave(x, x, 2)


def channels_to_frames(x: Tensor) -> Tensor:
    """Pairs of neighbouring channels as pairs of frames: (B, 2C, T, H, W) -> (B, C, 2T, H, W)."""
    batch, channels, frames, height, width = x.shape
    pairs = x.reshape(batch, channels // 2, 2, frames, height, width).permute(0, 1, 3, 2, 4, 5)
    return pairs.reshape(batch, channels // 2, 2 * frames, height, width)


def interleave(even: Tensor, odd: Tensor, axis: int) -> Tensor:
    """The slices of two tensors (B, C, ...) by turns along an axis behind the channels."""
    # Channels go last meanwhile, so that the result has them innermost in memory too; every axis is one lower then.
    pairs = torch.stack([even.movedim(1, -1), odd.movedim(1, -1)], axis)
    return pairs.flatten(axis - 1, axis).movedim(-1, 1)


def haar_analysis_3d(x: Tensor) -> Tensor:
    """Haar bands of 2 x 2 x 2 blocks: (B, C, T, H, W) -> (B, 8 * C, T // 2, H // 2, W // 2), computed in float32.

    Channels are band-major, in the order of core.maths.haar.BANDS_3D.
    """
    return (TAP_3D * _split_pairs(_split_pairs(_split_pairs(x.float(), 4), 3), 2)).to(x.dtype)


def haar_synthesis_3d(bands: Tensor) -> Tensor:
    """The inverse of haar_analysis_3d, up to 8 * TAP_3D ** 2: (B, 8 * C, T, H, W) -> (B, C, 2T, 2H, 2W)."""
    return (TAP_3D * _join_pairs(_join_pairs(_join_pairs(bands.float(), 2), 3), 4)).to(bands.dtype)


def haar_analysis_2d(x: Tensor) -> Tensor:
    """Haar bands of 2 x 2 blocks of each frame: (B, C, T, H, W) -> (B, 4 * C, T, H // 2, W // 2), computed in float32.

    Channels are band-major, in the order of core.maths.haar.BANDS_2D.
    """
    return (TAP_2D * _split_pairs(_split_pairs(x.float(), 3), 4)).to(x.dtype)


def haar_synthesis_2d(bands: Tensor) -> Tensor:
    """The inverse of haar_analysis_2d: (B, 4 * C, T, H, W) -> (B, C, T, 2H, 2W)."""
    return (TAP_2D * _join_pairs(_join_pairs(bands.float(), 4), 3)).to(bands.dtype)


def _split_pairs(x: Tensor, axis: int) -> Tensor:
    """Sums and, as further channels behind them, differences of neighbours along an axis; an odd one out is dropped."""
    first, second = x.narrow(axis, 0, x.shape[axis] // 2 * 2).unflatten(axis, (-1, 2)).unbind(axis + 1)
    return cat([first + second, first - second], 1)


def _join_pairs(x: Tensor, axis: int) -> Tensor:
    """The inverse of _split_pairs, up to a factor of 2."""
    sums, differences = x.chunk(2, 1)
    return interleave(sums + differences, sums - differences, axis)
