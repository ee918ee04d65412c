"""Many pictures as one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

PADDING = 2
"""Black pixels around each picture."""


def picture_grid(pictures: Sequence[np.ndarray], columns: int) -> np.ndarray:
    """Pictures (H, W, 3) uint8 of one size in rows of so many, with a black frame around each."""
    height, width, _ = pictures[0].shape
    columns = min(columns, len(pictures))
    rows = -(-len(pictures) // columns)
    grid = np.zeros((rows * (height + PADDING) + PADDING, columns * (width + PADDING) + PADDING, 3), np.uint8)
    for number, picture in enumerate(pictures):
        row, column = divmod(number, columns)
        top, left = row * (height + PADDING) + PADDING, column * (width + PADDING) + PADDING
        grid[top : top + height, left : left + width] = picture
    return grid
