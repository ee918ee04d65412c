"""Euler's method on the probability-flow ODE in sigma, without churn.

Source: Karras et al. 2022, arXiv:2206.00364, algorithm 2 with S_churn = 0, which draws no noise.
"""

from __future__ import annotations

import numpy as np

from .base import Array
from .objectives import DIFFUSION_OBJECTIVES
from .schedule import LINEAR, Schedule
from .sigma_space import SigmaSampler, sigma_path


class Euler(SigmaSampler):
    """x' = x + (sigma' - sigma) * dx / dsigma."""

    name = "euler"
    aliases = ("EulerDiscrete",)
    objectives = DIFFUSION_OBJECTIVES

    def __init__(
        self, steps: int, *, objective: str = "epsilon", schedule: Schedule = LINEAR, spacing: str | None = None
    ) -> None:
        path = sigma_path(steps, schedule, spacing)
        super().__init__(
            objective,
            path.timesteps,
            call_sigmas=path.sigmas[:-1],
            sigmas=path.sigmas,
            init_scale=path.init_scale,
        )
        self._strides = np.diff(path.sigmas).tolist()

    def _advance(self, x: Array, prediction: Array, i: int, noise: Array | None) -> Array:
        return x + self._strides[i] * self.slope(x, prediction, i)
