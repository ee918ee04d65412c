"""Resizing and cropping of frames, as the published data pipeline and image conditioning do it.

Bilinear with antialiasing, and with the scale of align_corners=True: (size - 1) / (new_size - 1) instead of size /
new_size. torch takes that scale but still places output pixel i at scale * (i + 0.5), so the picture shifts by up to
half a pixel; the published models were trained so. uint8 frames are rounded after each of the two passes, with
weights in fixed point, which equals torch's result bit for bit.
Sources: Open-Sora Plan v1.3, opensora/dataset/transform.py; torch.nn.functional.interpolate.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from ..errors import ShapeError


class Box(NamedTuple):
    """A rectangle of pixels."""

    top: int
    left: int
    height: int
    width: int


class Taps(NamedTuple):
    """The weighted sum that makes each output pixel of one axis; both are (new size, taps)."""

    sources: np.ndarray
    weights: np.ndarray
    """Rows sum to 1; taps beyond the edge have weight 0."""


def resize(frames: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize frames (T, H, W, C) to (T, height, width, C).

    uint8 gives uint8; anything else is computed and returned in float32. Raises: ShapeError when a side is not
    positive.
    """
    _check_frames(frames)
    if height < 1 or width < 1:
        raise ShapeError(f"frames cannot be resized to {height} x {width} pixels: both sides must be at least 1")
    is_integer = frames.dtype == np.uint8
    resized = np.empty((frames.shape[0], height, width, frames.shape[3]), np.uint8 if is_integer else np.float32)
    one_axis = _resize_axis_uint8 if is_integer else _resize_axis_float
    for frame, result in zip(frames, resized, strict=True):
        result[...] = one_axis(one_axis(frame, 1, width), 0, height)
    return resized


def center_crop_resize(frames: np.ndarray, height: int, width: int) -> np.ndarray:
    """Cut the largest centred part with the proportions height : width out of frames (T, H, W, C), then resize it."""
    _check_frames(frames)
    return resize(crop(frames, centred_box(frames.shape[1], frames.shape[2], height, width)), height, width)


def resize_to_area(frames: np.ndarray, max_area: int, stride: int) -> np.ndarray:
    """Shrink frames (T, H, W, C) to at most max_area pixels, then cut both sides, centred, to multiples of stride.

    Raises: ShapeError when a side is shorter than the stride.
    """
    _check_frames(frames)
    height, width = size_within_area(frames.shape[1], frames.shape[2], max_area)
    box = stride_box(height, width, stride)
    return crop(resize(frames, height, width), box)


def crop(frames: np.ndarray, box: Box) -> np.ndarray:
    """The part of frames (T, H, W, C) inside a box, as a view."""
    return frames[:, box.top : box.top + box.height, box.left : box.left + box.width]


def centred_box(height: int, width: int, target_height: int, target_width: int) -> Box:
    """The largest centred box with the target's proportions; sizes are rounded down, offsets half to even."""
    proportion = target_height / target_width
    if height / width > proportion:
        box_height, box_width = int(width * proportion), width
    else:
        box_height, box_width = height, int(height / proportion)
    if box_height < 1 or box_width < 1:
        raise ShapeError(
            f"a picture of {height} x {width} pixels has no part with the proportions {target_height} : {target_width}"
        )
    return Box(round((height - box_height) / 2), round((width - box_width) / 2), box_height, box_width)


def size_within_area(height: int, width: int, max_area: int) -> tuple[int, int]:
    """Height and width, shrunk by one factor and rounded down if their product is more than max_area."""
    if height * width <= max_area:
        return height, width
    factor = float(np.sqrt(max_area / (height * width)))
    return int(height * factor), int(width * factor)


def stride_box(height: int, width: int, stride: int) -> Box:
    """The centred box whose sides are the largest multiples of stride; offsets are rounded down.

    Raises: ShapeError when a side is shorter than the stride.
    """
    box = whole_strides(height, width, stride)
    if not box.height or not box.width:
        raise ShapeError(
            f"a picture of {height} x {width} pixels is too small: both sides must be at least {stride} pixels"
        )
    return box


