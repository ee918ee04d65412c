"""Family `osvae`: the video autoencoder of Open-Sora 1.2, and its temporal part alone, with the recorded noise."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from ...layout import FreshWeights, GivenWeights, Layout
from ...maths import gaussian
from ...models.opensora_vae import OpenSoraVAESpec
from ...pipelines.autoencode import scale_latents, unscale_latents
from ...seam.backend import Backend
from ...seam.models import Model
from ...shapes import Grouped, VideoShape
from ..case import Case, Comparison, check_options
from ..tables import same

INPUTS = ".+/(x|z|z_rand|noise_spatial|noise_temporal|sample_noise)"
"""The latents z are given to the temporal autoencoder alone, and a result elsewhere."""
CONFIG_KEYS = ("vae_2d", "vae_temporal", "micro_frame_size", "micro_batch_size", "cal_loss", "shift", "scale")


def run(case: Case, backend: Backend) -> Iterator[Comparison]:
    """Compute every output tensor of a case of this family. Raises: ConfigError for options that no runner follows."""
    if case.table:
        yield from _sizes(case)
    elif "vae_2d" in case.config:
        yield from _pipeline(case, backend)
    else:
        yield from _temporal(case, backend)


def layout(manifest: Mapping[str, Any]) -> Layout:
    """Of a full-size model."""
    config = {key.removesuffix("_config"): value for key, value in manifest.items()}
    return _spec({key: config[key] for key in CONFIG_KEYS if key in config}, str(manifest["model"])).layout()


def _spec(config: Mapping[str, Any], source: str) -> OpenSoraVAESpec:
    check_options(config, source, CONFIG_KEYS)
    rest = dict(config)
    rest["vae_2d"] = {**rest["vae_2d"], "micro_batch_size": rest.pop("micro_batch_size")}
    return OpenSoraVAESpec.from_config(rest, source)


def _sizes(case: Case) -> Iterator[Comparison]:
    for number, row in enumerate(case.raw["rows"]):
        compression = Grouped(row["micro_frame_size"], 4, 8)
        given = row["input"]
        # Sizes that are not known yet stay so.
        found = list(compression.latent(VideoShape(*given))) if None not in given else [None] * 3
        yield same(f"rows.{number}", found, row["latent"])


def _pipeline(case: Case, backend: Backend) -> Iterator[Comparison]:
    spec = _spec(case.config, case.name)
    vae = backend.build(spec, case.weights())
    for tag in case.tags():
        clip = _Clip(case, tag, backend, vae, spec)
        yield from clip.rebuilt() if case.config["cal_loss"] else clip.encoded_and_decoded()


class _Clip:
    """One clip of a case, with its noise."""

    def __init__(self, case: Case, tag: str, backend: Backend, vae: Model, spec: OpenSoraVAESpec) -> None:
        self.case, self.tag, self.backend, self.vae, self.spec = case, tag, backend, vae, spec
        video = case.get(tag, "x")
        self.batch, _, self.num_frames = video.shape[:3]
        self.video = backend.asarray(video)
        noise = {"spatial": self._by_clip(case.get(tag, "noise_spatial")), "temporal": case.get(tag, "noise_temporal")}
        self.noise = {name: backend.asarray(np.ascontiguousarray(values)) for name, values in noise.items()}

    def encoded_and_decoded(self) -> Iterator[Comparison]:
        numpy = self.backend.to_numpy
        latents, moments = self.vae.encode(self.video, self.noise)
        scaled = scale_latents(self.spec, numpy(latents))
        yield Comparison(f"{self.tag}/moments_spatial", self._by_frame(numpy(moments["spatial"])))
        yield Comparison(f"{self.tag}/z", scaled)
        yield Comparison(f"{self.tag}/rec", self._decoded(scaled))
        yield Comparison(f"{self.tag}/dec_rand", self._decoded(self.case.get(self.tag, "z_rand")))
        if self.spec.micro_frame_size is not None:
            yield Comparison(f"{self.tag}/z", self._encoded_by_groups(), "group by group")
            yield Comparison(f"{self.tag}/rec", self._decoded_by_groups(scaled), "group by group")

    def rebuilt(self) -> Iterator[Comparison]:
        numpy = self.backend.to_numpy
        pixels, latents, moments, pairs = self.vae.reconstruct(self.video, self.noise)[:4]
        mean, log_variance = gaussian.split_moments(numpy(moments["temporal"]))
        given, again = pairs["spatial"]
        results = {
            "moments_spatial": self._by_frame(numpy(moments["spatial"])),
            "posterior_mean": mean,
            "posterior_logvar": log_variance,
            "z": numpy(latents),
            "x_z": numpy(given),
            "x_z_rec": numpy(again),
            "x_rec": numpy(pixels),
        }
        yield from (Comparison(f"{self.tag}/{name}", values) for name, values in results.items())

    def _encoded_by_groups(self) -> np.ndarray:
        size, latent_size = self.spec.micro_frame_size or 0, self.spec.compression.latent_frames
        parts = []
        for number, start in enumerate(range(0, self.num_frames, size)):
            noise = {
                "spatial": self.noise["spatial"][:, :, start : start + size],
                "temporal": self.noise["temporal"][:, :, number * latent_size : (number + 1) * latent_size],
            }
            latents, _ = self.vae.encode(self.video[:, :, start : start + size], noise, self.vae.stream())
            parts.append(self.backend.to_numpy(latents))
        return scale_latents(self.spec, np.concatenate(parts, axis=2))

    def _decoded_by_groups(self, scaled: np.ndarray) -> np.ndarray:
        size = self.spec.micro_frame_size or 0
        chunks = self.spec.chunks(scaled.shape[2], None)
        lengths = [min(size, self.num_frames - number * size) for number in range(len(chunks))]
        parts = [
            self._decoded(scaled[:, :, chunk.start : chunk.stop], length)
            for chunk, length in zip(chunks, lengths, strict=True)
        ]
        return np.concatenate(parts, axis=2)

    def _decoded(self, scaled: np.ndarray, num_frames: int | None = None) -> np.ndarray:
        latents = self.backend.asarray(unscale_latents(self.spec, scaled).astype(np.float32))
        return self.backend.to_numpy(self.vae.decode(latents, num_frames or self.num_frames))

    def _by_clip(self, frames: np.ndarray) -> np.ndarray:
        """(B * T, C, h, w) -> (B, C, T, h, w)."""
        return frames.reshape(self.batch, self.num_frames, *frames.shape[1:]).swapaxes(1, 2)

    def _by_frame(self, clip: np.ndarray) -> np.ndarray:
        """The inverse of _by_clip."""
        return clip.swapaxes(1, 2).reshape(-1, clip.shape[1], *clip.shape[3:])


def _temporal(case: Case, backend: Backend) -> Iterator[Comparison]:
    config = {"vae_2d": {"micro_batch_size": None}, "vae_temporal": case.config}
    whole = OpenSoraVAESpec.from_config(config, case.name)
    spec = replace(
        whole, spatial=replace(whole.spatial, block_out_channels=(8,), layers_per_block=1, norm_num_groups=8)
    )
    given = {f"temporal_vae.{name}": values for name, values in case.weights().items()}
    vae = backend.build(spec, GivenWeights(dict(FreshWeights(spec.layout(), 0)) | given, case.name)).temporal_vae
    for tag in case.tags():
        frames = case.get(tag, "x")

        def decode(latents: np.ndarray, num_frames: int = frames.shape[2]) -> np.ndarray:
            return backend.to_numpy(vae.decode(backend.asarray(np.ascontiguousarray(latents)), num_frames))

        moments = backend.to_numpy(vae.encode(backend.asarray(frames)))
        mean, log_variance = gaussian.split_moments(moments)
        yield Comparison(f"{tag}/mean", mean)
        yield Comparison(f"{tag}/logvar", log_variance)
        yield Comparison(f"{tag}/sample", gaussian.sample(moments, case.get(tag, "sample_noise")))
        yield Comparison(f"{tag}/kl", gaussian.kl(moments).sum(axis=1))
        yield Comparison(f"{tag}/dec", decode(case.get(tag, "z")))
        yield Comparison(f"{tag}/rec_mode", decode(mean))
