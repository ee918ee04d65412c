"""The operations that `duosora plan --calibrate` times on each backend and dtype.

Sizes are (rows, inputs, outputs) of a product; (groups, tokens, heads, width of a head) of attention; (inputs, outputs,
frames, side) of a convolution of 3 x 3, or of 3 x 3 x 3; and the shape of what is computed element by element.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import NamedTuple

Sizes = tuple[int, ...]


class Operation(NamedTuple):
    """What is timed."""

    name: str
    """As backends call it."""
    sizes: Sizes

    @property
    def place(self) -> tuple[int, int]:
        """Where its rate stands in a table: how many there are, and how wide."""
        sizes = self.sizes
        if self.name == "product":
            return sizes[0], sizes[1]
        if self.name == "attention":
            return sizes[1], sizes[3]
        return prod(sizes[2:-1]) * sizes[-1] ** 2, sizes[0]

    @property
    def work(self) -> int:
        """FLOP, or bytes in float32 of what is read and written element by element."""
        sizes = self.sizes
        if self.name == "product":
            return 2 * prod(sizes)
        if self.name == "attention":
            groups, tokens, heads, head_dim = sizes
            return 4 * groups * tokens**2 * heads * head_dim
        if self.name == "elementwise":
            return 4 * prod(sizes)
        inputs, outputs, frames, side = sizes
        kernel = 9 if self.name == "convolution_2d" else 27
        return 2 * inputs * outputs * kernel * frames * side**2


PRODUCTS: Sequence[Sizes] = [
    (rows, width, width) for rows, width in ((32, 96), (32, 384), (32, 1152), (1024, 96), (1024, 384), (1024, 1152))
]
ATTENTION: Sequence[Sizes] = [
    (512, 8, 4, 32),
    (512, 8, 4, 96),
    (1, 1024, 4, 32),
    (1, 1024, 4, 96),
    (16, 128, 4, 32),
    (16, 128, 4, 96),
]
PICTURES: Sequence[Sizes] = [
    (8, 8, 4, 128),
    (32, 32, 4, 64),
    (128, 128, 1, 64),
    (8, 8, 1, 16),
    (32, 32, 1, 16),
    (128, 128, 1, 16),
]
CLIPS: Sequence[Sizes] = [
    (8, 8, 4, 64),
    (32, 32, 4, 48),
    (128, 128, 4, 24),
    (8, 8, 2, 12),
    (32, 32, 2, 12),
    (128, 128, 2, 12),
]
ELEMENTS = (4_000_000,)
FEW = (16,)
"""So few that only the call itself takes time."""
OPERATIONS: Sequence[Operation] = [
    *(Operation("product", sizes) for sizes in PRODUCTS),
    *(Operation("attention", sizes) for sizes in ATTENTION),
    *(Operation("convolution_2d", sizes) for sizes in PICTURES),
    *(Operation("convolution_3d", sizes) for sizes in CLIPS),
]
"""Those whose rates are a table."""
