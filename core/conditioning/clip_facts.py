"""What a denoiser is told of a clip beside its text: its size in pixels, its length and its rate."""

from __future__ import annotations

from collections.abc import Set

import numpy as np

from ..shapes import VideoShape

PICTURE_FPS = 120.0
"""The rate that stands for a single picture in Open-Sora 1.1 and 1.2."""


def clip_facts(video: VideoShape, fps: float, batch: int) -> dict[str, np.ndarray]:
    """Height, width, num_frames, ratio (height / width) and fps, each (B,) float32; a picture has its own rate."""
    values = {
        "height": video.height,
        "width": video.width,
        "num_frames": video.frames,
        "ratio": video.height / video.width,
        "fps": PICTURE_FPS if video.frames == 1 else fps,
    }
    return {name: np.full(batch, value, np.float32) for name, value in values.items()}


def facts_for(given: Set[str], video: VideoShape, fps: float) -> dict[str, np.ndarray]:
    """Those of one clip that a denoiser reads, under their names in Given. given: of its spec."""
    facts = clip_facts(video, fps, batch=1)
    return {name: facts[name] for name in sorted(facts.keys() & given)}
