"""Masks of the inpaint sibling: which frames are given, and how a mask of pixels becomes channels beside the latents.

Convention everywhere: 1 = to generate, 0 = given.
Source: opensora/utils/mask_utils.py of Open-Sora Plan at 9fa322f.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from math import ceil, floor

import numpy as np

from ..errors import ConfigError, ShapeError

MASK_TYPES = ("t2iv", "i2v", "transition", "continuation", "clear", "random_temporal")
"""Nothing is given; the first frame; first and last; the first few; all; a few anywhere."""


def frame_mask(
    kind: str, num_frames: int, draw: random.Random, min_clear: float = 0.0, max_clear: float = 1.0
) -> np.ndarray:
    """The mask of a clip's frames, (T,) float32.

    "continuation" and "random_temporal" give between floor(T * min_clear) and ceil(T * max_clear) frames, as `draw`
    says; it is called as upstream calls it, so Python's generator with upstream's seed gives upstream's mask.
    Raises: ConfigError for another kind.
    """
    mask = np.ones(num_frames, np.float32)
    mask[_given_frames(kind, num_frames, draw, min_clear, max_clear)] = 0.0
    return mask


def masked_pixels(pixels: np.ndarray, mask: np.ndarray, black: float = 0.0) -> np.ndarray:
    """Pixels with what is to be generated set to black: 0 where they are 0..255, -1 in [-1, 1]; mask broadcasts."""
    return np.where(mask < 0.5, pixels, pixels.dtype.type(black))


def compress_mask(mask: np.ndarray, time: int, space: int) -> np.ndarray:
    """A mask of pixels (B, 1, T, H, W) brought to latent size, (B, time, t, H // space, W // space) float32.

    Each frame is resized bilinearly (half-pixel centres, no antialiasing). `time` neighbouring frames become the
    channels of one latent frame; where T is odd the first frame counts `time` times, as it has a latent frame of its
    own. Upstream asks for odd T and not for 1 + a multiple of `time` (quirk Q39), so an even T is folded without the
    repetition.
    Raises: ShapeError when the frames cannot be folded.
    """
    b, _, t, h, w = mask.shape
    frames = _bilinear(_bilinear(mask[:, 0].astype(np.float32), 2, h // space), 3, w // space)
    if t % 2:
        frames = np.concatenate([np.repeat(frames[:, :1], time, axis=1), frames[:, 1:]], axis=1)
    if frames.shape[1] % time:
        raise ShapeError(f"a mask of {t} frames cannot be folded by {time}: needs 1 + a multiple of {time} frames")
    return frames.reshape(b, -1, time, *frames.shape[2:]).swapaxes(1, 2)


def _given_frames(
    kind: str, num_frames: int, draw: random.Random, min_clear: float, max_clear: float
) -> Sequence[int] | slice:
    if kind == "t2iv":
        return []
    if kind == "i2v":
        return [0]
    if kind == "transition":
        return [0, -1]
    if kind == "clear":
        return slice(None)
    if kind not in MASK_TYPES:
        raise ConfigError(f"mask type {kind!r}: needs one of {', '.join(MASK_TYPES)}")
    count = draw.randint(floor(num_frames * min_clear), ceil(num_frames * max_clear))
    return slice(count) if kind == "continuation" else draw.sample(range(num_frames), count)


def _bilinear(x: np.ndarray, axis: int, new_size: int) -> np.ndarray:
    """Resize one axis by linear interpolation between the two nearest samples, clamped at the ends."""
    size = x.shape[axis]
    centres = np.maximum((np.arange(new_size) + 0.5) * (size / new_size) - 0.5, 0.0)
    below = np.floor(centres).astype(np.int64)
    shape = [1] * x.ndim
    shape[axis] = new_size
    above_part = (centres - below).astype(np.float32).reshape(shape)
    lower, upper = x.take(below, axis), x.take(np.minimum(below + 1, size - 1), axis)
    return lower * (1 - above_part) + upper * above_part
