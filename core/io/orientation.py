"""How a stored picture is turned and mirrored to be the one that a player shows."""

from __future__ import annotations

from collections.abc import Sequence
from math import atan2, degrees
from typing import NamedTuple

import numpy as np

TILT_DEGREES = 1.0
"""FFmpeg takes smaller ones for none."""
NO_TURN = (1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
"""The display matrix of a picture that is shown as it is stored."""


class Orientation(NamedTuple):
    """One of the eight: rows and columns change places or not, then each axis is mirrored or not."""

    transposes: bool = False
    mirrors_rows: bool = False
    """The top row becomes the bottom one."""
    mirrors_columns: bool = False

    @classmethod
    def of_matrix(cls, matrix: Sequence[int]) -> Orientation:
        """Of a display matrix (a b u, c d v, x y w), by which a pixel goes to (a x + c y, b x + d y).

        A matrix that turns by another angle than a quarter's multiple counts as the nearest one that does not.
        """
        a, b, c, d = (int(matrix[place]) for place in (0, 1, 3, 4))
        if abs(b) + abs(c) > abs(a) + abs(d):
            return cls(True, b < 0, c < 0)
        return cls(False, d < 0, a < 0)

    def apply(self, picture: np.ndarray) -> np.ndarray:
        """A stored picture (H, W, ...) as it is shown, as a view."""
        if self.transposes:
            picture = picture.swapaxes(0, 1)
        return picture[:: -1 if self.mirrors_rows else 1, :: -1 if self.mirrors_columns else 1]


def angle(matrix: Sequence[int]) -> float:
    """Degrees counter-clockwise by which a display matrix turns, mirrors aside."""
    return -degrees(atan2(int(matrix[1]), int(matrix[0])))


def tilt(matrix: Sequence[int]) -> float:
    """Degrees by which a display matrix turns beyond multiples of a quarter; 0 where FFmpeg takes it for none."""
    turned = angle(matrix)
    beyond = turned - 90 * round(turned / 90)
    return beyond if abs(beyond) > TILT_DEGREES else 0.0
