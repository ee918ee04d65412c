"""WFVAE in chunks of time and tiles of space: equal to one piece, in constant memory; upstream's way if asked for."""

import functools
import gc
import itertools
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
import torch

from duosora.backends.torch.models.wfvae import WFVAE
from duosora.core.errors import ConfigError, ShapeError
from duosora.core.layout import FreshWeights
from duosora.core.models.wfvae import WFVAESpec
from duosora.core.pipelines.autoencode import DecodeOptions, decode_chunks, encode_chunks
from duosora.core.pipelines.tiled import SpatialTiles
from duosora.core.seam.backend import get

BACKEND = get("torch", "cpu")
CHUNKS = (1, 2, 3, 4, 5, 6, 50)


def small(**options: Any) -> WFVAESpec:
    widths = {"base_channels": 4, "encoder_energy_flow_hidden_size": 4, "decoder_energy_flow_hidden_size": 4}
    if options.get("norm_type") == "groupnorm":
        widths = dict.fromkeys(widths, 32)
    depths = {"encoder_num_resblocks": 1, "decoder_num_resblocks": 1}
    latents = {"latent_dim": 4, "scale": (1.0,) * 4, "shift": (0.0,) * 4}
    return WFVAESpec(**{**widths, **depths, **latents, "norm_type": "layernorm", **options})


SPECS = {
    "4x8x8 linear": small(t_interpolation="trilinear"),
    "4x8x8 nearest": small(t_interpolation="nearest"),
    "8x8x8 linear": small(t_interpolation="trilinear", temporal_level_1=True),
    "8x8x8 nearest": small(t_interpolation="nearest", temporal_level_1=True),
}


@functools.cache
def build(spec: WFVAESpec) -> WFVAE:
    return BACKEND.build(spec, FreshWeights(spec.layout(), seed=0))


def normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).standard_normal(shape, dtype=np.float32)


def decode(vae: WFVAE, latents: np.ndarray, **options: Any) -> np.ndarray:
    return np.concatenate(list(decode_chunks(BACKEND, vae, vae.spec, latents, DecodeOptions(**options))), axis=2)


def encode(
    vae: WFVAE, video: np.ndarray | Iterable[np.ndarray], chunk: int | None = None, **options: Any
) -> np.ndarray:
    return encode_chunks(BACKEND, vae, vae.spec, video, chunk, **options)


def near(got: np.ndarray, expected: np.ndarray) -> None:
    """Equal but for the order of sums: 7e-6 of the range was the most seen, and 1e-1 the least by a faulty cache."""
    np.testing.assert_allclose(got, expected, rtol=0, atol=5e-5 * np.abs(expected).max())


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
@pytest.mark.parametrize("latent_frames", range(1, 12))
def test_any_chunks_give_what_one_piece_gives(spec: WFVAESpec, latent_frames: int) -> None:
    vae = build(spec)
    video = normal(1, 3, 1 + (latent_frames - 1) * spec.compression.time, 16, 16)
    latents = normal(1, 4, latent_frames, 2, 2)
    moments, pixels = encode(vae, video), decode(vae, latents)
    assert pixels.shape == video.shape
    for chunk in CHUNKS:
        near(encode(vae, video, chunk), moments)
        near(decode(vae, latents, chunk=chunk), pixels)


@pytest.mark.parametrize(
    "options", [{"use_attention": False}, {"connect_res_layer_num": 2, "decoder_num_resblocks": 2}]
)
def test_chunks_are_exact_for_other_depths_and_batches(options: dict[str, Any]) -> None:
    vae = build(small(t_interpolation="trilinear", **options))
    video, latents = normal(2, 3, 21, 16, 24), normal(2, 4, 6, 2, 3)
    near(encode(vae, video, 2), encode(vae, video))
    near(decode(vae, latents, chunk=2), decode(vae, latents))


