"""From decoded frames to what a model is trained on: cropped, resized, in [-1, 1].

Models that know text alone are trained on frames resized in float32; inpaint models on frames resized in whole levels,
as their condition pictures are when sampling.
Source: Open-Sora Plan v1.3, opensora/dataset/transform.py and the two data sets.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..config.data import DataSettings
from ..maths.cover import centre_picture, centre_video, centre_video_rounded_up, cover_picture, cover_video
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
        clip: np.ndarray | None = None
        for place, frame in enumerate(frames):
            # One by one: what lies between stays in the processor's cache, and in memory for 1080 x 1920 pixels.
            resized = self._one(frame[None])[0]
            if clip is None:
                clip = np.empty((3, len(frames), *resized.shape[:2]), resized.dtype)
            clip[:, place] = (resized if self.in_levels else _signed(resized)).transpose(2, 0, 1)
        assert clip is not None
        return clip

    def _one(self, frame: np.ndarray) -> np.ndarray:
        pixels = frame if self.in_levels else _unit(frame)
        if self.size is None:
            return resize_to_area(pixels, self.max_area, self.stride)
        return center_crop_resize(pixels, *self.size)


@dataclass(frozen=True)
class Cover:
    """How the frames of a bucket's clips become frames of a model (core.maths.cover)."""

    height: int
    width: int
    is_picture: bool

    def __call__(self, frames: np.ndarray) -> np.ndarray:
        """uint8 (T, H, W, 3) to (3, T, height, width), float32 in [-1, 1]."""
        clip = np.empty((3, len(frames), self.height, self.width), np.float32)
        for place, frame in enumerate(frames):  # one by one, as above
            clip[:, place] = _signed(self._one(frame)).transpose(2, 0, 1)
        return clip

    def _one(self, frame: np.ndarray) -> np.ndarray:
        if self.is_picture:
            return _unit(cover_picture(frame, self.height, self.width))
        return cover_video(frame[None], self.height, self.width)[0]


@dataclass(frozen=True)
class ShorterSide(Cover):
    """How VideoGPT's autoencoders see clips: as squares whose sides are the shorter ones."""

    def _one(self, frame: np.ndarray) -> np.ndarray:
        return centre_video_rounded_up(frame[None], self.height)[0]


@dataclass(frozen=True)
class Square(Cover):
    """How pictures and clips of classes become those of a model."""

    def _one(self, frame: np.ndarray) -> np.ndarray:
        if self.is_picture:
            return _unit(centre_picture(frame, self.height))
        return centre_video(frame[None], self.height)[0]


def to_signed(clip: np.ndarray) -> np.ndarray:
    """What a Transform made, float32 in [-1, 1] in either case."""
    return _signed(_unit(clip)) if clip.dtype == np.uint8 else clip


def _unit(levels: np.ndarray) -> np.ndarray:
    """uint8 to float32 in [0, 1]."""
    return np.divide(levels, np.float32(255), dtype=np.float32)


def _signed(pixels: np.ndarray) -> np.ndarray:
    """[0, 1] to [-1, 1]."""
    signed = np.multiply(pixels, np.float32(2))
    signed -= np.float32(1)
    return signed


def cut_out(frames: np.ndarray, box: CropBox | None) -> np.ndarray:
    """The part of frames (T, H, W, 3) that an annotation's crop names; what lies outside the frames is left off."""
    return frames if box is None else frames[:, box.y0 : box.y1, box.x0 : box.x1]
