"""DiT and Latte of Open-Sora 1.0 that read the one vector of a text: clips and pictures.

What it does not say otherwise is as Open-Sora 1.0 has it.
Source: configs/dit and configs/latte of hpcaitech Open-Sora at v1.0.0.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from .opensora_v1_0 import RECIPE as STDIT
from .recipe import Recipe, Texts


def reads_one_vector(spec: Any) -> bool:
    """Whether a denoiser reads the one vector of a text."""
    return "pooled" in spec.given


RECIPE: Recipe = replace(
    STDIT,
    name="opensora_v1_0_pooled",
    title="DiT and Latte of Open-Sora 1.0",
    parts={
        "denoiser": ("latte_xl_2", "latte_xl_2x2", "video_dit_xl_2", "video_dit_xl_2x2"),
        "text_encoder": ("clip_vit_b_32_pooled",),
        "vae": ("sd_vae_ft_ema",),
    },
    prompts=Texts(negative=None, max_tokens=77),
    suits=reads_one_vector,
    sampling={
        **STDIT.sampling,
        "sampler.name": "dpm_solver",
        "sampler.steps": 20,
        "sampler.guidance": 4.0,
        "sampler.guidance_channels": None,
    },
    training={**STDIT.training, "data.clean_captions": False},
)