def whole_strides(height: int, width: int, stride: int) -> Box:
    """As stride_box, with a side of 0 where it is shorter than the stride."""
    box_height, box_width = height // stride * stride, width // stride * stride
    return Box((height - box_height) // 2, (width - box_width) // 2, box_height, box_width)


@lru_cache(maxsize=64)
def antialias_taps(size: int, new_size: int) -> Taps:
    """The weights, float64, of a triangle filter as wide as two source pixels or, when shrinking, two output pixels."""
    scale = (size - 1) / (new_size - 1) if new_size > 1 else 0.0
    support = max(scale, 1.0)
    centres = scale * (np.arange(new_size) + 0.5)
    first = np.maximum((centres - support + 0.5).astype(np.int64), 0)
    end = np.minimum((centres + support + 0.5).astype(np.int64), size)
    sources = first[:, None] + np.arange((end - first).max())
    weights = np.maximum(1.0 - np.abs((sources - centres[:, None] + 0.5) / support), 0.0)
    weights[sources >= end[:, None]] = 0.0
    weights /= weights.sum(axis=1, keepdims=True)
    return Taps(np.minimum(sources, size - 1), weights)


@lru_cache(maxsize=64)
def _fixed_point(size: int, new_size: int) -> tuple[np.ndarray, np.ndarray, int]:
    """Sources, whole-number weights, and the bits after their point: as many as let the largest fit 16 bits."""
    sources, weights = antialias_taps(size, new_size)
    bits = 0
    while bits < 22 and int(0.5 + weights.max() * 2 ** (bits + 1)) < 2**15:
        bits += 1
    return sources, (0.5 + weights * 2**bits).astype(np.int32), bits


def _resize_axis_uint8(frame: np.ndarray, axis: int, new_size: int) -> np.ndarray:
    """One axis of a uint8 frame (H, W, C)."""
    if frame.shape[axis] == new_size:
        return frame
    sources, weights, bits = _fixed_point(frame.shape[axis], new_size)
    total = _weighted_sum(frame, axis, sources, weights)
    return np.clip((total + (1 << (bits - 1))) >> bits, 0, 255).astype(np.uint8)


def _resize_axis_float(frame: np.ndarray, axis: int, new_size: int) -> np.ndarray:
    """One axis of a frame (H, W, C), in float32."""
    if frame.shape[axis] == new_size:
        return frame.astype(np.float32, copy=False)
    sources, weights = antialias_taps(frame.shape[axis], new_size)
    return _weighted_sum(frame.astype(np.float32, copy=False), axis, sources, weights.astype(np.float32))


def _weighted_sum(frame: np.ndarray, axis: int, sources: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Sum over taps of weight * source, in the weights' dtype; a dense matrix would be nearly all zeros."""
    height, width, channels = frame.shape
    rows = frame.reshape(height, width * channels)
    if axis == 0:
        return _sum_of_taps(rows, 0, sources, weights[:, :, None]).reshape(-1, width, channels)
    # Rows of numbers instead of rows of pixels: numpy is slow at products along an axis of three.
    places = (sources[:, None] * channels + np.arange(channels)[:, None]).reshape(-1, sources.shape[1])
    return _sum_of_taps(rows, 1, places, weights.repeat(channels, axis=0)).reshape(height, -1, channels)


def _sum_of_taps(rows: np.ndarray, axis: int, sources: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Over (H, W * C); sources and weights have the taps second."""
    total = rows.take(sources[:, 0], axis=axis) * weights[:, 0]
    for tap in range(1, sources.shape[1]):
        total += rows.take(sources[:, tap], axis=axis) * weights[:, tap]
    return total


def _check_frames(frames: np.ndarray) -> None:
    if frames.ndim != 4 or 0 in frames.shape[1:3]:
        raise ShapeError(f"frames have shape {frames.shape}: expected (T, H, W, C) with at least one pixel")
