"""Open-Sora Plan v1.3: text to video, and pictures or videos to video.

Source: opensora/sample and opensora/train of Open-Sora Plan v1.3 with their scripts; arXiv:2412.00131.
"""

from __future__ import annotations

from ..conditioning.channels import Channels
from .recipe import Recipe, Texts

NEGATIVE_PROMPT = (
    "nsfw, lowres, bad anatomy, bad hands, text, error, missing fingers, extra digit, fewer digits, cropped, "
    "worst quality, low quality, normal quality, jpeg artifacts, signature, watermark, username, blurry."
)
RECIPE = Recipe(
    name="opensora_plan_v1_3",
    title="Open-Sora Plan v1.3",
    parts={
        "denoiser": ("opensora_plan_v1_3_t2v", "opensora_plan_v1_3_inpaint"),
        "text_encoder": ("mt5_xxl",),
        "vae": ("wfvae_d8_4x8x8",),
    },
    prompts=Texts(template="high quality, high aesthetic, {}", negative=NEGATIVE_PROMPT, max_tokens=512),
    conditioner=Channels,
    sampling={
        "sampler.name": "euler_ancestral",
        "sampler.steps": 100,
        "sampler.objective": "v_prediction",
        "sampler.schedule": "linear",
        "sampler.zero_terminal_snr": True,
        "sampler.guidance": 7.5,
        "video.frames": 93,
        "video.height": 352,
        "video.width": 640,
        "video.fps": 18.0,
        "condition.max_area": 236544,
    },
    training={
        "data.frames": 93,
        "data.min_frames": 29,
        "data.fps": 18.0,
        "data.clean_captions": True,
        "data.aesthetic_sentences": True,
        "objective.kind": "v_prediction",
        "objective.schedule": "linear",
        "objective.zero_terminal_snr": True,
        "objective.snr_gamma": 5.0,
        "objective.timesteps.kind": "stratified",
        "autoencoder.pair_weights": {"wavelet": 0.1},
        "optimizer.eps": 1e-15,
        "optimizer.weight_decay": 0.01,
        "learning_rate.peak": 1e-5,
        "ema.decay": 0.9999,
        "ema.warms_up": True,
    },
    clips={"denoiser": {"max_area": 236544}, "vae": {"frames": 25, "height": 256, "width": 256}},
)
