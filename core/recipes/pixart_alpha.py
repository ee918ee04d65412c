"""PixArt-alpha, PixArtMS and PixArt-Sigma: text to pictures, as Open-Sora 1.0 and 1.1 sample and train them.

What it does not say otherwise is as Open-Sora 1.0 has it.
Source: configs/pixart of hpcaitech Open-Sora at v1.0.0 and v1.1.0.
"""

from __future__ import annotations

from dataclasses import replace

from ..conditioning.nothing import Nothing
from .opensora_v1_0 import RECIPE as VIDEOS
from .recipe import Recipe

RECIPE: Recipe = replace(
    VIDEOS,
    name="pixart_alpha",
    title="PixArt",
    parts={
        **VIDEOS.parts,
        "denoiser": ("pixart_xl_2", "pixart_ms_xl_2", "pixart_sigma_xl_2", "pixart_1b_2"),
    },
    prompts=replace(VIDEOS.prompts, max_tokens=300),
    conditioner=Nothing,
    sampling={
        **VIDEOS.sampling,
        "sampler.name": "dpm_solver",
        "sampler.steps": 20,
        "sampler.guidance_channels": None,
        "video.frames": 1,
        "video.height": 512,
        "video.width": 512,
        "condition.max_area": 512 * 512,
    },
    training={**VIDEOS.training, "data.frames": 1, "data.min_frames": 1},
)
