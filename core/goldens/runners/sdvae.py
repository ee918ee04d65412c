"""Family `sdvae`: the autoencoder of pictures of Stable Diffusion, by itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from ...layout import Layout
from ...maths import gaussian
from ...models.config_json import refuse_unknown
from ...models.sd_vae import SDVAESpec
from ...seam.backend import Backend
from ...seam.models import Model
from ..case import Case, Comparison, check_options
from ..tables import same


def run(case: Case, backend: Backend) -> Iterator[Comparison]:
    """Compute every result of a case of this family."""
    if case.table:
        # Files with them load as they are; the converters' rules are tested against the same list.
        yield same("old_to_new", dict(SDVAESpec().layout().aliases), case.raw["old_to_new"])
        return
    if "model" in case.config:
        check_options(case.config, case.name, ("model", "pipeline_scale"))
        yield from _frames(case, backend)
        return
    vae = backend.build(_spec(case.config, case.name), case.weights())
    for prefix, given in (("", "x"), ("odd_", "odd")):
        if given in case.tensors:
            yield from _picture(case, backend, vae, prefix, given)


def layout(manifest: Mapping[str, Any]) -> Layout:
    """Of a full-size model: all published ones have the defaults."""
    return SDVAESpec().layout()


def _spec(config: Mapping[str, Any], source: str) -> SDVAESpec:
    rest = dict(config)
    spec = SDVAESpec.take_from(rest, source)
    refuse_unknown(rest, source)
    return spec


def _picture(case: Case, backend: Backend, vae: Model, prefix: str, given: str) -> Iterator[Comparison]:
    moments = backend.to_numpy(vae.moments(backend.asarray(case.tensors[given])))
    mean, log_variance = gaussian.split_moments(moments)
    results = {
        "mean": mean,
        "logvar": log_variance,
        "std": gaussian.standard_deviation(moments),
        "kl": gaussian.kl(moments[:, :, None]).sum(axis=1),
        "decoded": _decoded(backend, vae, mean),
    }
    if not prefix and "noise" in case.tensors:
        results["sample"] = gaussian.sample(moments, case.tensors["noise"])
    yield from (Comparison(f"{prefix}{name}", values) for name, values in results.items())


def _frames(case: Case, backend: Backend) -> Iterator[Comparison]:
    """A video, frame by frame, with latents scaled as pipelines have them."""
    vae = backend.build(_spec(case.config["model"], case.name), case.weights())
    scale, video, noise = case.config["pipeline_scale"], case.tensors["video"], case.tensors["noise"]
    moments = backend.to_numpy(vae.moments(backend.asarray(_folded(video))))
    latents = gaussian.sample(moments, _folded(noise))
    yield Comparison("latents", scale * _unfolded(latents, len(video)))
    yield Comparison("decoded", _unfolded(_decoded(backend, vae, latents), len(video)))


def _decoded(backend: Backend, vae: Model, latents: np.ndarray) -> np.ndarray:
    return backend.to_numpy(vae.pictures(backend.asarray(np.ascontiguousarray(latents))))


def _folded(video: np.ndarray) -> np.ndarray:
    """(B, C, T, H, W) -> (B * T, C, H, W)."""
    return np.ascontiguousarray(video.swapaxes(1, 2).reshape(-1, video.shape[1], *video.shape[3:]))


def _unfolded(frames: np.ndarray, batch: int) -> np.ndarray:
    """The inverse of _folded."""
    return frames.reshape(batch, -1, *frames.shape[1:]).swapaxes(1, 2)
