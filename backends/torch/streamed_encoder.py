"""A text encoder that reads its weights from the file whenever it encodes, block by block."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from torch import Tensor, nn

from duosora.core.loading import CheckedWeights, Matrix
from duosora.core.progress import progress
from duosora.core.reading_ahead import read_ahead

from .layers import device_of, place
from .matrices import drop, linear_layers, put, table_of
from .precision import to_array
from .text_encoder import TextEncoder

MOST_TOKENS = 1 << 17
"""Encoded together, padding included: their states are in memory all the time, 2 GiB of mT5-xxl's in float32."""


class StreamedEncoder:
    """A text encoder of which two blocks are in memory at a time, one that computes and the next, which is being read.

    It is used like the encoder itself and gives the same numbers, bit for bit.
    """

    def __init__(self, encoder: TextEncoder, weights: CheckedWeights, dtype: str, device: str) -> None:
        """encoder: all of its weights are set but those of linear layers in blocks, nearly all of them. dtype: of
        these, or EIGHT_BITS."""
        self.encoder, self.weights, self.dtype, self.device = encoder, weights, dtype, device
        self.of_blocks = [linear_layers(encoder, name) for name in encoder.spec.blocks()]
        """By the names of their weights."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self.encoder, name)

    def __call__(self, ids: Tensor, mask: Tensor) -> Tensor:
        (states,) = self.encode([(ids, mask)])
        return states

    def encode(self, texts: Iterable[tuple[Tensor, Tensor]]) -> Iterator[Tensor]:
        """As TextEncoder.encode; every block is read once for all batches, as far as memory for states goes."""
        together: list[tuple[Tensor, Tensor]] = []
        for text in texts:
            if together and sum(ids.numel() for ids, _ in (*together, text)) > MOST_TOKENS:
                yield from self._through(together)
                together = []
            together.append(text)
        yield from self._through(together)

    def _through(self, texts: list[tuple[Tensor, Tensor]]) -> Iterator[Tensor]:
        """Batches through all blocks side by side."""
        encoder = self.encoder
        states = [encoder.embed(ids) for ids, _ in texts]
        for block in progress(self._blocks(), "encoding prompts", "layer", len(self.of_blocks)):
            for i, (_, mask) in enumerate(texts):
                states[i] = block(states[i], encoder.bias(states[i], mask))
        for x, text in zip(states, texts, strict=True):
            yield encoder.finish(x, *text)

    def _blocks(self) -> Iterator[Any]:
        """The blocks in turn, each with its weights.

        The last matrix of a block waits until the block before has gone, so that two are never there whole.
        """
        arriving = read_ahead(self._all_but_last, self.of_blocks)
        for block, layers in zip(self.encoder.blocks(), self.of_blocks, strict=True):
            try:
                self._put(layers, next(arriving))
                yield block
            finally:
                for layer in layers.values():
                    drop(layer)

    def _all_but_last(self, layers: dict[str, Any]) -> list[Matrix]:
        return [self.weights.matrix(name, self.dtype) for name in list(layers)[:-1]]

    def _put(self, layers: dict[str, Any], matrices: list[Matrix]) -> None:
        last = self.weights.matrix(list(layers)[-1], self.dtype)
        for layer, matrix in zip(layers.values(), [*matrices, last], strict=True):
            put(layer, matrix, self.device)


class TableInFile(nn.Module):
    """A table of vectors, taken by number, of which only the rows of the texts at hand are read."""

    def __init__(self, name: str, weights: CheckedWeights, dtype: str, computed: str, device: str) -> None:
        """dtype: of the table, or EIGHT_BITS. computed: of what it gives."""
        super().__init__()
        self.name, self.weights, self.dtype = name, weights, dtype
        self.options = (computed, device)

    def forward(self, ids: Tensor) -> Tensor:
        numbers, places = np.unique(to_array(ids), return_inverse=True)
        table = table_of(self.weights.few_rows(self.name, numbers.tolist(), self.dtype), *self.options)
        return table(place(places.reshape(ids.shape), device_of(ids)))
