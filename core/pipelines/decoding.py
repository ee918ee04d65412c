"""One clip on its way through a decoder, chunk by chunk: on one rank, or on several side by side."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ..maths.tiling import LEAST_RELAYED, Chunk
from ..models.kinds import AutoencoderSpec
from ..seam.backend import Backend
from ..seam.group import Group
from ..seam.models import Array, Autoencoder
from ..shapes import NUM_COLOURS
from .side_by_side import joined, rounds_of
from .tiled import Tile, blend

TimedChunk = tuple[Chunk, int | None]
"""A chunk, and how many frames it has where the latents do not say it."""


@dataclass(frozen=True)
class Decoding:
    """A clip that is decoded."""

    backend: Backend
    vae: Autoencoder
    spec: AutoencoderSpec
    latents: Array
    """(B, C, t, h, w), unscaled."""
    tiles: Sequence[Tile]

    def in_turn(self, chunks: Sequence[TimedChunk]) -> Iterator[np.ndarray]:
        """The finished frames (B, 3, T_i, H, W) of one chunk after the other."""
        last = chunks[-1][0]
        return (self._decoded(chunk, chunk is last, length) for chunk, length in chunks)

    def apart(self, chunks: Sequence[TimedChunk], team: Group) -> Iterator[np.ndarray]:
        """The frames of one round after the other of chunks that know nothing of each other, each on its own rank."""
        batch, _, _, height, width = self.latents.shape
        side = self.spec.compression.space

        def decode(own: TimedChunk | None) -> np.ndarray:
            if own is None:
                return np.zeros((batch, NUM_COLOURS, 0, height * side, width * side), np.float32)
            return self._decoded(own[0], False, own[1])

        return joined(self.backend, team, rounds_of(chunks, team.size), decode)

    def relayed(self, rounds: Sequence[Sequence[Chunk]], team: Group) -> Iterator[np.ndarray]:
        """The frames of one round after the other of neighbouring chunks; ranks hand each other what they keep."""
        last = max(chunk.stop for chunk in rounds[-1])

        def decode(own: Chunk) -> np.ndarray:
            is_idle = own.start == own.stop
            # A rank without frames of its own runs along, because the others' exchange with neighbours goes round.
            seen = Chunk(0, LEAST_RELAYED) if is_idle else own
            video = self._decoded(seen, not is_idle and own.stop == last)
            return video[:, :, :0] if is_idle else video

        return joined(self.backend, team, rounds, decode)

    def _decoded(self, chunk: Chunk, is_last: bool, length: int | None = None) -> np.ndarray:
        """The finished frames of one chunk, all tiles blended."""
        seen = self.latents[:, :, chunk.start : chunk.stop + chunk.look_ahead]
        parts = [self._tile(tile, seen, is_last, length) for tile in self.tiles]
        compression = self.spec.compression
        video = blend(parts, self.tiles, compression.space)
        return video[:, :, : video.shape[2] - chunk.look_ahead * compression.time]

    def _tile(self, tile: Tile, latents: Array, is_last: bool, length: int | None) -> np.ndarray:
        part = tile.of(latents)
        if tile.stream is not None:
            tile.stream.advance(is_last)
        with self.backend.inference():
            tensor = self.backend.asarray(part) if isinstance(part, np.ndarray) else part
            return self.backend.to_numpy(self.vae.decode(tensor, length, tile.stream))
