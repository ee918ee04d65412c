"""What SiT is trained on: states between noise and data, and what the network is to say of them.

Source: Ma et al. 2024, arXiv:2401.08740; the paths are in core.maths.interpolants.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..maths.interpolants import Interpolant, Interval
from ..shapes import VideoShape
from .objectives import NO_CLEAN_FRAMES, UNIFORM, Draws
from .timesteps import TimestepDraw

STRAIGHT = Interpolant()
"""With a velocity, as published."""


@dataclass(frozen=True, kw_only=True)
class InterpolantObjective:
    """Velocity, noise or score on a path, at times from 0 (noise) to 1 (data).

    Raises: ConfigError for a weighting that the prediction lacks.
    """

    of: Interpolant = STRAIGHT
    weighting: str = "none"
    """What the squared errors of a noise or a score weigh: one of maths.interpolants.WEIGHTINGS."""
    train_eps: float | None = None
    """Kept from the ends of the time; None: as path and prediction need."""
    timesteps: TimestepDraw = UNIFORM

    def __post_init__(self) -> None:
        self.of.weight(self.weighting, np.array([0.5]))

    def draw(
        self,
        seed: int,
        samples: Sequence[int],
        step: int,
        sizes: Sequence[VideoShape] = (),
        moves: np.ndarray | None = None,
    ) -> Draws:
        """As core.train.objectives.DrawsNoise; the sizes do not matter."""
        assert moves is None, NO_CLEAN_FRAMES
        return self.at_shares(1.0 - np.array(self.timesteps.draw(seed, samples, step)))

    def at_shares(self, shares: np.ndarray) -> Draws:
        """The coefficients that far (B,) on the way from the data, 0, to the noise, 1."""
        return self.at(self.at_draws((1.0 - shares).astype(np.float32)))

    def at_draws(self, draws: np.ndarray) -> np.ndarray:
        """The times (B,) of float32 numbers from 0 to 1, rounded as where the models were trained."""
        first, last = Interval(of=self.of, train_eps=self.train_eps).training()
        return (draws * np.float32(last - first) + np.float32(first)).astype(np.float64)

    def at(self, times: np.ndarray) -> Draws:
        """The coefficients at times (B,)."""
        rates = self.of.rates(times)
        of_clean, of_noise = self.of.target(times)
        return Draws(times, rates.alpha, rates.sigma, of_clean, of_noise, self.of.weight(self.weighting, times))
