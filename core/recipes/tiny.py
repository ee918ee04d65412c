"""The tiny model: the networks of Open-Sora Plan v1.3 at a size for CPUs, as a rectified flow on moving shapes.

What it does not say otherwise is as Plan has it: the tiny model is there to try that out.
"""

from __future__ import annotations

from dataclasses import replace

from ..data import moving_shapes
from .opensora_plan_v1_3 import RECIPE as PLAN
from .recipe import Recipe, Texts

RECIPE: Recipe = replace(
    PLAN,
    name="tiny",
    title="the tiny model",
    parts={"denoiser": ("tiny", "tiny_inpaint"), "text_encoder": ("tiny",), "vae": ("tiny",)},
    prompts=Texts(negative="", max_tokens=512, clean=moving_shapes.as_caption, unseen=moving_shapes.unseen_words),
    sampling={
        **PLAN.sampling,
        "sampler.name": "flow_euler",
        "sampler.steps": 25,
        "sampler.shift": 3.0,
        "sampler.guidance": 4.0,
        "video.frames": moving_shapes.FRAMES,
        "video.height": moving_shapes.SIDE,
        "video.width": moving_shapes.SIDE,
        "video.fps": moving_shapes.FPS,
    },
    training={**PLAN.training, "objective.kind": "flow", "objective.shift": 3.0},
)
