"""A text encoder that reads its weights from the file whenever it encodes, block by block."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from .loading import Matrix
from .progress import progress
from .reading_ahead import read_ahead
from .seam.models import Array

MOST_TOKENS = 1 << 17
"""Encoded together, padding included: their states are in memory all the time, 2 GiB of mT5-xxl's in float32."""


class StreamedEncoder:
    """A text encoder of which two blocks are in memory at a time, one that computes and the next, which is being read.

    It is used like the encoder itself and gives the same numbers, bit for bit.
    """

    def __init__(
        self,
        encoder: Any,
        layers: Sequence[Mapping[str, Any]],
        matrix: Callable[[str], Matrix],
        put: Callable[[Any, Matrix], None],
        drop: Callable[[Any], None],
    ) -> None:
        """encoder: a backend's; all of its weights are set but those of `layers`, nearly all of them.

        layers: the linear ones of each block by the names of their weights. matrix: reads a weight. put, drop: set a
        layer's weight, let go of it.
        """
        self.encoder, self.layers = encoder, layers
        self._matrix, self._set, self._drop = matrix, put, drop

    def __getattr__(self, name: str) -> Any:
        return getattr(self.encoder, name)

    def __call__(self, ids: Array, mask: Array) -> Array:
        (states,) = self.encode([(ids, mask)])
        return states

    def encode(self, texts: Iterable[tuple[Array, Array]]) -> Iterator[Array]:
        """As TextEncoder.encode; every block is read once for all batches, as far as memory for states goes."""
        together: list[tuple[Array, Array]] = []
        for text in texts:
            if together and sum(math.prod(ids.shape) for ids, _ in (*together, text)) > MOST_TOKENS:
                yield from self._through(together)
                together = []
            together.append(text)
        yield from self._through(together)

    def _through(self, texts: list[tuple[Array, Array]]) -> Iterator[Array]:
        """Batches through all blocks side by side."""
        encoder = self.encoder
        states = [encoder.embed(ids) for ids, _ in texts]
        for block in progress(self._blocks(), "encoding prompts", "layer", len(self.layers)):
            for i, (_, mask) in enumerate(texts):
                states[i] = block(states[i], encoder.bias(states[i], mask))
        for x, text in zip(states, texts, strict=True):
            yield encoder.finish(x, *text)

    def _blocks(self) -> Iterator[Any]:
        """The blocks in turn, each with its weights.

        The last matrix of a block waits until the block before has gone, so that two are never there whole.
        """
        arriving = read_ahead(self._all_but_last, self.layers)
        for block, layers in zip(self.encoder.blocks(), self.layers, strict=True):
            try:
                self._put(layers, next(arriving))
                yield block
            finally:
                for layer in layers.values():
                    self._drop(layer)

    def _all_but_last(self, layers: Mapping[str, Any]) -> list[Matrix]:
        return [self._matrix(name) for name in list(layers)[:-1]]

    def _put(self, layers: Mapping[str, Any], matrices: list[Matrix]) -> None:
        last = self._matrix(list(layers)[-1])
        for layer, matrix in zip(layers.values(), [*matrices, last], strict=True):
            self._set(layer, matrix)
