"""From decoded pixels to those that a player shows: shape of the pixels, orientation, transparency."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from typing import NamedTuple

import numpy as np

from .media import Media, colour_of
from .orientation import NO_TURN, Orientation, tilt
from .video_reader import Note

WIDEST_PIXEL = 10
"""Pixels of other proportions than 1 : 10 to 10 : 1 are a mistake in the file and count as square."""


class Display(NamedTuple):
    """How the frames of a video are shown."""

    height: int
    """Of a frame as it is stored."""
    width: int
    pixel_shape: Fraction | None = None
    """Width of a stored pixel divided by its height; None where the file does not say."""
    matrix: tuple[int, ...] = NO_TURN
    """The display matrix, by which stored frames are turned and mirrored."""

    @property
    def orientation(self) -> Orientation:
        return Orientation.of_matrix(self.matrix)

    @property
    def shown_width(self) -> int:
        """Of a frame that is not turned yet, with square pixels; the height stays, as in players."""
        shape = self.pixel_shape
        if not shape or not Fraction(1, WIDEST_PIXEL) <= shape <= WIDEST_PIXEL:
            return self.width
        return max(round(self.width * shape), 1)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width as shown."""
        if self.orientation.transposes:
            return self.shown_width, self.height
        return self.height, self.shown_width

    def notes(self) -> Iterator[Note]:
        """What is unusual about it."""
        shape = self.pixel_shape
        if shape and shape != 1:
            stored = f"has {self.height} x {self.width} pixels of proportions {shape.numerator}:{shape.denominator}"
            if Fraction(1, WIDEST_PIXEL) <= shape <= WIDEST_PIXEL:
                yield Note("pixel shape", f"{stored}; it is read as {self.size[0]} x {self.size[1]}")
            else:
                yield Note("pixel shape", f"{stored}, which makes no sense; they count as square")
        if degrees := tilt(self.matrix):
            yield Note("tilted", f"is turned by {degrees:.3g} degrees beyond a quarter turn, which is left out")


def over_background(pixels: np.ndarray, media: Media) -> np.ndarray:
    """RGBA uint8 (H, W, 4), alpha not multiplied in, over the colour of the settings: (H, W, 3)."""
    alpha = pixels[..., 3:].astype(np.uint16)
    if alpha.min() == 255:
        return pixels[..., :3]
    behind = np.array(colour_of(media.background), np.uint16)
    mixed = pixels[..., :3] * alpha + behind * (255 - alpha)
    return ((mixed + 127) // 255).astype(np.uint8)
