"""Sinusoidal embeddings: frequencies for timesteps, tables for places within a frame."""

from __future__ import annotations

import numpy as np

MAX_PERIOD = 10000.0


def timestep_frequencies(channels: int) -> np.ndarray:
    """Angular frequencies exp(-ln(10000) i / (channels / 2)), (channels / 2,) float32.

    The embedding of timestep t is [cos(t * f), sin(t * f)], cosines first. The exponent is rounded to float32 before
    the exponential, as it was where the models were trained: at t = 999 the angles would be off by 2e-4 otherwise.
    Source: Ho et al. 2020 with diffusers' settings flip_sin_to_cos and downscale_freq_shift 0.
    """
    half = channels // 2
    exponent = np.arange(half, dtype=np.float32) * np.float32(-np.log(MAX_PERIOD)) / np.float32(half)
    return np.exp(exponent.astype(np.float64)).astype(np.float32)


def grid_embedding(height: int, width: int, channels: int, scale: float) -> np.ndarray:
    """Embedding of each place of a grid in its order, (height * width, channels) float32; channels a multiple of 4.

    Positions are counted on a square of as many places, round(sqrt(height * width)) a side, and divided by `scale`.
    The first half of the channels is of the column, the second of the row; sines before cosines in each.
    Source: hpcaitech Open-Sora at v1.2.0, PositionEmbedding2D.
    """
    side = round((height * width) ** 0.5)
    places = np.arange(height) / scale * side / height, np.arange(width) / scale * side / width
    return _of_places(*places, channels)


def counted_embedding(height: int, width: int, channels: int, scale: float) -> np.ndarray:
    """The same with the positions counted one by one along each side, whatever the other is."""
    return _of_places(np.arange(height) / scale, np.arange(width) / scale, channels)


def line_embedding(length: int, channels: int, scale: float) -> np.ndarray:
    """Embedding of the places 0, 1, ... divided by `scale`, (length, channels) float32, sines before cosines."""
    return _waves(np.arange(length) / scale, channels).astype(np.float32)


def _of_places(rows: np.ndarray, columns: np.ndarray, channels: int) -> np.ndarray:
    height, width = len(rows), len(columns)
    rows, columns = _waves(rows, channels // 2), _waves(columns, channels // 2)
    table = np.empty((height, width, channels), np.float32)
    table[..., : channels // 2], table[..., channels // 2 :] = columns[None], rows[:, None]
    return table.reshape(height * width, channels)


def _waves(positions: np.ndarray, channels: int) -> np.ndarray:
    """Sines, then cosines, of positions (P,), (P, channels) float64."""
    angles = positions[:, None] * MAX_PERIOD ** (-np.arange(0, channels, 2) / channels)
    return np.concatenate([np.sin(angles), np.cos(angles)], 1)


def squared_embedding(height: int, width: int, channels: int, scale: float, side: int) -> np.ndarray:
    """As grid_embedding, on a square of `side` places a side, whatever the grid is.

    Source: hpcaitech Open-Sora at v1.0.0, get_2d_sincos_pos_embed with a base_size.
    """
    rows, columns = (np.arange(size) / scale * side / size for size in (height, width))
    return _of_places(rows, columns, channels)
