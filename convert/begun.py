"""The tensors of a model that begins with the weights of another: those where they fit, and fresh ones for the rest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from math import prod
from typing import Any

import numpy as np

from ..core.layout import Constant, FreshWeights, Layout, some_names
from .beginning import Beginning
from .naming import Named

SEED = 0
"""Of what is drawn freshly."""


class Begun:
    """The tensors of the model, to be written. Those that are fresh have the dtype that most of the others have."""

    def __init__(self, beginning: Beginning, layout: Layout, tensors: Named) -> None:
        """Raises: LayoutError when the tensors do not begin such a model."""
        self.source = tensors.source
        beginning.check(layout, {name: tensors.shape(name) for name in tensors}, tensors.source)
        self._layout, self._given = layout, tensors
        self._fresh = FreshWeights(layout, SEED)
        self._usual = Counter(tensors.dtype(name) for name in tensors).most_common(1)[0][0]
        # The other's constants, such as positions of other sizes, are not the model's.
        own = {name for name, weight in layout.items() if isinstance(weight.init, Constant)}
        held = set(tensors) - own
        self._drawn = [name for name in layout if name not in held]
        self.told = [
            f"begins as {beginning.title}: {len(self._drawn)} tensors are drawn freshly ({some_names(self._drawn)})",
            *(f"{name}: {self._rows(name)}" for name in beginning.tables if self._rows(name)),
        ]

    def _rows(self, name: str) -> str:
        held, wanted = self._given.shape(name)[0], self._layout[name].shape[0]
        if held == wanted:
            return ""
        return (
            f"the first {wanted} of {held} rows" if held > wanted else f"{held} rows, the last repeated up to {wanted}"
        )

    def __iter__(self) -> Iterator[str]:
        return iter(self._layout)

    def __len__(self) -> int:
        return len(self._layout)

    def shape(self, name: str) -> tuple[int, ...]:
        return self._layout[name].shape

    def dtype(self, name: str) -> np.dtype[Any]:
        return self._usual if name in self._drawn else self._given.dtype(name)

    def nbytes_of(self, name: str) -> int:
        return prod(self.shape(name)) * self.dtype(name).itemsize

    @property
    def nbytes(self) -> int:
        return sum(map(self.nbytes_of, self))

    def chunks(self, name: str) -> Iterator[np.ndarray]:
        """The bytes of a tensor in C order, uint8."""
        if name in self._drawn:
            yield self._fresh[name].astype(self._usual).reshape(-1).view(np.uint8)
        elif prod(self.shape(name)) == prod(self._given.shape(name)):
            yield from self._given.chunks(name)
        else:
            yield self._table(name)

    def _table(self, name: str) -> np.ndarray:
        held = np.concatenate(list(self._given.chunks(name))).reshape(self._given.shape(name)[0], -1)
        wanted = self.shape(name)[0]
        return held[np.minimum(np.arange(wanted), len(held) - 1)].reshape(-1)
