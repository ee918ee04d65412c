"""What is done to videos (B, C, T, H, W) without weights: folding, doubling, Haar bands, attention in frames."""

from __future__ import annotations

from collections.abc import Callable

from mindspore import Tensor, mint, ops
from mindspore.mint import cat

from duosora.core.maths.haar import TAP_2D, TAP_3D

from .layers import cast, to_float32
from .operators import exchange, softmax


def channels_innermost(x: Tensor) -> Tensor:
    """A video (B, C, T, H, W) as it is: MindSpore's tensors have one memory order."""
    return x


def fold_frames(x: Tensor) -> Tensor:
    """(B, C, T, H, W) -> (B * T, C, H, W)."""
    batch, channels, frames, height, width = x.shape
    return exchange(x.reshape(batch, channels, frames, height * width)).reshape(-1, channels, height, width)


def unfold_frames(x: Tensor, batch: int) -> Tensor:
    """(B * T, C, H, W) -> (B, C, T, H, W)."""
    frames, (channels, height, width) = x.shape[0] // batch, x.shape[1:]
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
    return ops.pad(x, (0, 1, 0, 1))


def frame_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention with one head among the positions of each frame by itself; all (B, C, T, H, W)."""
    batch, channels, frames, height, width = q.shape

    def positions(x: Tensor) -> Tensor:
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
    frames = ops.interpolate(fold_frames(x), size=(2 * height, 2 * width), mode="bilinear", align_corners=False)
    return unfold_frames(frames, x.shape[0])


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
    before = cat([x[:, :, :1], x[:, :, :-1]], 2)
    after = cat([x[:, :, 1:], x[:, :, -1:]], 2)
    return interleave(x + 0.25 * (before - x), x + 0.25 * (after - x), 2)


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
