"""The tiny models of the first release: its three networks at a size for CPUs, on moving shapes.

They work on the latents of the tiny autoencoder. What it does not say otherwise is as the first release has it.
"""

from __future__ import annotations

from dataclasses import replace

from ..data import moving_shapes
from .opensora_first import RECIPE as FIRST
from .opensora_first import WAYS
from .recipe import Recipe, Texts

RECIPE: Recipe = replace(
    FIRST,
    name="tiny_first",
    title="the tiny models of the first release",
    parts={"denoiser": tuple(f"tiny_first_{way}" for way in WAYS), "text_encoder": ("tiny",), "vae": ("tiny",)},
    prompts=Texts(negative=None, max_tokens=24, clean=moving_shapes.as_caption, unseen=moving_shapes.unseen_words),
    sampling={
        **FIRST.sampling,
        "sampler.steps": 50,
        "video.frames": moving_shapes.FRAMES,
        "video.height": moving_shapes.SIDE,
        "video.width": moving_shapes.SIDE,
        "video.fps": moving_shapes.FPS,
        "condition.max_area": moving_shapes.SIDE**2,
    },
    training={
        **FIRST.training,
        "data.frames": moving_shapes.FRAMES,
        "data.min_frames": moving_shapes.FRAMES,
        "data.fps": moving_shapes.FPS,
        "objective.padding_counts": False,
    },
)