def test_chunks_of_different_sizes_are_exact() -> None:
    vae = build(SPECS["8x8x8 linear"])
    latents = torch.from_numpy(normal(1, 4, 9, 2, 2))
    stream, parts = vae.stream(), []
    bounds = list(itertools.pairwise([0, 3, 4, 8, 9]))
    for start, stop in bounds:
        stream.advance(is_last=stop == 9)
        parts.append(vae.decode(latents[:, :, start:stop], stream=stream))
    near(torch.cat(parts, 2).numpy(), vae.decode(latents).numpy())


def test_streams_through_one_model_do_not_mix() -> None:
    vae = build(SPECS["4x8x8 linear"])
    clips = [normal(1, 4, 5, 2, 2), 3 * normal(1, 4, 5, 2, 2)]
    running = [decode_chunks(BACKEND, vae, vae.spec, clip, DecodeOptions(chunk=1)) for clip in clips]
    turns = list(zip(*running, strict=True))
    for number, clip in enumerate(clips):
        near(np.concatenate([turn[number] for turn in turns], axis=2), decode(vae, clip))


def test_a_clip_is_encoded_from_pieces_of_any_lengths() -> None:
    vae = build(SPECS["4x8x8 linear"])
    video = normal(1, 3, 17, 16, 16)
    pieces = [video[:, :, a:b] for a, b in itertools.pairwise([0, 1, 4, 5, 15, 17])]
    for chunk in (None, 1, 3):
        assert np.array_equal(encode(vae, iter(pieces), chunk), encode(vae, video, chunk))


def test_a_clip_whose_length_does_not_fit_is_refused_in_pieces_too() -> None:
    vae = build(SPECS["4x8x8 linear"])
    for chunk in (None, 1):
        with pytest.raises(ShapeError, match="num_frames = 7"):
            encode(vae, iter([normal(1, 3, 5, 16, 16), normal(1, 3, 2, 16, 16)]), chunk)


def test_pixel_frames_come_while_later_latents_are_still_to_be_decoded() -> None:
    vae = build(SPECS["4x8x8 linear"])
    lengths = [
        part.shape[2] for part in decode_chunks(BACKEND, vae, vae.spec, normal(1, 4, 8, 2, 2), DecodeOptions(chunk=2))
    ]
    # Frames are held back where time is doubled linearly, once per clip.
    assert lengths == [3, 8, 8, 10]


@pytest.mark.parametrize("name", ["4x8x8 linear", "8x8x8 linear"])
def test_memory_held_between_chunks_depends_neither_on_the_clip_nor_on_the_chunk(name: str) -> None:
    vae = build(SPECS[name])
    latents = normal(1, 4, 24, 2, 2)
    list(decode_chunks(BACKEND, vae, vae.spec, latents, DecodeOptions(chunk=3)))  # tables are kept for later clips
    gc.collect()
    held = {
        chunk: [tensor_bytes() for _ in decode_chunks(BACKEND, vae, vae.spec, latents, DecodeOptions(chunk=chunk))]
        for chunk in (3, 6)
    }
    assert len({*held[3][:-1], *held[6][:-1]}) == 1
    assert held[3][-1] < held[3][0]


def tensor_bytes() -> int:
    """All memory that tensors hold, whole storages of slices included."""
    things = (thing for thing in gc.get_objects() if type(thing) in (torch.Tensor, torch.nn.Parameter))
    tensors = (tensor for tensor in things if tensor.layout == torch.strided)  # other tests leave sparse and fake ones
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
    return sum(storages.values())


def test_group_norm_refuses_chunks() -> None:
    vae = build(small(norm_type="groupnorm"))
    for attempt in (
        lambda: encode(vae, normal(1, 3, 5, 16, 16), 1),
        lambda: decode(vae, normal(1, 4, 2, 2, 2), chunk=1),
    ):
        with pytest.raises(ConfigError, match="chunk: a WFVAE with norm_type = groupnorm needs the clip in one piece"):
            attempt()


