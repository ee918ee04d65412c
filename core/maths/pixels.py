"""Pixels as levels 0 .. 255, as numbers in [0, 1], and in [-1, 1] as autoencoders see them."""

from __future__ import annotations

import numpy as np


def from_unit(pixels: np.ndarray) -> np.ndarray:
    """Pixels in [0, 1] to [-1, 1]."""
    return 2 * pixels - 1


def to_unit(video: np.ndarray) -> np.ndarray:
    """Pixels in [-1, 1] to [0, 1], not clamped."""
    return (video + 1) / 2


def from_uint8(pixels: np.ndarray) -> np.ndarray:
    """Pixel levels 0 .. 255, of any dtype, to float32 in [-1, 1]."""
    return from_unit(pixels.astype(np.float32) / 255)


def to_uint8(video: np.ndarray) -> np.ndarray:
    """Video (B, 3, T, H, W) in [-1, 1] to levels (B, T, H, W, 3) uint8, cut off rather than rounded (quirk Q41)."""
    levels = 255 * np.clip(video / 2 + 0.5, 0, 1)
    return levels.astype(np.uint8).transpose(0, 2, 3, 4, 1)


def to_nearest_uint8(video: np.ndarray) -> np.ndarray:
    """The same, rounded to the nearest level: as the evaluation of pictures expects it."""
    levels = np.clip(127.5 * video + 128, 0, 255)
    return levels.astype(np.uint8).transpose(0, 2, 3, 4, 1)
