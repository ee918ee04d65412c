"""Open-Sora 1.1: text, pictures and videos to video, at many sizes and lengths, frame by frame.

What it does not say otherwise is as Open-Sora 1.0 has it.
Source: configs/opensora-v1-1, scripts/inference-long.py and scripts/train.py of hpcaitech Open-Sora at v1.1.0.
"""

from __future__ import annotations

from dataclasses import replace

from .opensora_v1_0 import RECIPE as FIRST
from .opensora_v1_2_sizes import SIZES
from .recipe import Recipe

LENGTHS = {"2s": 16, "4s": 32, "8s": 64, "16s": 128}
"""At 8 frames a second; upstream names none."""

RECIPE: Recipe = replace(
    FIRST,
    name="opensora_v1_1",
    title="Open-Sora 1.1",
    parts={**FIRST.parts, "denoiser": ("stdit2_xl_2",)},
    prompts=replace(FIRST.prompts, max_tokens=200),
    sizes=replace(SIZES, lengths=LENGTHS),
    usual_video=None,
    sampling={
        **FIRST.sampling,
        "video.height": 240,
        "video.width": 426,
        "video.fps": 24.0,
        "video.frame_interval": 3,
        "loop.condition_frames": 4,
        "condition.max_area": 240 * 426,
    },
    training={
        **FIRST.training,
        "data.tells_file_rate": True,
        "data.clean_captions": False,
    },
)
