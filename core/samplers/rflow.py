"""Rectified flow: Euler steps on the straight line from noise to data, and frames that begin to move on the way.

Time t runs from 1000 (noise) to 0 (data): x_t = (1 - t / 1000) * data + t / 1000 * noise, and the network predicts the
velocity data - noise. Large and long videos spend more of their steps near the noise: t is bent by the size.
Sources: Liu et al. 2022, arXiv:2209.03003; Esser et al. 2024, arXiv:2403.03206, section 5.3 (why the size bends t);
opensora/schedulers/rf of hpcaitech Open-Sora at v1.2.0.
"""

from __future__ import annotations

import numpy as np

from ..errors import ConfigError
from ..shapes import VideoShape
from .base import Array, LinearSampler
from .late_frames import FrameStarts, choose

TIMES = 1000
BASE_PIXELS = 512 * 512
"""Of a picture whose times are not bent."""


def size_ratio(video: VideoShape, scale: float = 1.0, dtype: type[np.floating] = np.float64) -> np.floating:
    """How far a size bends the times: 1 for a picture of 512 x 512 pixels, more for larger and for moving ones."""
    frames = dtype(_latent_frames(video.frames))
    pixels = dtype(video.height) * dtype(video.width)
    return np.sqrt(pixels / dtype(BASE_PIXELS)) * np.sqrt(frames) * dtype(scale)


def bent(times: np.ndarray, ratio: np.floating) -> np.ndarray:
    """Times bent by a size, in their shape and the ratio's dtype; 0 stays 0, and 1000 stays 1000 up to rounding."""
    shares = times.astype(ratio.dtype) / ratio.dtype.type(TIMES)
    return ratio * shares / (1 + (ratio - 1) * shares) * ratio.dtype.type(TIMES)


class RFlow(LinearSampler):
    """x' = x + (t - t') / 1000 * velocity."""

    name = "rflow"
    aliases = ("RFLOW",)
    objectives = ("rflow",)
    starts_frames_late = True

    def __init__(
        self,
        steps: int,
        *,
        objective: str = "rflow",
        size: VideoShape | None = None,
        timestep_transform: bool = True,
        discrete: bool = False,
        rounds_times: bool = False,
    ) -> None:
        """size: of the video in pixels, which bends the times by the timestep transform; without either they stay
        straight. discrete: whole numbers before they are bent. rounds_times: compute them in float32 as upstream, where
        the first may come out above 1000, so that frames of strength 1 miss the first step and get new noise (quirk
        Q12).

        Raises: ConfigError for a number of steps that is impossible.
        """
        if not 1 <= steps <= TIMES:
            raise ConfigError(f"sampler.steps = {steps}: from 1 to {TIMES} steps are possible")
        times = np.array([(1.0 - i / steps) * TIMES for i in range(steps)])
        if discrete:
            times = np.round(times)
        if size is not None and timestep_transform:
            times = bent(times, size_ratio(size, dtype=np.float32 if rounds_times else np.float64))
        if not rounds_times:
            times = np.minimum(times, TIMES)
        ends = np.append(times.astype(np.float64), 0.0) / TIMES
        super().__init__(self.check_objective(objective), times, keep=np.ones(steps), take=ends[:-1] - ends[1:])

    def with_noise(self, x: Array, noise: Array, enters: Array, i: int) -> Array:
        """As Sampler.with_noise."""
        share = float(self.timesteps[i]) / TIMES
        return choose(enters, (1.0 - share) * x + share * noise, x)

    def frame_starts(self, strength: np.ndarray) -> FrameStarts:
        """As `frame_starts` of this file, at the times of this run."""
        return frame_starts(strength, self.timesteps)


def frame_starts(strength: np.ndarray, timesteps: np.ndarray) -> FrameStarts:
    """Tables for strengths (B, T): 1 makes a frame from noise, 0 keeps it, between them it starts at 1000 * strength.

    timesteps: (calls,) of the sampler, falling.
    """
    # In float32, so that a strength of 0.3 begins with a step at 300.00000000000006.
    starts, times = (strength * TIMES).astype(np.float32), timesteps.astype(np.float32)
    moves = starts >= times[:, None, None]
    before = np.concatenate([(strength == 1)[None], moves[:-1]])
    return FrameStarts(moves, moves & ~before)


def _latent_frames(frames: int) -> int:
    """Frames that count for a size: latents of whole groups of 17. Fewer than that make ceil(frames / 4), where
    upstream counts none and divides by zero (quirk Q12)."""
    return 5 * (frames // 17) if frames >= 17 else -(-frames // 4)