@pytest.mark.parametrize("t_interpolation", ["trilinear", "nearest"])
def test_upstream_tiling_is_right_unless_a_single_frame_comes_last(t_interpolation: str) -> None:
    vae = build(small(t_interpolation=t_interpolation))
    for frames in (1, 3, 5, 7):
        latents = normal(1, 4, frames, 2, 2)
        near(decode(vae, latents, chunk=2, upstream_tiling=True), decode(vae, latents))
    latents = normal(1, 4, 6, 2, 2)
    difference = np.abs(decode(vae, latents, chunk=2, upstream_tiling=True) - decode(vae, latents)).max(
        axis=(0, 1, 3, 4)
    )
    assert (difference[:-6] < 1e-4).all()
    assert (difference[-4:] > 1e-2).all()


def test_upstream_tiling_encodes_exactly() -> None:
    vae = build(SPECS["4x8x8 linear"])
    video = normal(1, 3, 21, 16, 16)
    near(encode(vae, video, 2, upstream_tiling=True), encode(vae, video))


def test_upstream_tiling_refuses_what_upstream_cannot_decode() -> None:
    with pytest.raises(ShapeError, match="2 latent frames"):
        decode(build(SPECS["4x8x8 linear"]), normal(1, 4, 2, 2, 2), chunk=2, upstream_tiling=True)
    with pytest.raises(ConfigError, match="compress time 4 times, not 8 times"):
        decode(build(SPECS["8x8x8 linear"]), normal(1, 4, 5, 2, 2), chunk=2, upstream_tiling=True)
    with pytest.raises(ConfigError, match="needs a chunk size"):
        decode(build(SPECS["4x8x8 linear"]), normal(1, 4, 5, 2, 2), upstream_tiling=True)


@pytest.mark.parametrize("chunk", [None, 2])
def test_a_tile_as_large_as_the_frame_changes_nothing(chunk: int | None) -> None:
    vae = build(SPECS["4x8x8 linear"])
    latents = normal(2, 4, 4, 3, 5)
    tiled = decode(vae, latents, chunk=chunk, tiles=SpatialTiles(5, 2))
    assert np.array_equal(tiled, decode(vae, latents, chunk=chunk))


def test_tiles_stream_in_time_without_further_error() -> None:
    vae = build(SPECS["4x8x8 linear"])
    latents = normal(1, 4, 5, 5, 7)
    tiles = SpatialTiles(4, 2)
    near(decode(vae, latents, chunk=2, tiles=tiles), decode(vae, latents, tiles=tiles))


def test_tiles_come_nearer_to_whole_frames_as_they_grow() -> None:
    vae = build(SPECS["4x8x8 linear"])
    latents = normal(1, 4, 2, 16, 16)
    whole = decode(vae, latents)
    errors = [
        np.sqrt(np.mean((decode(vae, latents, tiles=SpatialTiles(*t)) - whole) ** 2)) for t in ((4, 1), (8, 2), (12, 4))
    ]
    assert errors[0] > errors[1] > errors[2] > 0
    assert errors[2] < 0.2 * np.std(whole)


@pytest.mark.parametrize(("chunk", "most"), [(None, 3.5), (2, 8.5)], ids=["whole", "chunks"])
def test_decoding_keeps_few_tensors_as_large_as_the_widest_of_a_chunk(
    chunk: int | None, most: float, alive: Any
) -> None:
    """In chunks the frames that each layer keeps come to four and a half of them."""
    spec = small(t_interpolation="trilinear", base_channels=32, decoder_energy_flow_hidden_size=32)
    vae, latents = build(spec), normal(1, 4, 5, 16, 16)
    with alive(vae) as memory:
        for _ in decode_chunks(BACKEND, vae, spec, latents, DecodeOptions(chunk=chunk)):
            pass
    frames = 9 if chunk is None else 4
    widest = 64 * frames * 64 * 64 * 4
    assert memory.peak < most * widest
