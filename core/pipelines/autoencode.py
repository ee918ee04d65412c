"""Between pixels and latents through a video autoencoder: whole, in chunks of time, in tiles of space.

Videos are (B, 3, T, H, W) float32 in [-1, 1]. Latents (B, C, t, h, w) are those of the autoencoder; "scaled" ones are
what a diffusion model sees.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from .. import random
from ..errors import ConfigError
from ..maths import gaussian
from ..maths.tiling import (
    LEAST_RELAYED,
    Chunk,
    Span,
    blend_weights,
    pixel_chunks,
    relayed_chunks,
    tile_spans,
    upstream_chunks,
)
from ..models.kinds import AutoencoderSpec
from ..seam.backend import Backend
from ..seam.group import Group
from ..seam.models import Array, Autoencoder, Stream
from ..shapes import LatentShape, VideoShape

Draw = Callable[..., np.ndarray]
"""core.random.normal, or what stands in for it: (shape, seed, purpose, step=0) -> unit noise."""
UPSTREAM_TIME = 4
"""Compression of time for which upstream's tiling was written."""


@dataclass(frozen=True)
class SpatialTiles:
    """Square parts of each frame that are decoded by themselves and blended linearly where they overlap. Not exact.

    Pixels depend on latents up to about ten away, and through the attention on all; a tile hides those outside it. With
    random weights and latents, the worst case, the error (root mean square, frames of 24 x 24 latents) was 0.45 of the
    picture's own deviation for tiles of 8, 0.2 for tiles of 12; larger tiles help more than larger overlaps.
    """

    size: int
    """Side in latents."""
    overlap: int
    """Latents that neighbours share at least, up to half the size."""


@dataclass(frozen=True)
class DecodeOptions:
    """How latents are decoded; the defaults take a clip in one piece."""

    chunk: int | None = None
    """Latent frames at a time, None: all. Exact for any number; memory does not grow with the clip's length."""
    tiles: SpatialTiles | None = None
    """None: whole frames."""
    upstream_tiling: bool = False
    """Decode chunks as upstream does, wrong pixels included (quirk Q7), to reproduce numbers made that way."""


@dataclass(frozen=True)
class _Tile:
    """A part of each frame on its way through the decoder."""

    rows: Span
    columns: Span
    weights: np.ndarray
    """(H, W) float32, of its pixels."""
    stream: Stream | None
    """What the model keeps of it between chunks; None when there is only one chunk."""


def encode_chunks(
    backend: Backend,
    vae: Autoencoder,
    spec: AutoencoderSpec,
    video: np.ndarray | Iterable[np.ndarray],
    chunk: int | None = None,
    upstream_tiling: bool = False,
    noise: Mapping[str, np.ndarray] | None = None,
) -> np.ndarray:
    """Moments (B, 2C, t, h, w) float32 of a clip: those of the spec's last posterior.

    video: the clip, or its frames in pieces (B, 3, T_i, H, W) of any lengths, as a reader gives them. chunk: latent
    frames at a time, None: all. upstream_tiling: cut the clip where upstream does, which only matters for group norm.
    noise: (B, *shape) of spec.noise_shapes, for posteriors before the last; None: their means.
    Raises: ShapeError when the clip's size does not fit the spec; ConfigError when the model cannot work in chunks.
    """
    pieces = [video] if isinstance(video, np.ndarray) else video
    if chunk is None:
        stream = None
        groups = iter([(np.concatenate(list(pieces), axis=2), True)])
    else:
        alone = pixel_chunks(chunk, spec.compression.time, alone=True)
        groups = _regroup(pieces, alone if upstream_tiling else spec.pixel_chunks(chunk))
        stream = vae.stream(upstream_tiling) if upstream_tiling else vae.stream()
    moments = []
    num_frames = 0
    for frames, is_last in groups:
        seen = _noise_of(spec, noise or {}, num_frames, frames.shape)
        num_frames += frames.shape[2]
        spec.compression.check(VideoShape(num_frames if is_last else 1, *frames.shape[3:]))
        if stream is not None:
            stream.advance(is_last)
        with backend.inference():
            drawn = {name: backend.asarray(values) for name, values in seen.items()}
            encoded = vae.encode(backend.asarray(frames.astype(np.float32)), drawn, stream)
            moments.append(backend.to_numpy(encoded.moments[spec.posteriors[-1]]))
    return np.concatenate(moments, axis=2)


def encode_latents(
    backend: Backend,
    vae: Autoencoder,
    spec: AutoencoderSpec,
    video: np.ndarray,
    noise: Mapping[str, np.ndarray] | None = None,
    chunk: int | None = None,
) -> np.ndarray:
    """Scaled latents (B, C, t, h, w) float32 of a clip, drawn from its posteriors.

    noise: unit noise (B, *shape) of spec.noise_shapes, by name; None: the means. chunk and Raises: as encode_chunks.
    """
    moments = encode_chunks(backend, vae, spec, video, chunk, noise=noise)
    if noise is None:
        latents = gaussian.split_moments(moments)[0]
    else:
        latents = gaussian.sample(moments, noise[spec.posteriors[-1]])
    return scale_latents(spec, latents).astype(np.float32)


