"""DiT: pictures of the classes of ImageNet, by the diffusion of a latent.

Source: sample.py, sample_ddp.py and train.py of facebookresearch DiT; arXiv:2212.09748.
"""

from __future__ import annotations

from typing import Any

from .published_diffusion import SAMPLING, TRAINING
from .recipe import Labels, Recipe


def is_of_diffusion(spec: Any) -> bool:
    """Whether a denoiser is a DiT of classes, trained as diffusion."""
    return getattr(spec, "trained_as", None) == "diffusion"


SIZES = (*(f"{size}_{patch}" for size in ("s", "b", "l", "xl") for patch in (2, 4, 8)), "xl_2_512px")
RECIPE = Recipe(
    name="dit_imagenet",
    title="DiT",
    parts={
        "denoiser": ("dit_xl_2", *(f"dit_{size}" for size in SIZES if size != "xl_2")),
        "vae": ("sd_vae_ft_mse", "sd_vae_ft_ema"),
    },
    prompts=Labels(),
    suits=is_of_diffusion,
    sampling={
        **SAMPLING,
        "sampler.steps": 250,
        "sampler.guidance": 4.0,
        "sampler.guidance_channels": 3,
        "video.frames": 1,
        "video.height": 256,
        "video.width": 256,
        "video.fps": 1.0,
        "condition.max_area": 256 * 256,
    },
    training={
        **TRAINING,
        "data.frames": 1,
        "data.min_frames": 1,
        "data.fps": 1.0,
        "learning_rate.peak": 1e-4,
    },
)
