"""The forward that all text encoders share: what reading their layers from the file one by one knows of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from torch import Tensor, nn


class TextEncoder(nn.Module):
    """Token ids to states, through blocks that are told of the texts by a bias on their attention's scores."""

    spec: Any
    """A core.models.kinds.TextEncoderSpec."""
    blocks: Any
    """() -> all blocks in the order of the forward, those that spec.blocks() names."""
    embed: Any
    """ids (B, L) -> tokens (B, L, D)."""
    bias: Any
    """(tokens (B, L, D), mask (B, L)) -> the bias, the same for all blocks."""
    finish: Any
    """(tokens (B, L, D), ids (B, L), mask (B, L)) -> what the encoder gives."""

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Ids (B, L) and mask (B, L), above 0 where a token counts -> states (B, L, D), or of an encoder that gives one
        vector for a text (B, D), float32.

        Raises: ShapeError when there are more tokens than the model takes.
        """
        x = self.embed(ids)
        bias = self.bias(x, mask)
        for block in self.blocks():
            x = block(x, bias)
        return self.finish(x, ids, mask)

    def encode(self, texts: Iterable[tuple[Tensor, Tensor]]) -> Iterator[Tensor]:
        """What the forward gives of each of some batches, ids and mask."""
        for ids, mask in texts:
            yield self(ids, mask)
