"""Open-Sora 1.0: text to video, each of three models at one size and length.

Source: configs/opensora/inference and configs/opensora/train of hpcaitech Open-Sora at v1.0.0.
"""

from __future__ import annotations

from typing import Any

from ..conditioning.references import References
from .opensora_v1_2_prompts import clean, take_apart
from .published_diffusion import SAMPLING, TRAINING
from .recipe import Recipe, Texts

LATENT_SIDE = 8
"""Pixels of a latent."""
RATE = 8.0
"""Frames a second of the clips with which time is not scaled: every third frame of 24."""


def usual_video(spec: Any) -> dict[str, Any]:
    """The size and the rate that a denoiser counts its positions by. spec: has input_size, and perhaps time_scale."""
    frames, height, width = spec.input_size
    return {
        "video.frames": frames,
        "video.height": height * LATENT_SIDE,
        "video.width": width * LATENT_SIDE,
        "video.fps": RATE / getattr(spec, "time_scale", 1.0),
        "condition.max_area": height * width * LATENT_SIDE**2,
    }


RECIPE = Recipe(
    name="opensora_v1_0",
    title="Open-Sora 1.0",
    parts={
        "denoiser": ("stdit_xl_2_16x256", "stdit_xl_2_16x512", "stdit_xl_2_64x512"),
        "text_encoder": ("t5_v1_1_xxl",),
        "vae": ("sd_vae_ft_ema",),
    },
    prompts=Texts(negative=None, max_tokens=120, clean=clean, take_apart=take_apart),
    conditioner=References,
    usual_video=usual_video,
    sampling={
        **SAMPLING,
        "sampler.steps": 100,
        "sampler.guidance": 7.0,
        "sampler.guidance_channels": 3,
        "video.frames": 16,
        "video.height": 256,
        "video.width": 256,
        "video.fps": RATE,
        "condition.max_area": 256 * 256,
    },
    training={
        **TRAINING,
        "data.frames": 16,
        "data.min_frames": 16,
        "data.fps": RATE,
        "data.clean_captions": True,
        "objective.equal_micro_batches": True,
        "learning_rate.peak": 2e-5,
    },
)
