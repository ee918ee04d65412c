"""Clips of any sizes in one batch: each as a list of patches, frame by frame and in a frame row by row, padded.

The first release of Open-Sora is trained like this; no clip is scaled or cut.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ..errors import ShapeError
from ..shapes import LatentShape


class Padded(NamedTuple):
    """Lists of unequal length in one array."""

    values: np.ndarray
    """(B, S, ...), zeros behind each list."""
    mask: np.ndarray
    """(B, S) int32: 1 for what belongs to the list."""


def patches_of(latents: np.ndarray, side: int, drops_rest: bool = False) -> np.ndarray:
    """(T, C, H, W) to (S, C, side, side). drops_rest: as upstream does with rows and columns that fill no patch.

    Raises: ShapeError for a size that patches do not tile, unless their rest is dropped.
    """
    frames, channels, height, width = latents.shape
    rows, columns = height // side, width // side
    if not drops_rest and (height % side or width % side):
        raise ShapeError(f"latents of {height} x {width}: need multiples of the patches' {side}")
    tiled = latents[:, :, : rows * side, : columns * side].reshape(frames, channels, rows, side, columns, side)
    return tiled.transpose(0, 2, 4, 1, 3, 5).reshape(-1, channels, side, side)


def latents_of(patches: np.ndarray, size: LatentShape) -> np.ndarray:
    """The way back: (S, C, P, P), padding behind them or not, to (T, C, H, W)."""
    channels, side = patches.shape[1:3]
    rows, columns = size.height // side, size.width // side
    tiled = patches[: size.frames * rows * columns].reshape(size.frames, rows, columns, channels, side, side)
    return tiled.transpose(0, 3, 1, 4, 2, 5).reshape(size.frames, channels, size.height, size.width)


def padded(lists: Sequence[np.ndarray], multiple: int = 1) -> Padded:
    """Lists (S_i, ...) with zeros up to the longest, and on to a multiple, such as the number of ranks."""
    longest = max(map(len, lists))
    length = -(-longest // multiple) * multiple
    values = np.zeros((len(lists), length, *lists[0].shape[1:]), lists[0].dtype)
    mask = np.zeros((len(lists), length), np.int32)
    for row, each in enumerate(lists):
        values[row, : len(each)] = each
        mask[row, : len(each)] = 1
    return Padded(values, mask)


def attention_mask(queries: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """Masks (B, Sq) and (B, Skv) to that of the attention, (B, 1, Sq, Skv): 1 where both are."""
    return queries[:, None, :, None] * keys[:, None, None, :]
