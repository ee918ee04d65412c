"""OpenSoraVAE at a tiny size: groups, slices, noise, sizes; on every backend, and between them."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from duosora.core.errors import ShapeError
from duosora.core.layout import FreshWeights, GivenWeights
from duosora.core.models.opensora_vae import PRESETS, OpenSoraVAESpec
from duosora.core.pipelines.autoencode import DecodeOptions, decode_chunks, encode_latents, scale_latents
from duosora.core.seam.backend import Backend, get
from duosora.core.seam.models import Model
from duosora.core.shapes import VideoShape

TINY = PRESETS["opensora_vae_tiny"]
PARITY = 2e-5
"""Of the largest value: several times what another order of sums makes of 32 frames."""


@pytest.fixture(scope="module", params=["torch", pytest.param("mindspore", marks=pytest.mark.slow)])
def backend(request: pytest.FixtureRequest) -> Backend:
    # Convolutions over time take MindSpore long on a CPU.
    return get(request.param, "cpu")


def build(backend: Backend, spec: OpenSoraVAESpec = TINY, dtype: str = "fp32") -> Model:
    """The model with fresh weights whose norms are not the identity."""
    generator = np.random.default_rng(0)
    weights = {
        name: value + 0.3 * generator.standard_normal(value.shape).astype(np.float32) if "norm" in name else value
        for name, value in FreshWeights(spec.layout(), seed=0).items()
    }
    return backend.build(spec, GivenWeights(weights, "test"), dtype)


class Clip:
    """A clip and its noise."""

    def __init__(self, frames: int = 20, height: int = 16, width: int = 24, batch: int = 1, seed: int = 1) -> None:
        generator = np.random.default_rng(seed)
        latent = TINY.compression.latent(VideoShape(frames, height, width))
        self.frames = frames
        self.video = generator.uniform(-1, 1, (batch, 3, frames, height, width)).astype(np.float32)
        self.noise = {
            "spatial": generator.standard_normal((batch, 4, frames, *latent[1:])).astype(np.float32),
            "temporal": generator.standard_normal((batch, 4, *latent)).astype(np.float32),
        }
        self.latents = generator.standard_normal((batch, 4, *latent)).astype(np.float32)

    def encoded(self, backend: Backend, vae: Model, noise: dict[str, np.ndarray] | None = None) -> Any:
        given = {name: backend.asarray(values) for name, values in noise.items()} if noise else None
        with backend.inference():
            return vae.encode(backend.asarray(self.video), given)

    def decoded(self, backend: Backend, vae: Model) -> np.ndarray:
        with backend.inference():
            return backend.to_numpy(vae.decode(backend.asarray(self.latents), self.frames))


def near(got: np.ndarray, expected: np.ndarray, limit: float = PARITY) -> None:
    np.testing.assert_allclose(got, expected, rtol=0, atol=limit * np.abs(expected).max())


@pytest.mark.parametrize(("frames", "height", "width"), [(1, 16, 24), (3, 19, 30), (18, 8, 8)])
def test_sizes_follow_the_compression(backend: Backend, frames: int, height: int, width: int) -> None:
    vae, clip = build(backend), Clip(frames, height, width, batch=2)
    latents, moments = clip.encoded(backend, vae, clip.noise)
    expected = TINY.compression.latent(VideoShape(frames, height, width))
    assert tuple(latents.shape) == (2, 4, *expected)
    assert tuple(moments["spatial"].shape) == (2, 8, frames, *expected[1:])
    assert tuple(moments["temporal"].shape) == (2, 8, *expected)
    assert clip.decoded(backend, vae).shape == (2, 3, frames, height // 8 * 8, width // 8 * 8)


def test_a_number_of_frames_that_does_not_fit_is_refused(backend: Backend) -> None:
    clip = Clip(frames=17)
    clip.frames = 18
    with pytest.raises(ShapeError, match="num_frames = 18: these have 6 latent frames, not 5"):
        clip.decoded(backend, build(backend))


def test_groups_know_nothing_of_each_other(backend: Backend) -> None:
    vae, clip = build(backend), Clip(frames=20)
    whole = backend.to_numpy(clip.encoded(backend, vae, clip.noise).latents)
    pixels = clip.decoded(backend, vae)
    for frames, latents in ((slice(0, 17), slice(0, 5)), (slice(17, 20), slice(5, 6))):
        part = Clip(frames=20)
        part.video, part.latents = part.video[:, :, frames].copy(), part.latents[:, :, latents].copy()
        part.frames = part.video.shape[2]
        noise = {"spatial": clip.noise["spatial"][:, :, frames], "temporal": clip.noise["temporal"][:, :, latents]}
        own = part.encoded(backend, vae, {name: values.copy() for name, values in noise.items()}).latents
        near(backend.to_numpy(own), whole[:, :, latents])
        near(part.decoded(backend, vae), pixels[:, :, frames])


def test_the_pipeline_encodes_and_decodes_any_length_in_groups(backend: Backend) -> None:
    vae, clip = build(backend), Clip(frames=20)
    latents = scale_latents(TINY, backend.to_numpy(clip.encoded(backend, vae, clip.noise).latents))
    for chunk in (None, 5):
        near(encode_latents(backend, vae, TINY, clip.video, clip.noise, chunk), latents)
        decoded = list(decode_chunks(backend, vae, TINY, clip.latents, DecodeOptions(chunk), num_frames=20))
        assert [part.shape[2] for part in decoded] == [17, 3]
        near(np.concatenate(decoded, axis=2), clip.decoded(backend, vae))
    means = encode_latents(backend, vae, TINY, clip.video)
    near(means, scale_latents(TINY, backend.to_numpy(clip.encoded(backend, vae).latents)))
    assert np.abs(means - latents).max() > 0.1


def test_memory_is_bounded_by_slices_and_groups(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    vae, clip = build(backend), Clip(frames=20, batch=2)
    seen: dict[str, list[int]] = {}

    def noting(owner: Any, name: str, axis: int) -> None:
        function = getattr(owner, name)

        def call(x: Any, *rest: Any) -> Any:
            seen.setdefault(f"{type(owner).__name__}.{name}", []).append(x.shape[axis])
            return function(x, *rest)

        monkeypatch.setattr(owner, name, call)

    for owner, axis, names in (
        (vae.spatial_vae.module, 0, ("moments", "pictures")),
        (vae.temporal_vae, 2, ("encode", "decode")),
    ):
        noting(owner, names[0], axis)
        noting(owner, names[1], axis)
    clip.encoded(backend, vae)
    clip.decoded(backend, vae)
    assert seen["PictureVAE.moments"] == [4] * 10
    assert max(seen["PictureVAE.pictures"]) == 4
    assert sum(seen["PictureVAE.pictures"]) == 40
    assert seen["TemporalVAE.encode"] == [17, 3]
    assert seen["TemporalVAE.decode"] == [5, 1]


def test_slices_change_no_number(backend: Backend) -> None:
    clip = Clip(frames=5, batch=2)
    results = []
    for size in (1, 3, None):
        vae = build(backend, replace(TINY, micro_batch_size=size))
        encoded = backend.to_numpy(clip.encoded(backend, vae, clip.noise).latents)
        results.append((encoded, clip.decoded(backend, vae)))
    for encoded, decoded in results[1:]:
        near(encoded, results[0][0])
        near(decoded, results[0][1])


def test_without_noise_the_means_are_taken(backend: Backend) -> None:
    vae, clip = build(backend), Clip(frames=5)
    means = backend.to_numpy(clip.encoded(backend, vae).latents)
    zeros = {name: np.zeros_like(values) for name, values in clip.noise.items()}
    near(backend.to_numpy(clip.encoded(backend, vae, zeros).latents), means)
    drawn = backend.to_numpy(clip.encoded(backend, vae, clip.noise).latents)
    assert np.abs(drawn - means).max() > 0.1


def test_reconstruction_is_encoding_and_decoding(backend: Backend) -> None:
    vae, clip = build(backend), Clip(frames=20)
    noise = {name: backend.asarray(values) for name, values in clip.noise.items()}
    with backend.inference():
        pixels, latents, _, pairs = vae.reconstruct(backend.asarray(clip.video), noise)[:4]
    near(backend.to_numpy(latents), backend.to_numpy(clip.encoded(backend, vae, clip.noise).latents))
    clip.latents = backend.to_numpy(latents)
    near(backend.to_numpy(pixels), clip.decoded(backend, vae))
    assert [tuple(each.shape) for each in pairs["spatial"]] == [(1, 4, 20, 2, 3)] * 2


@pytest.mark.parametrize(
    ("name", "dtype"), [("torch", "bf16"), pytest.param("mindspore", "fp16", marks=pytest.mark.slow)]
)
def test_half_precision_stays_near(name: str, dtype: str) -> None:
    backend = get(name, "cpu")
    clip = Clip(frames=5)
    whole, half = build(backend), build(backend, dtype=dtype)
    pixels = clip.decoded(backend, half)
    assert pixels.dtype == np.float32
    near(pixels, clip.decoded(backend, whole), 0.1)
    latents = clip.encoded(backend, half, clip.noise).latents
    near(backend.to_numpy(latents), backend.to_numpy(clip.encoded(backend, whole, clip.noise).latents), 0.1)


@pytest.mark.parametrize(
    ("part", "eps"), [("spatial_vae.module.encoder.conv_norm_out", 1e-6), ("temporal_vae.encoder.norm1", 1e-5)]
)
def test_norms_of_faint_values_have_their_own_eps(backend: Backend, part: str, eps: float) -> None:
    norm = backend.build(TINY, FreshWeights(TINY.layout(), 0))
    for name in part.split("."):
        norm = getattr(norm, name)
    (channels,) = norm.weight.shape
    x = 1e-3 * np.random.default_rng(0).standard_normal((1, channels, 4, 4)).astype(np.float32)
    groups = x.reshape(8, -1).astype(np.float64)
    centred = groups - groups.mean(1, keepdims=True)
    expected = (centred / np.sqrt((centred**2).mean(1, keepdims=True) + eps)).reshape(x.shape)
    with backend.inference():
        near(backend.to_numpy(norm(backend.asarray(x))), expected, 1e-4)
