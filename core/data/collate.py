"""Clips of one micro-batch in one array, and which of its latents are no padding.

Source: Open-Sora Plan v1.3, Collate of opensora/utils/dataset_utils.py.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..shapes import Compression, LatentShape, Patch, VideoShape


def collate(
    clips: Sequence[np.ndarray], compression: Compression, patch: Patch, box: VideoShape | None = None
) -> tuple[np.ndarray, np.ndarray | None]:
    """Pixels (B, C, T, H, W) with zeros behind each clip (C, t, h, w), and the mask (B, t', h', w') of the latents.

    box: what every clip is padded to; None: the largest of them. Either is first rounded up to whole patches. The mask
    is None where all latents are valid. A latent that holds any pixel of a clip is valid.
    """
    shapes = [VideoShape(*clip.shape[1:]) for clip in clips]
    largest = VideoShape(*np.max(shapes, axis=0).tolist())
    padded = _whole_patches(box or largest, compression, patch)
    pixels = np.zeros((len(clips), len(clips[0]), *padded), np.float32)
    mask = np.zeros((len(clips), *_latents(padded, compression)), np.float32)
    for row, (clip, shape) in enumerate(zip(clips, shapes, strict=True)):
        pixels[row, :, : shape.frames, : shape.height, : shape.width] = clip
        valid = _latents(shape, compression)
        mask[row, : valid.frames, : valid.height, : valid.width] = 1.0
    return pixels, None if mask.all() else mask


def _whole_patches(shape: VideoShape, compression: Compression, patch: Patch) -> VideoShape:
    """The smallest shape from this one on whose latents are whole patches."""
    frames = _up(shape.frames - 1 + compression.time, compression.time * patch.time) + 1 - compression.time
    side = compression.space * patch.space
    return VideoShape(frames, _up(shape.height, side), _up(shape.width, side))


def _latents(shape: VideoShape, compression: Compression) -> LatentShape:
    """Latents that hold any pixel of a clip."""
    time, space = compression
    return LatentShape(1 + -(-(shape.frames - 1) // time), -(-shape.height // space), -(-shape.width // space))


def _up(size: int, step: int) -> int:
    return -(-size // step) * step
