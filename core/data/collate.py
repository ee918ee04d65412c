"""Clips of one micro-batch in one array, and which of its latents are no padding.

Source: Open-Sora Plan v1.3, Collate of opensora/utils/dataset_utils.py.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..shapes import Compression, LatentShape, Patch, VideoShape, latent_frames, next_length


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
    mask = _mask([_latents(shape, compression) for shape in shapes], _latents(padded, compression))
    return _padded(clips, padded), mask


def collate_moments(
    moments: Sequence[np.ndarray], compression: Compression, patch: Patch, box: VideoShape | None = None
) -> tuple[np.ndarray, np.ndarray | None]:
    """As `collate`, of moments (2C, t', h', w') that an autoencoder made of clips; box is of their pixels."""
    shapes = [LatentShape(*each.shape[1:]) for each in moments]
    largest = LatentShape(*np.max(shapes, axis=0).tolist())
    if box is not None:
        largest = _latents(box, compression)
    steps = (patch.time, patch.space, patch.space)
    padded = LatentShape(*(_up(size, step) for size, step in zip(largest, steps, strict=True)))
    return _padded(moments, padded), _mask(shapes, padded)


def _padded(arrays: Sequence[np.ndarray], shape: tuple[int, int, int]) -> np.ndarray:
    """Arrays (C, t, h, w) as one (B, C, T, H, W) float32, with zeros behind each."""
    if len(arrays) == 1 and arrays[0].shape[1:] == shape and arrays[0].dtype == np.float32:
        return arrays[0][None]  # the usual case with long clips, and a copy is no small thing there
    joined = np.zeros((len(arrays), len(arrays[0]), *shape), np.float32)
    for row, array in zip(joined, arrays, strict=True):
        frames, height, width = array.shape[1:]
        row[:, :frames, :height, :width] = array
    return joined


def _mask(valid: Sequence[LatentShape], padded: LatentShape) -> np.ndarray | None:
    """(B, t', h', w'), 1 where latents are valid; None where all are."""
    mask = np.zeros((len(valid), *padded), np.float32)
    for row, shape in zip(mask, valid, strict=True):
        row[: shape.frames, : shape.height, : shape.width] = 1.0
    return None if mask.all() else mask


def _whole_patches(shape: VideoShape, compression: Compression, patch: Patch) -> VideoShape:
    """The smallest shape from this one on whose latents are whole patches; the same one where the model pads itself."""
    if patch == Patch(1, 1):
        return shape
    frames, side = next_length(compression, shape.frames), compression.space * patch.space
    while latent_frames(compression, frames) % patch.time:
        frames = next_length(compression, frames + 1)
    return VideoShape(frames, _up(shape.height, side), _up(shape.width, side))


def _latents(shape: VideoShape, compression: Compression) -> LatentShape:
    """Latents that hold any pixel of a clip."""
    frames, space = latent_frames(compression, next_length(compression, shape.frames)), compression.space
    return LatentShape(frames, -(-shape.height // space), -(-shape.width // space))


def _up(size: int, step: int) -> int:
    return -(-size // step) * step
