"""Rotary position tables, in three dimensions and along time only.

In three dimensions a head is split in equal parts for time, height and width; each part of size d turns its pairs
(j, j + d / 2) by position / scale * 10000^(-2 j / d). Tables are computed in float64 and used for self-attention
queries and keys.
Source: Su et al. 2021, arXiv:2104.09864; opensora/models/diffusion/opensora_v1_3 for the split in three.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from ..shapes import TokenGrid

BASE = 10000.0
NUM_PARTS = 3
"""Parts of a head: time, height, width."""


def inverse_frequencies(width: int) -> np.ndarray:
    """Turn of each pair of a part of so many channels from one position to the next, (width / 2,) float64."""
    return BASE ** (-np.arange(0, width, 2) / width)


@lru_cache(maxsize=8)
def frame_rope_tables(grid: TokenGrid, head_dim: int) -> tuple[np.ndarray, np.ndarray]:
    """Cosines and signed sines of the frame of every token in its order, each (N, head_dim) float32, read-only.

    As rope_tables, but the pairs are neighbours: swapped is x with channels 2 j and 2 j + 1 exchanged.
    """
    angles = np.arange(grid.frames)[:, None] * inverse_frequencies(head_dim)
    cosines, sines = np.cos(angles), np.sin(angles)
    return _of_tokens(grid, cosines, cosines), _of_tokens(grid, -sines, sines)


def _of_tokens(grid: TokenGrid, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Numbers of both channels of all pairs (T, head_dim / 2) as a table of all tokens."""
    of_frames = np.stack([first, second], -1).reshape(grid.frames, -1).astype(np.float32)
    table = np.repeat(of_frames, grid.height * grid.width, axis=0)
    table.flags.writeable = False
    return table


@lru_cache(maxsize=8)
def rope_tables(
    grid: TokenGrid, head_dim: int, scale: tuple[float, float, float], shares_tables: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Cosines and signed sines for every token of a grid in its order, each (N, head_dim) float32, read-only.

    A vector x is turned to x * cosines + swapped * sines, where swapped is x with the two halves of each part
    exchanged; the sines of the first halves carry the minus sign. `scale` divides the positions along time, height
    and width. With `shares_tables`, axes of equal length all use the table of the first one, as upstream's cache does
    (quirk Q4).
    """
    part = head_dim // NUM_PARTS
    inverse_frequency = inverse_frequencies(part)
    cosines = np.empty((*grid, NUM_PARTS, part), np.float32)
    sines = np.empty_like(cosines)
    scale_of_length: dict[int, float] = {}
    for axis, length in enumerate(grid):
        axis_scale = scale_of_length.setdefault(length, scale[axis]) if shares_tables else scale[axis]
        angles = (np.arange(length) / axis_scale)[:, None] * inverse_frequency
        shape = [1, 1, 1, part]
        shape[axis] = length
        cosines[..., axis, :] = np.concatenate([np.cos(angles), np.cos(angles)], -1).reshape(shape)
        sines[..., axis, :] = np.concatenate([-np.sin(angles), np.sin(angles)], -1).reshape(shape)
    cosines, sines = cosines.reshape(grid.num_tokens, head_dim), sines.reshape(grid.num_tokens, head_dim)
    cosines.flags.writeable = sines.flags.writeable = False
    return cosines, sines
