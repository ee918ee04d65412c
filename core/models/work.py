"""What a call of a model computes and keeps, counted from its layout and the shapes of its input.

A spec says at how many places each of its matrices is applied, and what attends to what; all else follows from the
shapes of the weights. Nothing here depends on a machine.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import NamedTuple

from ..layout import Layout


class Applied(NamedTuple):
    """At how many places matrices are applied."""

    part: str
    """Of the names of their weights: a weight belongs to the first entry whose part is in its name; "" is in all."""
    places: int
    """Tokens, latents or pixels of the result, over the batch; 0: it is a table, or not used."""
    once: bool = False
    """Before the first step of a run, for all of them; what comes of it stays in memory."""
    together: int = 0
    """How many of the places are in work at a time; 0: all."""
    frames: int = 1
    """Into which the places fall, where a stream of chunks keeps frames for the next one."""


class Attention(NamedTuple):
    """Attention of one kind in a call."""

    groups: int
    """That do not see each other, over the batch."""
    queries: int
    keys: int
    heads: int
    head_dim: int
    times: int = 1
    scored: int = 0
    """Groups whose scores are written out at a time; 0: the kernel keeps none."""

    @property
    def flop(self) -> int:
        """Two products of queries by keys."""
        return 4 * self.groups * self.queries * self.keys * self.heads * self.head_dim * self.times


class Product(NamedTuple):
    """A matrix that is applied: a linear map, or a convolution."""

    places: int
    inputs: int
    """Channels."""
    outputs: int
    kernel: int = 1
    """Places that a convolution sees."""
    axes: int = 0
    """Of the convolution; 0: a linear map."""
    together: int = 0
    """Places in work at a time."""
    behind: int = 0
    """Places of its input that a stream keeps for the next chunk."""

    @property
    def flop(self) -> int:
        return 2 * self.places * self.inputs * self.kernel * self.outputs


@dataclass(frozen=True)
class Work:
    """A call of a model."""

    applied: Sequence[Applied]
    attention: Sequence[Attention] = ()
    alive: float = 2.0
    """Elements in memory at the widest place without gradients, weights aside: for each that the widest product reads
    and writes. tests/torch/test_planning.py measures it."""
    copied: float = 1.0
    """Of the input of the widest convolution, what a CPU copies into another order; none where channels are innermost
    already."""


class Counted(NamedTuple):
    """The products of a call, each with how often it is there, and its attention."""

    products: Mapping[Product, int]
    once: Mapping[Product, int]
    """Those before the first step."""
    attention: Sequence[Attention]

    @property
    def flop(self) -> int:
        """Of the call, without what is done once."""
        return sum(product.flop * times for product, times in self.products.items()) + sum(
            each.flop for each in self.attention
        )


def counted(layout: Layout, work: Work, only: Sequence[str] = ()) -> Counted:
    """The products of a call. only: beginnings of the names of the weights that count; (): all."""
    products: Counter[Product] = Counter()
    once: Counter[Product] = Counter()
    for name, shape in _matrices(layout):
        if only and not name.startswith(tuple(only)):
            continue
        entry = next((each for each in work.applied if each.part in name), None)
        if entry is None or not entry.places:
            continue
        axes = max(0, len(shape) - 2)
        behind = (shape[2] - 1) * (entry.places // entry.frames) if axes == 3 else 0
        together = min(entry.together or entry.places, entry.places)
        product = Product(entry.places, shape[1], shape[0], prod(shape[2:]), axes, together, behind)
        (once if entry.once else products)[product] += 1
    return Counted(products, once, work.attention)


def _matrices(layout: Layout) -> Iterator[tuple[str, tuple[int, ...]]]:
    for name, weight in layout.weights.items():
        if len(weight.shape) >= 2 and name.endswith(".weight"):
            yield name, weight.shape
