"""Open-Sora 1.2: text, pictures and videos to video, at many sizes and lengths.

Source: configs/opensora-v1-2/inference/sample.py and train/stage1.py of hpcaitech Open-Sora at v1.2.0.
"""

from __future__ import annotations

from ..conditioning.references import References
from .opensora_v1_2_prompts import PromptScores, clean, take_apart
from .opensora_v1_2_sizes import SIZES
from .recipe import Recipe, Texts

TEACACHE = [2.17546007e02, -1.18329252e02, 2.68662585e01, -4.59364272e-02, 4.84426240e-02]
"""As Liu et al. 2024, arXiv:2411.19108, fitted it to this model."""

RECIPE = Recipe(
    name="opensora_v1_2",
    title="Open-Sora 1.2",
    parts={
        "denoiser": ("stdit3_xl_2", "stdit3_3b_2"),
        "text_encoder": ("t5_v1_1_xxl",),
        "vae": ("opensora_vae_v1_2",),
    },
    prompts=Texts(negative=None, max_tokens=300, clean=clean, scores=PromptScores, take_apart=take_apart),
    conditioner=References,
    sizes=SIZES,
    sampling={
        "sampler.name": "rflow",
        "sampler.steps": 30,
        "sampler.guidance": 7.0,
        "sampler.cache.polynomial": TEACACHE,
        "prompts.aesthetic": 6.5,
        "video.frames": 51,
        "video.height": 240,
        "video.width": 426,
        "video.fps": 24.0,
        "condition.max_area": 240 * 426,
    },
    training={
        "data.frames": 51,
        "data.min_frames": 51,
        "data.fps": 24.0,
        "data.clean_captions": False,
        "data.aesthetic_sentences": False,
        "objective.kind": "rflow",
        "objective.timesteps.kind": "logit_normal",
        "objective.timestep_transform": True,
        "objective.equal_micro_batches": True,
        "autoencoder.pair_weights": {},
        "optimizer.eps": 1e-15,
        "optimizer.weight_decay": 0.0,
        "learning_rate.peak": 1e-4,
        "learning_rate.starts_above_zero": True,
        "ema.decay": 0.99,
        "ema.warms_up": False,
        "validation.timesteps": 10,
    },
)
