"""Family `dit`: forwards of the DiT of videos, with classes or with vectors of texts."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from ...layout import Layout
from ...models.dit import DiTSpec
from ...seam.backend import Backend
from ...seam.models import Given
from ...shapes import LatentShape
from ..case import Case, Comparison

INPUTS = r"(.+/)?(x|t|y)"
LATENTS = re.compile(r"(?P<prefix>(?:.+/)?)x")


def run(case: Case, backend: Backend, alternates: bool = False) -> Iterator[Comparison]:
    """Compute every output tensor of a case of this family. alternates: it is one of Latte."""
    spec = DiTSpec.from_config({**case.config, "alternates": alternates}, case.name)
    model = backend.build(spec, case.weights())
    for match in filter(None, map(LATENTS.fullmatch, case.tensors)):
        prefix = match["prefix"]
        latents, times, about = (case.tensors[prefix + name] for name in ("x", "t", "y"))
        condition = model.condition(given_of(spec, about), LatentShape(*latents.shape[2:]))
        output = model(backend.asarray(latents), backend.asarray(times.astype(np.float32)), condition)
        yield Comparison(f"{prefix}out", backend.to_numpy(output))


def layout(manifest: Mapping[str, Any], alternates: bool = False) -> Layout:
    """The layout of a full-size model, of which a manifest says how it was built: XL in patches of 2, or 2 x 2."""
    patch = [2, 2, 2] if manifest["upstream_symbol"].endswith("2x2") else [1, 2, 2]
    config = {**manifest["construct"], "patch_size": patch, "alternates": alternates}
    return DiTSpec.from_config(config, "manifest").layout()


def given_of(spec: DiTSpec, about: np.ndarray) -> Given:
    """What upstream's call was given: classes (B,), or vectors of texts (B, 1, 1, C)."""
    return Given(label=about) if spec.num_classes else Given(pooled=about[:, 0, 0])
