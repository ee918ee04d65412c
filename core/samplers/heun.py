"""Heun's method on the probability-flow ODE in sigma: the slope is averaged over both ends of a step.

Two network calls a step, one for the last, whose far end is sigma = 0.
Source: Karras et al. 2022, arXiv:2206.00364, algorithm 1.
"""

from __future__ import annotations

import numpy as np

from .base import Array
from .objectives import DIFFUSION_OBJECTIVES
from .schedule import Schedule
from .sigma_space import SigmaSampler, doubled, sigma_path

HEUN_SCHEDULE = Schedule(beta_start=0.00085, beta_end=0.012)
"""Upstream's default betas of this sampler; a model trained on other betas needs its own schedule."""


class Heun(SigmaSampler):
    """Even calls go to sigma' by Euler's method, odd calls repeat the step with the mean of both slopes."""

    name = "heun"
    aliases = ("HeunDiscrete",)
    objectives = DIFFUSION_OBJECTIVES

    def __init__(
        self, steps: int, *, objective: str = "epsilon", schedule: Schedule = HEUN_SCHEDULE, spacing: str | None = None
    ) -> None:
        path = sigma_path(steps, schedule, spacing)
        call_sigmas = doubled(path.sigmas[:-1])
        super().__init__(
            objective,
            doubled(path.timesteps),
            call_sigmas=call_sigmas,
            sigmas=np.append(call_sigmas, 0.0),
            init_scale=path.init_scale,
        )
        self._strides = np.diff(path.sigmas).tolist()
        self._start: Array = None
        self._first_slope: Array = None

    def _advance(self, x: Array, prediction: Array, i: int, noise: Array | None) -> Array:
        slope, stride = self.slope(x, prediction, i), self._strides[i // 2]
        if i % 2 == 0:
            self._start, self._first_slope = x, slope
            return x + stride * slope
        return self._start + (0.5 * stride) * (self._first_slope + slope)
