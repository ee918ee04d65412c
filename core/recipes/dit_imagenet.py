"""DiT: pictures of the classes of ImageNet, by the diffusion of a latent.

Source: sample.py, sample_ddp.py and train.py of facebookresearch DiT; arXiv:2212.09748.
"""

from __future__ import annotations

from typing import Any

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
        "sampler.name": "iddpm",
        "sampler.steps": 250,
        "sampler.objective": "epsilon",
        "sampler.schedule": "linear",
        "sampler.zero_terminal_snr": False,
        "sampler.guidance": 4.0,
        "sampler.guidance_channels": 3,
        "video.frames": 1,
        "video.height": 256,
        "video.width": 256,
        "video.fps": 1.0,
        "condition.max_area": 256 * 256,
    },
    training={
        "data.frames": 1,
        "data.min_frames": 1,
        "data.fps": 1.0,
        "data.clean_captions": False,
        "data.aesthetic_sentences": False,
        "objective.kind": "epsilon",
        "objective.schedule": "linear",
        "objective.zero_terminal_snr": False,
        "objective.bound": "hybrid",
        "objective.timesteps.kind": "uniform",
        "autoencoder.pair_weights": {},
        "optimizer.eps": 1e-8,
        "optimizer.weight_decay": 0.0,
        "learning_rate.peak": 1e-4,
        "ema.decay": 0.9999,
        "ema.warms_up": False,
    },
)
