"""Open-Sora's first release: text to video by the diffusion of a list of patches, in three ways to tell the text.

Source: sample.py, train.py and scripts/train of hpcaitech Open-Sora before v1.0 (commit 0a4a091).
"""

from __future__ import annotations

from .published_diffusion import SAMPLING, TRAINING
from .recipe import Recipe, Texts

WAYS = ("cross_attn", "adaln", "token_concat")
SIZES = ("s", "b", "l", "xl")
OF_LATENTS = tuple(f"dit_first_{size}_2_{way}{of}" for of in ("_vqvae", "_vae") for size in SIZES for way in WAYS)
OF_PIXELS = tuple(f"dit_first_{size}_{patch}_{way}" for size in SIZES for patch in (8, 4, 2) for way in WAYS)

RECIPE = Recipe(
    name="opensora_first",
    title="Open-Sora's first release",
    parts={
        "denoiser": (*OF_LATENTS, *OF_PIXELS, *(f"dit_first_tiny_{way}" for way in WAYS)),
        "text_encoder": ("clip_vit_b_32", "clip_vit_b_32_pooled"),
        "vae": ("vqvae_stride2x4x4", "sd_vae_ft_mse", "sd_vae_ft_ema", "pixels_half"),
    },
    prompts=Texts(negative=None, max_tokens=77),
    sampling={
        **SAMPLING,
        "sampler.steps": 250,
        "sampler.guidance": 4.0,
        "video.frames": 120,
        "video.height": 320,
        "video.width": 480,
        "video.fps": 15.0,
        "condition.max_area": 320 * 480,
    },
    training={
        **TRAINING,
        "data.frames": 120,
        "data.min_frames": 2,
        "data.fps": 15.0,
        "objective.equal_micro_batches": True,
        "objective.padding_counts": True,
        "learning_rate.peak": 1e-4,
    },
)