def posterior_noise(
    spec: AutoencoderSpec, video: VideoShape, seed: int, draw: Draw = random.normal, purpose: str = "posterior"
) -> dict[str, np.ndarray]:
    """The noise that one clip is encoded with, all of it from a seed."""
    names = {name: f"{purpose}, {name}" for name in spec.posteriors} | {spec.posteriors[-1]: purpose}
    return {name: draw(shape, seed, names[name]) for name, shape in spec.noise_shapes(video).items()}


def decode_chunks(
    backend: Backend,
    vae: Autoencoder,
    spec: AutoencoderSpec,
    latents: Array,
    options: DecodeOptions | None = None,
    team: Group | None = None,
    num_frames: int | None = None,
) -> Iterator[np.ndarray]:
    """Decode latents (B, C, t, h, w), unscaled, an array or a tensor; frames (B, 3, T_i, H, W) come when finished.

    num_frames: of the clip, where several lengths have as many latents; None: the longest of them. team: ranks that
    decode the same clip together; each gets all frames. A clip of less than four latent frames, and an autoencoder that
    cannot work in chunks, are decoded by each of them.
    Raises (at once): ConfigError when the options do not fit each other or the model; ShapeError for a clip that
    upstream's tiling cannot decode.
    """
    options = options or DecodeOptions()
    frames, height, width = latents.shape[2:]
    chunks = _chunks(spec, frames, options)
    if team is not None and team.size > 1 and spec.streams_exactly and not options.upstream_tiling:
        rounds = relayed_chunks(frames, options.chunk, team.size)
        if rounds:
            tiles = _tiles(spec, height, width, options, lambda: backend.relay(team))
            return _decode_together(backend, vae, spec, latents, rounds, tiles, team)
    new_stream = None if options.chunk is None else lambda: _new_stream(vae, options)
    tiles = _tiles(spec, height, width, options, new_stream)
    lengths = _lengths(spec, chunks, num_frames)
    return (
        _decode_chunk(backend, vae, spec, latents, chunk, chunk is chunks[-1], tiles, length)
        for chunk, length in zip(chunks, lengths, strict=True)
    )


def scale_latents(spec: AutoencoderSpec, latents: np.ndarray) -> np.ndarray:
    """The autoencoder's latents as a diffusion model sees them."""
    return (latents - _per_channel(spec.shift)) * _per_channel(spec.scale)


def unscale_latents(spec: AutoencoderSpec, latents: np.ndarray) -> np.ndarray:
    """The inverse of scale_latents."""
    return latents / _per_channel(spec.scale) + _per_channel(spec.shift)


def _regroup(pieces: Iterable[np.ndarray], lengths: Iterator[int]) -> Iterator[tuple[np.ndarray, bool]]:
    """The frames of a clip in groups of the given lengths, each with whether it is the last one."""
    length = next(lengths)
    rest: np.ndarray | None = None
    for piece in pieces:
        rest = piece if rest is None else np.concatenate([rest, piece], axis=2)
        # Only a frame behind a group tells that it is not the last one.
        while rest.shape[2] > length:
            yield rest[:, :, :length], False
            rest = rest[:, :, length:]
            length = next(lengths)
    if rest is not None:
        yield rest, True


def _noise_of(
    spec: AutoencoderSpec, noise: Mapping[str, np.ndarray], start: int, shape: tuple[int, ...]
) -> dict[str, np.ndarray]:
    """The noise of all posteriors but the last for frames (B, 3, T, H, W) that begin at `start` of a clip."""
    frames, height, width = shape[2:]
    earlier = set(noise) & set(spec.posteriors[:-1])
    if not earlier:
        return {}
    stops = spec.noise_shapes(VideoShape(start + frames, height, width))
    starts = spec.noise_shapes(VideoShape(start, height, width)) if start else dict.fromkeys(stops, (0, 0))
    return {name: noise[name][:, :, starts[name][1] : stops[name][1]] for name in earlier}


def _new_stream(vae: Autoencoder, options: DecodeOptions) -> Stream:
    return vae.stream(options.upstream_tiling) if options.upstream_tiling else vae.stream()


def _lengths(spec: AutoencoderSpec, chunks: Sequence[Chunk], num_frames: int | None) -> list[int | None]:
    """Pixel frames of each chunk; None where they follow from the latents."""
    if spec.streams_exactly:
        return [None] * len(chunks)
    stops = [spec.compression.video(LatentShape(chunk.stop, 1, 1)).frames for chunk in chunks]
    stops[-1] = num_frames or stops[-1]
    return [stop - start for start, stop in zip([0, *stops], stops, strict=False)]


