"""Family `stdit`: forwards of the denoiser of Open-Sora 1.0."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from ...layout import Layout
from ...models.stdit import STDiTSpec
from ...seam.backend import Backend
from ...seam.models import Given
from ...shapes import LatentShape
from ..case import Case, Comparison

INPUTS = r"(.+/)?(x|timestep|y|mask|x_mask)"


def run(case: Case, backend: Backend) -> Iterator[Comparison]:
    """Compute every output tensor of a case of this family."""
    spec = STDiTSpec.from_config(case.config, case.name)
    model = backend.build(spec, case.weights())
    for tag in case.tags():
        latents = case.get(tag, "x")
        inputs = {name: case.tensors.get(f"{tag}/{name}" if tag else name) for name in ("mask", "x_mask")}
        moves = of_latents(inputs["x_mask"], spec.patch_size[0], latents.shape[2])
        given = Given(text=case.get(tag, "y")[:, 0], text_mask=inputs["mask"], frame_mask=moves)
        yield Comparison(
            f"{tag}/out" if tag else "out", predicted(backend, model, latents, case.get(tag, "timestep"), given)
        )


def predicted(backend: Backend, model: Any, latents: np.ndarray, timestep: np.ndarray, given: Given) -> np.ndarray:
    """What a model makes of latents at a timestep (B,)."""
    condition = model.condition(given, LatentShape(*latents.shape[2:]))
    return backend.to_numpy(model(backend.asarray(latents), backend.asarray(timestep.astype(np.float32)), condition))


def of_latents(moves: np.ndarray | None, step: int, frames: int) -> np.ndarray | None:
    """Upstream's mask of the tokens' frames (B, T / step) as one of the latents' (B, T)."""
    return None if moves is None else np.repeat(moves, step, axis=1)[:, :frames]


def layout(manifest: Mapping[str, Any]) -> Layout:
    """The layout of a full-size model, of which a manifest says how it was built."""
    options = {name: value for name, value in manifest["construct"].items() if name != "type"}
    return STDiTSpec.from_config(options, "manifest").layout()
