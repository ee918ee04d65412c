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


PRODUCTS: Sequence[Sizes] = [(rows, width, width) for rows in (32, 1024) for width in (96, 384, 1152)]
ATTENTION: Sequence[Sizes] = [
    (groups, tokens, 4, head_dim) for groups, tokens in ((512, 8), (16, 128), (1, 1024)) for head_dim in (32, 96)
]
PICTURES: Sequence[Sizes] = [
    (width, width, frames, side) for frames, side in ((1, 16), (4, 64)) for width in (8, 32, 128)
]
CLIPS: Sequence[Sizes] = [(width, width, frames, side) for frames, side in ((2, 12), (4, 40)) for width in (8, 32, 128)]
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
