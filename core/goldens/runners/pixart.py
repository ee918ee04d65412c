"""Family `pixart`: forwards of PixArt, PixArtMS and PixArt-Sigma."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from ...layout import Layout
from ...models.pixart import PixArtSpec
from ...seam.backend import Backend
from ...seam.models import Given
from ...shapes import LatentShape
from ..case import Case, Comparison

INPUTS = r"(.+/)?(x|timestep|y|mask|data_info\..+)"
LATENTS = re.compile(r"(?P<prefix>(?:.+/)?)x")


def run(case: Case, backend: Backend) -> Iterator[Comparison]:
    """Compute every output tensor of a case of this family."""
    spec = PixArtSpec.from_config(_config(case.config, case.raw.get("upstream_symbol", "")), case.name)
    model = backend.build(spec, case.weights())
    for match in filter(None, map(LATENTS.fullmatch, case.tensors)):
        prefix = match["prefix"]
        inputs = {name.removeprefix(prefix): array for name, array in case.tensors.items() if name.startswith(prefix)}
        latents, times = inputs["x"], inputs["timestep"].astype(np.float32)
        condition = model.condition(given_of(inputs), LatentShape(*latents.shape[2:]))
        output = model(backend.asarray(latents), backend.asarray(times), condition)
        yield Comparison(f"{prefix}out", backend.to_numpy(output))


def layout(manifest: Mapping[str, Any]) -> Layout:
    """The layout of a full-size model, of which a manifest says how it was built: XL, or 1B, and all else by name."""
    sizes = {"hidden_size": 1872, "num_heads": 26} if "1B" in manifest["upstream_symbol"] else {}
    config = _config({**manifest["construct"], **sizes}, manifest["upstream_symbol"])
    return PixArtSpec.from_config(config, "manifest").layout()


def given_of(inputs: Mapping[str, np.ndarray]) -> Given:
    """What upstream's call was given: texts (B, 1, L, C), their mask, and sizes (B, 2) with ratios (B, 1)."""
    size, ratio = inputs.get("data_info.hw"), inputs.get("data_info.ar")
    return Given(
        text=inputs["y"][:, 0],
        text_mask=inputs.get("mask"),
        height=None if size is None else size[:, 0],
        width=None if size is None else size[:, 1],
        ratio=None if ratio is None else ratio.reshape(len(ratio)),
    )


def _config(config: Mapping[str, Any], symbol: str) -> dict[str, Any]:
    """With the name of upstream's class, or of the factory of a size of it."""
    return {**config, "architectures": ["PixArtMS" if "PixArtMS" in symbol else "PixArt"]}
