"""DiT and Latte of Open-Sora 1.0 that read classes: pictures of ImageNet, clips of UCF-101.

Source: configs/dit/inference/1x256x256-class.py, configs/latte/inference/16x256x256-class.py and their training
configs of hpcaitech Open-Sora at v1.0.0.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from .dit_imagenet import RECIPE as DIT
from .opensora_v1_0 import usual_video
from .recipe import Recipe


def is_of_videos(spec: Any) -> bool:
    """Whether a denoiser reads classes, and is neither the original DiT nor a SiT."""
    return "label" in spec.given and not hasattr(spec, "trained_as")


RECIPE: Recipe = replace(
    DIT,
    name="opensora_v1_0_classes",
    title="the models of classes of Open-Sora 1.0",
    parts={
        "denoiser": ("latte_xl_2_ucf101", "video_dit_xl_2_imagenet"),
        "vae": ("sd_vae_ft_ema",),
    },
    suits=is_of_videos,
    usual_video=usual_video,
    sampling={
        **DIT.sampling,
        "sampler.name": "dpm_solver",
        "sampler.steps": 20,
        "sampler.guidance_channels": None,
        "video.frames": 16,
        "video.fps": 8.0,
    },
    training={
        **DIT.training,
        "data.frames": 16,
        "data.min_frames": 16,
        "data.fps": 8.0,
        "learning_rate.peak": 2e-5,
    },
)