def _chunks(spec: AutoencoderSpec, num_frames: int, options: DecodeOptions) -> list[Chunk]:
    if not options.upstream_tiling:
        return spec.chunks(num_frames, options.chunk)
    if options.chunk is None:
        raise ConfigError("upstream_tiling = true: needs a chunk size as well; upstream's is 2, or 4 to save memory")
    if spec.compression.time != UPSTREAM_TIME:
        raise ConfigError(
            f"upstream_tiling = true: upstream's tiling decodes autoencoders that compress time {UPSTREAM_TIME} times, "
            f"not {spec.compression.time} times; use exact streaming (false)"
        )
    return upstream_chunks(num_frames, options.chunk)


def _tiles(
    spec: AutoencoderSpec, height: int, width: int, options: DecodeOptions, new_stream: Callable[[], Stream] | None
) -> list[_Tile]:
    tiles, scale = options.tiles, spec.compression.space

    def spans(size: int) -> list[Span]:
        return tile_spans(size, tiles.size, tiles.overlap) if tiles else [Span(0, size)]

    rows, columns = spans(height), spans(width)
    return [
        _Tile(
            row,
            column,
            np.outer(row_weights, column_weights).astype(np.float32),
            new_stream and new_stream(),
        )
        for row, row_weights in zip(rows, blend_weights(rows, scale), strict=True)
        for column, column_weights in zip(columns, blend_weights(columns, scale), strict=True)
    ]


def _decode_together(
    backend: Backend,
    vae: Autoencoder,
    spec: AutoencoderSpec,
    latents: Array,
    rounds: list[list[Chunk]],
    tiles: list[_Tile],
    team: Group,
) -> Iterator[np.ndarray]:
    """The finished pixel frames of one round of chunks after the other, from all ranks."""
    last = max(chunk.stop for chunk in rounds[-1])
    for chunks in rounds:
        own = chunks[team.index]
        is_idle = own.start == own.stop
        # A rank without frames of its own runs along, because the others' exchange with their neighbours goes round.
        seen = Chunk(0, LEAST_RELAYED) if is_idle else own
        video = _decode_chunk(backend, vae, spec, latents, seen, not is_idle and own.stop == last, tiles)
        lengths = [int(length) for length in team.share(str(0 if is_idle else video.shape[2]).encode())]
        padded = np.zeros((*video.shape[:2], max(lengths), *video.shape[3:]), np.float32)
        padded[:, :, : lengths[team.index]] = video[:, :, : lengths[team.index]]
        whole = backend.to_numpy(team.gather(backend.asarray(padded), 2))
        parts = np.split(whole, team.size, axis=2)
        yield np.concatenate([part[:, :, :length] for part, length in zip(parts, lengths, strict=True)], axis=2)


def _decode_chunk(
    backend: Backend,
    vae: Autoencoder,
    spec: AutoencoderSpec,
    latents: Array,
    chunk: Chunk,
    is_last: bool,
    tiles: list[_Tile],
    length: int | None = None,
) -> np.ndarray:
    """The finished pixel frames of one chunk, all tiles blended. length: how many, where latents do not say it."""
    seen = latents[:, :, chunk.start : chunk.stop + chunk.look_ahead]
    parts = [_decode_tile(backend, vae, seen, tile, is_last, length) for tile in tiles]
    video = parts[0] if len(parts) == 1 else _blend(parts, tiles, spec.compression.space)
    return video[:, :, : video.shape[2] - chunk.look_ahead * spec.compression.time]


def _decode_tile(
    backend: Backend, vae: Autoencoder, latents: Array, tile: _Tile, is_last: bool, length: int | None
) -> np.ndarray:
    part = latents[..., tile.rows.start : tile.rows.stop, tile.columns.start : tile.columns.stop]
    if tile.stream is not None:
        tile.stream.advance(is_last)
    with backend.inference():
        tensor = backend.asarray(part) if isinstance(part, np.ndarray) else part
        return backend.to_numpy(vae.decode(tensor, length, tile.stream))


def _blend(parts: list[np.ndarray], tiles: list[_Tile], scale: int) -> np.ndarray:
    height, width = tiles[-1].rows.stop * scale, tiles[-1].columns.stop * scale
    video = np.zeros((*parts[0].shape[:3], height, width), np.float32)
    for part, tile in zip(parts, tiles, strict=True):
        rows = slice(tile.rows.start * scale, tile.rows.stop * scale)
        columns = slice(tile.columns.start * scale, tile.columns.stop * scale)
        video[..., rows, columns] += part * tile.weights
    return video


def _per_channel(values: tuple[float, ...]) -> np.ndarray:
    return np.array(values, np.float32).reshape(1, -1, 1, 1, 1)
