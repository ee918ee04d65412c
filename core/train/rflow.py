"""What a rectified flow is trained on: times and the numbers that mix latents with noise, frame by frame.

Source: opensora/schedulers/rf of hpcaitech Open-Sora at v1.2.0; the flow itself is in core.samplers.rflow.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import ConfigError
from ..samplers.rflow import TIMES, bent, size_ratio
from ..shapes import VideoShape
from .objectives import UNIFORM, Draws
from .timesteps import TimestepDraw

KINDS = ("uniform", "stratified", "logit_normal")


@dataclass(frozen=True, kw_only=True)
class RFlowObjective:
    """Velocity latents - noise on the straight line between them, at times from 0 (clean) to 1000.

    Raises: ConfigError for draws that do not go together.
    """

    timesteps: TimestepDraw = UNIFORM
    """Its u, times 1000, is the time: u = 0 is the clean end here."""
    discrete: bool = False
    """Whole times only."""
    bends: bool = False
    """Times are bent by the size of the video, as in sampling."""
    bend_scale: float = 1.0

    def __post_init__(self) -> None:
        kind = self.timesteps.kind
        if kind not in KINDS or (self.discrete and kind == "logit_normal"):
            what = "continuous times: leave out discrete" if kind in KINDS else f"one of {', '.join(KINDS)}"
            raise ConfigError(f"objective.timesteps.kind = {kind!r}: a rectified flow needs {what}")
        if not self.bend_scale > 0:
            raise ConfigError(f"objective.bend_scale = {self.bend_scale}: needs a positive number")

    def draw(
        self, seed: int, samples: Sequence[int], step: int, sizes: Sequence[VideoShape], moves: np.ndarray | None = None
    ) -> Draws:
        """As core.train.objectives.DrawsNoise; each clip's times are bent by its own size."""
        shares = zip(self.timesteps.draw(seed, samples, step), sizes, strict=True)
        return self.at(np.concatenate([self.times(np.array([share]), size) for share, size in shares]), moves)

    def at_shares(self, shares: np.ndarray) -> Draws:
        """The coefficients at parts of all time (B,), not bent."""
        return self.at(shares * TIMES)

    def times(self, shares: np.ndarray, size: VideoShape) -> np.ndarray:
        """Times (B,) of numbers u (B,) from 0 to 1 for a size in pixels."""
        times = shares * TIMES
        if self.discrete:
            times = np.minimum(np.floor(times), TIMES - 1)
        return bent(times, size_ratio(size, self.bend_scale)) if self.bends else times

    def at(self, times: np.ndarray, moves: np.ndarray | None = None, table: np.ndarray | None = None) -> Draws:
        """The coefficients at times (B,), taken as they are.

        moves: (B, T) booleans of latent frames; False ones enter clean and do not count, and each sample's loss is the
        mean over its others. A sample without others counts nothing, where upstream divides by zero (quirk Q16).
        table: what errors weigh at each whole time.
        """
        shares, ones = times / TIMES, np.ones(len(times))
        weights = ones if table is None else table[times.astype(np.int64)].astype(np.float64)
        if moves is None:
            return Draws(times.astype(np.float64), 1.0 - shares, shares, ones, -ones, weights)
        spread = np.where(moves, shares[:, None], 0.0)
        counted = np.maximum(moves.sum(1, keepdims=True), 1)
        weights = weights[:, None] * moves * (moves.shape[1] / counted)
        return Draws(times.astype(np.float64), 1.0 - spread, spread, ones, -ones, weights)
