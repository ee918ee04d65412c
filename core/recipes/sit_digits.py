"""SiT on handwritten digits of 8 x 8 pixels: what the lesson trains (docs/lesson.md).

What it does not say otherwise is as SiT has it on ImageNet, and of the pictures as DiT of digits has it.
"""

from __future__ import annotations

from dataclasses import replace

from .dit_digits import RECIPE as DIGITS
from .recipe import Recipe
from .sit_imagenet import RECIPE as SIT

OF_DIGITS = ("sampler.guidance", "video.height", "video.width", "condition.max_area")

RECIPE: Recipe = replace(
    SIT,
    name="sit_digits",
    title="SiT of digits",
    parts={"denoiser": ("sit_digits",), "vae": ("pixels",)},
    sampling={
        **SIT.sampling,
        **{path: DIGITS.sampling[path] for path in OF_DIGITS},
        "sampler.name": "interpolant_ode",
        "sampler.steps": 25,
    },
)
