"""Family `stdit2`: forwards of the denoiser of Open-Sora 1.1."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ...layout import Layout
from ...models.stdit2 import STDiT2Spec
from ...seam.backend import Backend
from ...seam.models import Given
from ..case import Case, Comparison
from .stdit import of_latents, predicted

FACTS = {"fps": "fps", "height": "height", "width": "width", "num_frames": "num_frames", "ratio": "ar"}
"""Names of what is given by those of the recorded tensors."""
INPUTS = rf"(.+/)?(x|timestep|y|mask|x_mask|{'|'.join(FACTS.values())})"
LEFT_OUT = {"qk_norm": False, "input_sq_size": 32, "model_max_length": 120}
"""What upstream's class takes for options that a config leaves out, where the published weights have others."""
LATER = "v1.2"
"""From then on queries and keys were normed first, unless a config said otherwise."""


def run(case: Case, backend: Backend) -> Iterator[Comparison]:
    """Compute every output tensor of a case of this family."""
    left_out = LEFT_OUT | {"qk_norm_legacy": str(case.raw.get("upstream_tag", "")) < LATER}
    spec = STDiT2Spec.from_config(left_out | case.config, case.name)
    model = backend.build(spec, case.weights())
    for tag in case.tags():
        prefix = f"{tag}/" if tag else ""
        inputs = {name.removeprefix(prefix): array for name, array in case.tensors.items() if name.startswith(prefix)}
        given = Given(
            text=inputs["y"][:, 0],
            text_mask=inputs.get("mask"),
            frame_mask=of_latents(inputs.get("x_mask"), spec.patch_size[0], inputs["x"].shape[2]),
            **{name: inputs[recorded] for name, recorded in FACTS.items()},
        )
        yield Comparison(f"{prefix}out", predicted(backend, model, inputs["x"], inputs["timestep"], given))


def layout(manifest: Mapping[str, Any]) -> Layout:
    """The layout of a full-size model, of which a manifest says how it was built."""
    options = {name: value for name, value in manifest["construct"].items() if name != "type"}
    return STDiT2Spec.from_config(LEFT_OUT | options, "manifest").layout()
