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
from ..maths.tiling import Chunk, pixel_chunks, relayed_chunks, upstream_chunks
from ..models.kinds import AutoencoderSpec
from ..seam.backend import Backend
from ..seam.group import Alone, Group
from ..seam.models import Array, Autoencoder, Stream
from ..shapes import LatentShape, VideoShape
from .decoding import Decoding
from .side_by_side import joined, rounds_of
from .tiled import SpatialTiles, make_tiles

Draw = Callable[..., np.ndarray]
"""core.random.normal, or what stands in for it: (shape, seed, purpose, step=0) -> unit noise."""
UPSTREAM_TIME = 4
"""Compression of time for which upstream's tiling was written."""


@dataclass(frozen=True)
class DecodeOptions:
    """How latents are decoded; the defaults take a clip in one piece."""

    chunk: int | None = None
    """Latent frames at a time, None: all. Exact for any number; memory does not grow with the clip's length."""
    tiles: SpatialTiles | None = None
    """None: whole frames."""
    upstream_tiling: bool = False
    """Decode chunks as upstream does, wrong pixels included (quirk Q7), to reproduce numbers made that way."""


def encode_chunks(
    backend: Backend,
    vae: Autoencoder,
    spec: AutoencoderSpec,
    video: np.ndarray | Iterable[np.ndarray],
    chunk: int | None = None,
    upstream_tiling: bool = False,
    noise: Mapping[str, np.ndarray] | None = None,
) -> np.ndarray:
    """Moments (B, 2C, t, h, w) float32 of a clip: those of the spec's last posterior; where it draws nothing, the
    latents (B, C, t, h, w).

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
            last = encoded.moments[spec.posteriors[-1]] if spec.posteriors else encoded.latents
            moments.append(backend.to_numpy(last))
    return np.concatenate(moments, axis=2)


def encode_latents(
    backend: Backend,
    vae: Autoencoder,
    spec: AutoencoderSpec,
    video: np.ndarray,
    noise: Mapping[str, np.ndarray] | None = None,
    chunk: int | None = None,
    team: Group | None = None,
) -> np.ndarray:
    """Scaled latents (B, C, t, h, w) float32 of a clip, drawn from its posteriors.

    noise: unit noise (B, *shape) of spec.noise_shapes, by name; None: the means. team: ranks that encode the same clip
    together, where its pieces know nothing of each other; each gets all latents. chunk and Raises: as encode_chunks.
    """
    if spec.streams_exactly:
        moments = encode_chunks(backend, vae, spec, video, chunk, noise=noise)
    else:
        moments = _encode_apart(backend, vae, spec, video, noise or {}, chunk, team or Alone())
    return scale_latents(spec, latents_of(spec, moments, noise)).astype(np.float32)


def latents_of(spec: AutoencoderSpec, moments: np.ndarray, noise: Mapping[str, np.ndarray] | None = None) -> np.ndarray:
    """Unscaled latents (B, C, t, h, w) of what `encode_chunks` gives. noise: of the last posterior; None: the mean."""
    if not spec.posteriors:
        return moments
    if noise is None:
        return gaussian.split_moments(moments)[0]
    return gaussian.sample(moments, noise[spec.posteriors[-1]])


def posterior_noise(
    spec: AutoencoderSpec, video: VideoShape, seed: int, draw: Draw = random.normal, purpose: str = "posterior"
) -> dict[str, np.ndarray]:
    """The noise that one clip is encoded with, all of it from a seed."""
    names = {name: f"{purpose}, {name}" for name in spec.posteriors[:-1]} | dict.fromkeys(spec.posteriors[-1:], purpose)
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
    decode the same clip together; each gets all frames. What has one piece only is decoded by each of them: a clip of
    less than four latent frames, and one that the autoencoder cannot take apart.
    Raises (at once): ConfigError when the options do not fit each other or the model; ShapeError for a clip that
    upstream's tiling cannot decode.
    """
    options, team = options or DecodeOptions(), team or Alone()
    frames, height, width = latents.shape[2:]
    chunks = _chunks(spec, frames, options)
    timed = list(zip(chunks, _lengths(spec, chunks, num_frames), strict=True))
    is_shared = team.size > 1 and not options.upstream_tiling
    rounds = relayed_chunks(frames, options.chunk, team.size) if is_shared and spec.streams_exactly else []

    def decoding(new_stream: Callable[[], Stream] | None) -> Decoding:
        tiles = make_tiles(height, width, options.tiles, spec.compression.space, new_stream)
        return Decoding(backend, vae, spec, latents, tiles)

    if rounds:
        return decoding(lambda: backend.relay(team)).relayed(rounds, team)
    if is_shared and len(chunks) > 1 and not spec.streams_exactly:
        return decoding(None).apart(timed, team)
    return decoding(None if options.chunk is None else lambda: _new_stream(vae, options)).in_turn(timed)


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
    stops = _stops(spec, chunks, num_frames)
    return [stop - start for start, stop in zip([0, *stops], stops, strict=False)]


def _stops(spec: AutoencoderSpec, chunks: Sequence[Chunk], num_frames: int | None) -> list[int]:
    """Up to which pixel frame each chunk goes."""
    stops = [spec.compression.video(LatentShape(chunk.stop, 1, 1)).frames for chunk in chunks]
    return [*stops[:-1], num_frames or stops[-1]]


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


def _encode_apart(
    backend: Backend,
    vae: Autoencoder,
    spec: AutoencoderSpec,
    video: np.ndarray,
    noise: Mapping[str, np.ndarray],
    chunk: int | None,
    team: Group,
) -> np.ndarray:
    """As encode_chunks, for pieces that know nothing of each other."""
    whole = VideoShape(*video.shape[2:])
    latent = spec.compression.latent(whole)
    stops = _stops(spec, spec.chunks(latent.frames, chunk), whole.frames)

    def encode(span: tuple[int, int] | None) -> np.ndarray:
        if span is None:
            channels = spec.latent_channels * (2 if spec.posteriors else 1)
            return np.zeros((len(video), channels, 0, latent.height, latent.width), np.float32)
        frames = video[:, :, slice(*span)]
        return encode_chunks(backend, vae, spec, frames, noise=_noise_of(spec, noise, span[0], frames.shape))

    rounds = rounds_of(list(zip([0, *stops], stops, strict=False)), team.size)
    return np.concatenate(list(joined(backend, team, rounds, encode)), axis=2)


def _per_channel(values: tuple[float, ...]) -> np.ndarray:
    return np.array(values, np.float32).reshape(1, -1, 1, 1, 1)
