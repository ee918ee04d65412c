"""DiT on handwritten digits of 8 x 8 pixels: what the lesson trains (docs/lesson.md).

What it does not say otherwise is as DiT has it on ImageNet.
"""

from __future__ import annotations

from dataclasses import replace

from ..data.digits import SIDE
from .dit_imagenet import RECIPE as DIT
from .recipe import Recipe

RECIPE: Recipe = replace(
    DIT,
    name="dit_digits",
    title="DiT of digits",
    parts={"denoiser": ("dit_digits",), "vae": ("pixels",)},
    sampling={
        **DIT.sampling,
        "sampler.name": "respaced_ddim",
        "sampler.steps": 50,
        "sampler.guidance": 2.0,
        "video.height": SIDE,
        "video.width": SIDE,
        "condition.max_area": SIDE * SIDE,
    },
)
