"""How long operations take on a device: rates that were measured on it, or shares of what its data sheet says."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import log2
from typing import Protocol

from ..models.work import Attention, Product

Point = tuple[float, float, float]
"""How many (rows, keys, places), how wide, and the rate there."""


class Rates(Protocol):
    """What times follow from; seconds, FLOP and bytes."""

    def product(self, product: Product) -> float:
        """Seconds of one of them."""

    def attention(self, attention: Attention) -> float:
        """Seconds of all of its times."""

    @property
    def elementwise(self) -> float:
        """Bytes a second that are read and written element by element."""

    @property
    def call(self) -> float:
        """Seconds that a call takes whatever its size."""

    @property
    def load(self) -> float:
        """Seconds for each weight that is read, checked and placed."""

    @property
    def draw(self) -> float:
        """Seconds for each weight that is drawn anew."""


@dataclass(frozen=True)
class Table:
    """Rates at a grid of points; between them logarithms are interpolated, outside the nearest counts."""

    points: Sequence[Point]

    def at(self, count: float, width: float) -> float:
        """The rate there."""
        counts = sorted({point[0] for point in self.points})
        return _between(counts, count, lambda each: self._along(each, width))

    def _along(self, count: float, width: float) -> float:
        row = {point[1]: point[2] for point in self.points if point[0] == count}
        return _between(sorted(row), width, lambda each: row[each])


@dataclass(frozen=True)
class Measured:
    """Rates of a calibration."""

    tables: Mapping[str, Table]
    """By names of operations."""
    elementwise: float
    call: float
    load: float
    draw: float

    def product(self, product: Product) -> float:
        rows, width = product.places, (product.inputs * product.outputs) ** 0.5
        if product.kernel == 1 or product.axes == 0:
            return product.flop / self.tables["product"].at(rows, width)
        name = "convolution_3d" if product.axes == 3 else "convolution_2d"
        return product.flop / self.tables[name].at(rows, width)

    def attention(self, attention: Attention) -> float:
        if not attention.flop:
            return 0.0
        keys = (attention.queries * attention.keys) ** 0.5
        return attention.flop / self.tables["attention"].at(keys, attention.head_dim)


@dataclass(frozen=True)
class Guessed:
    """Shares of a device's limits, in one dtype."""

    flop: float
    """A second, in products."""
    elementwise: float
    call: float
    load: float
    draw: float
    of_attention: float
    """Share of `flop` that attention reaches."""

    def product(self, product: Product) -> float:
        return max(product.flop / self.flop, 4 * product.inputs * product.outputs * product.kernel / self.elementwise)

    def attention(self, attention: Attention) -> float:
        return attention.flop / (self.flop * self.of_attention)


def _between(grid: Sequence[float], value: float, rate: Callable[[float], float]) -> float:
    """The rate at a value between two of a grid, by logarithms."""
    value = min(max(value, grid[0]), grid[-1])
    above = next(each for each in grid if each >= value)
    below = max(each for each in grid if each <= value)
    if above == below:
        return rate(above)
    share = (log2(value) - log2(below)) / (log2(above) - log2(below))
    return float(rate(below) ** (1 - share) * rate(above) ** share)
