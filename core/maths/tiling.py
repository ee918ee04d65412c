"""Plans for autoencoding in pieces: chunks in time, tiles in space and the weights with which tiles are blended.

Everything is counted in latents unless it says pixels.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from ..errors import ConfigError, ShapeError
from .parts import even_parts

LEAST_RELAYED = 2
"""Latent frames of a chunk that has neighbours on other ranks: as many as a filter looks back at."""


class Chunk(NamedTuple):
    """Latent frames start .. stop - 1, decoded together with some of the next ones whose pixels are thrown away."""

    start: int
    stop: int
    look_ahead: int = 0


class Span(NamedTuple):
    """Positions start .. stop - 1 of one side."""

    start: int
    stop: int


def temporal_chunks(num_frames: int, chunk: int | None) -> list[Chunk]:
    """Latent frames in groups of `chunk`, the last one smaller if need be; None: all at once.

    Raises: ConfigError when chunk is less than 1.
    """
    _check_chunk(chunk)
    size = chunk or num_frames
    return [Chunk(start, min(start + size, num_frames)) for start in range(0, num_frames, size)]


def relayed_chunks(num_frames: int, chunk: int | None, ranks: int) -> list[list[Chunk]]:
    """Rounds of one chunk for each rank, side by side in the clip's order; all are of nearly equal length.

    They are at least LEAST_RELAYED and, if `chunk` is as much, less than twice `chunk` long. In a clip too short for
    all ranks the last ones get empty chunks. No round: the clip is too short for two.
    Raises: ConfigError when chunk is less than 1.
    """
    _check_chunk(chunk)
    active = min(ranks, num_frames // LEAST_RELAYED)
    if active < 2:
        return []
    size = max(chunk or num_frames, LEAST_RELAYED)
    parts = even_parts(num_frames, active * max(1, num_frames // (active * size)))
    chunks = [Chunk(part.start, part.stop) for part in parts]
    idle = [Chunk(num_frames, num_frames)] * (ranks - active)
    return [chunks[start : start + active] + idle for start in range(0, len(chunks), active)]


def upstream_chunks(num_frames: int, chunk: int) -> list[Chunk]:
    """The chunks of upstream's tiled decoding: the first latent frame, then groups of `chunk`.

    A chunk sees one latent frame of look-ahead if at least two come behind it. One would do: the chunk before a single
    last frame gets none, and its last frames come out wrong (quirk Q7).
    Raises: ConfigError when chunk is less than 1; ShapeError for 2 frames, on which upstream crashes.
    """
    _check_chunk(chunk)
    if num_frames == 2:
        raise ShapeError(
            "2 latent frames: upstream's tiling crashes on them; use exact streaming (upstream_tiling = false)"
        )
    starts = [0, *range(1, num_frames, chunk)]
    spans = zip(starts, [*starts[1:], num_frames], strict=True)
    return [Chunk(start, stop, 1 if stop + 1 < num_frames else 0) for start, stop in spans]


def pixel_chunks(chunk: int, frames_per_latent: int, alone: bool = False) -> Iterator[int]:
    """How many pixel frames make up each next `chunk` latent frames of a clip, without end.

    The first latent frame is that of a single pixel frame. alone: it is a chunk of its own, as in upstream's tiling.
    Raises: ConfigError when chunk is less than 1.
    """
    _check_chunk(chunk)
    yield 1 if alone else 1 + (chunk - 1) * frames_per_latent
    while True:
        yield chunk * frames_per_latent


def tile_spans(size: int, tile: int, overlap: int) -> list[Span]:
    """The fewest tiles that cover a side with at least `overlap` positions in common, evenly spread.

    Raises: ConfigError when tile or overlap are out of range.
    """
    if tile < 1 or not 0 <= 2 * overlap <= tile:
        raise ConfigError(
            f"tiles of {tile} latents with overlap = {overlap}: need 1 latent or more and an overlap of 0 to half that"
        )
    if tile >= size:
        return [Span(0, size)]
    count = -(-(size - overlap) // (tile - overlap))
    starts = [i * (size - tile) // (count - 1) for i in range(count)]
    return [Span(start, start + tile) for start in starts]


def blend_weights(spans: list[Span], scale: int) -> list[np.ndarray]:
    """For each tile of a side, its weight at each of its pixels, float64: linear across overlaps, in sum 1 everywhere.

    scale: pixels per latent.
    """
    ramps = [_ramp(spans, index, scale) for index in range(len(spans))]
    total = np.zeros(spans[-1].stop * scale)
    for span, ramp in zip(spans, ramps, strict=True):
        total[span.start * scale : span.stop * scale] += ramp
    return [ramp / total[span.start * scale : span.stop * scale] for span, ramp in zip(spans, ramps, strict=True)]


def _ramp(spans: list[Span], index: int, scale: int) -> np.ndarray:
    """1 in the middle, falling towards 0 across the overlap with each neighbour, never reaching it."""
    start, stop = spans[index]
    middle = np.arange((stop - start) * scale) + 0.5
    weights = np.ones_like(middle)
    if index > 0 and spans[index - 1].stop > start:
        weights = np.minimum(weights, middle / ((spans[index - 1].stop - start) * scale))
    if index + 1 < len(spans) and stop > spans[index + 1].start:
        weights = np.minimum(weights, middle[::-1] / ((stop - spans[index + 1].start) * scale))
    return weights


def _check_chunk(chunk: int | None) -> None:
    if chunk is not None and chunk < 1:
        raise ConfigError(f"chunk = {chunk}: needs 1 latent frame or more")
