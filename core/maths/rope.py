"""3-D rotary position tables.

A head is split in three equal parts for time, height and width; each part of size d turns its pairs (j, j + d / 2) by
position / scale * 10000^(-2 j / d). Tables are computed in float64 and used for self-attention queries and keys.
Source: Su et al. 2021, arXiv:2104.09864; opensora/models/diffusion/opensora_v1_3 for the split in three.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from ..shapes import TokenGrid

BASE = 10000.0
NUM_PARTS = 3
"""Parts of a head: time, height, width."""


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
    inverse_frequency = BASE ** (-np.arange(0, part, 2) / part)
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
