"""Ancestral Euler: a step further down than asked, then fresh noise back up. The default of Open-Sora Plan v1.3.

Source: Song et al. 2021, arXiv:2010.02502, equation 12 with eta = 1, written in sigma.
"""

from __future__ import annotations

from .base import Array
from .objectives import DIFFUSION_OBJECTIVES
from .schedule import LINEAR, Schedule
from .sigma_space import SigmaSampler, ancestral_split, sigma_path


class EulerAncestral(SigmaSampler):
    """x' = x + (sigma_down - sigma) * dx / dsigma + sigma_up * noise; the last step draws none."""

    name = "euler_ancestral"
    aliases = ("EulerAncestralDiscrete",)
    objectives = DIFFUSION_OBJECTIVES

    def __init__(
        self, steps: int, *, objective: str = "epsilon", schedule: Schedule = LINEAR, spacing: str | None = None
    ) -> None:
        path = sigma_path(steps, schedule, spacing)
        sigma_down, sigma_up = ancestral_split(path.sigmas)
        super().__init__(
            objective,
            path.timesteps,
            call_sigmas=path.sigmas[:-1],
            sigmas=path.sigmas,
            init_scale=path.init_scale,
            draws_noise=sigma_up > 0,
        )
        self._strides = (sigma_down - path.sigmas[:-1]).tolist()
        self._sigma_up = sigma_up.tolist()

    def _advance(self, x: Array, prediction: Array, i: int, noise: Array | None) -> Array:
        x = x + self._strides[i] * self.slope(x, prediction, i)
        return x if noise is None else x + self._sigma_up[i] * noise
