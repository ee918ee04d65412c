"""Resizing frames so that they cover a size, then cutting the middle, as Open-Sora 1.0 to 1.2 do.

Videos are resized bilinearly with half-pixel centres and without antialiasing; pictures by Pillow, bicubic, in whole
levels. Both cut in the middle, but round the place of an odd rest differently (quirk Q24).
Source: opensora/datasets/utils.py of hpcaitech Open-Sora at v1.2.0.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

from ..errors import ShapeError


def cover_video(frames: np.ndarray, height: int, width: int) -> np.ndarray:
    """uint8 (T, H, W, 3) to float32 (T, height, width, 3) in [0, 1]."""
    rows, columns = _covering(frames.shape[1:3], height, width)
    resized = resize_bilinear(_unit(frames), rows, columns)
    return _cut(resized, int((rows - height) / 2), int((columns - width) / 2), height, width)


def cover_picture(picture: np.ndarray, height: int, width: int) -> np.ndarray:
    """uint8 (H, W, 3) to uint8 (height, width, 3)."""
    rows, columns = _covering(picture.shape[:2], height, width)
    resized = _resize_picture(picture, rows, columns, Image.Resampling.BICUBIC)
    return _cut(resized[None], round((rows - height) / 2), round((columns - width) / 2), height, width)[0]


def centre_video(frames: np.ndarray, side: int) -> np.ndarray:
    """uint8 (T, H, W, 3) to a square, float32 (T, side, side, 3) in [0, 1]."""
    scale = side / min(frames.shape[1:3])
    rows, columns = (int(length * scale) for length in frames.shape[1:3])
    resized = resize_bilinear(_unit(frames), rows, columns, scale)
    return _cut(resized, round((rows - side) / 2), round((columns - side) / 2), side, side)


def centre_video_rounded_up(frames: np.ndarray, side: int) -> np.ndarray:
    """As centre_video, by a longer side that is rounded up, as VideoGPT does."""
    rows, columns = (-(-length * side // min(frames.shape[1:3])) for length in frames.shape[1:3])
    resized = resize_bilinear(_unit(frames), rows, columns)
    return _cut(resized, (rows - side) // 2, (columns - side) // 2, side, side)


def centre_picture(picture: np.ndarray, side: int) -> np.ndarray:
    """uint8 (H, W, 3) to a square, uint8 (side, side, 3); far larger ones are halved by averaging first."""
    while min(picture.shape[:2]) >= 2 * side:
        picture = _resize_picture(picture, picture.shape[0] // 2, picture.shape[1] // 2, Image.Resampling.BOX)
    scale = side / min(picture.shape[:2])
    rows, columns = (round(length * scale) for length in picture.shape[:2])
    resized = _resize_picture(picture, rows, columns, Image.Resampling.BICUBIC)
    return _cut(resized[None], (rows - side) // 2, (columns - side) // 2, side, side)[0]


def resize_bilinear(frames: np.ndarray, height: int, width: int, scale: float | None = None) -> np.ndarray:
    """float32 (T, H, W, C) to (T, height, width, C); scale: new pixels per old one, None: as the sizes say."""
    return _resize_axis(_resize_axis(frames, 1, height, scale), 2, width, scale)


def _covering(size: tuple[int, ...], height: int, width: int) -> tuple[int, int]:
    """The smallest size with a picture's proportion that covers height x width."""
    if min(height, width) < 1:
        raise ShapeError(f"frames cannot be resized to {height} x {width} pixels: both sides must be at least 1")
    by_height, by_width = height / size[0], width / size[1]
    if by_height > by_width:
        return height, round(size[1] * by_height)
    return round(size[0] * by_width), width


def _cut(frames: np.ndarray, top: int, left: int, height: int, width: int) -> np.ndarray:
    return frames[:, top : top + height, left : left + width]


def _unit(frames: np.ndarray) -> np.ndarray:
    return np.divide(frames, np.float32(255), dtype=np.float32)


def _resize_picture(picture: np.ndarray, height: int, width: int, way: Image.Resampling) -> np.ndarray:
    return np.asarray(Image.fromarray(picture).resize((width, height), way))


def _resize_axis(frames: np.ndarray, axis: int, new_size: int, scale: float | None) -> np.ndarray:
    size = frames.shape[axis]
    step = size / new_size if scale is None else 1 / scale
    centres = np.maximum((np.arange(new_size) + 0.5) * step - 0.5, 0.0)
    first = np.minimum(centres.astype(np.int64), size - 1)
    second = np.minimum(first + 1, size - 1)
    part = (centres - first).astype(np.float32).reshape([-1 if each == axis else 1 for each in range(frames.ndim)])
    return frames.take(first, axis) * (1 - part) + frames.take(second, axis) * part
