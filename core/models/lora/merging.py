"""Weights of a model with LoRA added, and LoRA taken from what training has changed.

Sums are in float32, and are cast when a backend takes them: adding in half precision would lose small changes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from math import prod
from typing import Any, NamedTuple

import numpy as np

from ...errors import ConfigError, LayoutError
from ...io.weights import is_float
from ...layout import Layout, Weights
from ...printable import short_name
from .adapter import layers
from .files import Lora, Matrices

LARGEST = 1e30
"""That LoRA may add to a weight; float32 ends at 3.4e38."""


class Used(NamedTuple):
    """A LoRA, fitted to the model, and how much of it is added."""

    lora: Lora
    scale: float

    def check(self) -> None:
        """Raise ConfigError where it adds more to a weight than float32 holds, with room for a sum of some."""
        for layer, pair in self.lora.pairs.items():
            largest = [float(np.abs(matrix).max(initial=0)) for matrix in (pair.down, pair.up)]
            if not abs(self.scale * pair.scale) * prod(largest) * pair.rank < LARGEST:
                raise ConfigError(
                    f"{self.lora.source}: {self.scale:g} times this LoRA (alpha / rank {pair.scale:g}) is more than "
                    f"float32 holds, at {short_name(layer)}; give a smaller scale, such as 1"
                )


def in_order(used: Sequence[Used]) -> list[Used]:
    """In one order, so that a sum is the same bit for bit whatever the order they are named in."""
    return sorted(used, key=lambda each: (each.lora.source, each.scale))


class MergedWeights(Mapping[str, np.ndarray]):
    """A model's weights with LoRA added; those that change are float32. One is in memory at a time."""

    def __init__(self, weights: Weights, layout: Layout, used: Sequence[Used]) -> None:
        self._weights, self.source = weights, weights.source
        self._aliases = layout.aliases
        self._used = in_order(used)

    def __getitem__(self, name: str) -> np.ndarray:
        deltas = self._deltas(name)
        if not deltas or not is_float(self._weights.dtype(name)):
            return self._weights[name]
        total = self._weights[name].astype(np.float32)
        for pair, scale in deltas:
            total += np.float32(scale) * pair.delta()
        return total

    def __iter__(self) -> Iterator[str]:
        return iter(self._weights)

    def __len__(self) -> int:
        return sum(1 for _ in self._weights)

    def shape(self, name: str) -> tuple[int, ...]:
        return self._weights.shape(name)

    def dtype(self, name: str) -> np.dtype[Any]:
        own = self._weights.dtype(name)
        return np.dtype(np.float32) if self._deltas(name) and is_float(own) else own

    def _deltas(self, name: str) -> list[tuple[Matrices, float]]:
        layer = self._aliases.get(name, name).removesuffix(".weight")
        return [(each.lora.pairs[layer], each.scale) for each in self._used if each.scale and layer in each.lora.pairs]


class Extracted(NamedTuple):
    """A LoRA, and how much of the change it has."""

    lora: Lora
    kept: float
    """Of the changes' squares, those of all layers together."""
    elsewhere: tuple[str, ...]
    """Weights that have changed and are of no layer that LoRA adapts."""


def extracted(
    layout: Layout, before: Weights, after: Weights, rank: int, tell: Callable[[str], None] = lambda _: None
) -> Extracted:
    """The LoRA of a rank that comes nearest to what changed between two models of a layout, by singular values.

    Layers that did not change are left out. tell: the name of each layer in turn.
    Raises: LayoutError when nothing has changed that LoRA could hold.
    """
    both = (before, after)
    held = [layout.check({name: weights.shape(name) for name in weights}, weights.source) for weights in both]
    pairs: dict[str, Matrices] = {}
    total = kept = 0.0
    elsewhere = []
    adapted = layers(layout)
    for name in layout:
        names = [each[name] for each in held]
        if names[0] is None or names[1] is None:
            continue
        tell(name)
        delta = after[names[1]].astype(np.float32) - before[names[0]].astype(np.float32)
        if not delta.any():
            continue
        layer = name.removesuffix(".weight")
        if layer not in adapted or not name.endswith(".weight"):
            elsewhere.append(name)
            continue
        pairs[layer], of_rank, of_all = _nearest(delta, rank)
        kept, total = kept + of_rank, total + of_all
    if not pairs:
        raise LayoutError(f"{after.source} has the linear maps of {before.source}, so there is no LoRA between them")
    return Extracted(Lora(after.source, "peft", pairs), kept / total, tuple(elsewhere))


def _nearest(delta: np.ndarray, rank: int) -> tuple[Matrices, float, float]:
    """The pair of a rank nearest to a change, and the squares that it has of all."""
    matrix = delta.reshape(delta.shape[0], -1)
    left, values, right = np.linalg.svd(matrix, full_matrices=False)
    rank = min(rank, int(np.count_nonzero(values > values[0] * np.finfo(np.float32).eps)))
    root = np.sqrt(values[:rank])
    down = (root[:, None] * right[:rank]).reshape(rank, *delta.shape[1:])
    up = (left[:, :rank] * root).reshape(delta.shape[0], rank, *(1 for _ in delta.shape[2:]))
    squares = values.astype(np.float64) ** 2
    return Matrices(down, up, 1.0), float(squares[:rank].sum()), float(squares.sum())
