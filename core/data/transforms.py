"""From decoded frames to what a model is trained on: cropped, resized, in [-1, 1].

Models that know text alone are trained on frames resized in float32; inpaint models on frames resized in whole levels,
as their condition pictures are when sampling.
Source: Open-Sora Plan v1.3, opensora/dataset/transform.py and the two data sets.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..config.data import DataSettings
from ..maths.resize import center_crop_resize, resize_to_area
from .records import CropBox


@dataclass(frozen=True)
class Transform:
    """How frames of any size become frames of a model; sent to the reading processes."""

    size: tuple[int, int] | None
    """Height and width; None keeps the proportions."""
    max_area: int
    stride: int
    in_levels: bool
    """Resize uint8 to uint8."""

    @classmethod
    def of(cls, settings: DataSettings) -> Transform:
        size = None
        if settings.max_area is None:
            assert settings.height is not None
            assert settings.width is not None
            size = (settings.height, settings.width)
        return cls(size, settings.max_area or 0, settings.stride, settings.masks is not None)

    def __call__(self, frames: np.ndarray) -> np.ndarray:
        """uint8 (T, H, W, 3) to (3, T, h, w): float32 in [-1, 1], or uint8 in levels.

        Raises: ShapeError when a frame is smaller than the stride.
        """
        # One by one: 93 frames of 1080 x 1920 pixels are 2.3 GB as float32.
        resized = np.stack([self._one(frame[None])[0] for frame in frames])
        clip = np.ascontiguousarray(resized.transpose(3, 0, 1, 2))
        return clip if self.in_levels else _signed(clip)

    def _one(self, frame: np.ndarray) -> np.ndarray:
        pixels = frame if self.in_levels else frame.astype(np.float32) / np.float32(255)
        if self.size is None:
            return resize_to_area(pixels, self.max_area, self.stride)
        return center_crop_resize(pixels, *self.size)


def to_signed(clip: np.ndarray) -> np.ndarray:
    """What a Transform made, float32 in [-1, 1] in either case."""
    return _signed(clip.astype(np.float32) / np.float32(255)) if clip.dtype == np.uint8 else clip


def _signed(pixels: np.ndarray) -> np.ndarray:
    return np.float32(2) * pixels - np.float32(1)


def cut_out(frames: np.ndarray, box: CropBox | None) -> np.ndarray:
    """The part of frames (T, H, W, 3) that an annotation's crop names; what lies outside the frames is left off."""
    return frames if box is None else frames[:, box.y0 : box.y1, box.x0 : box.x1]
