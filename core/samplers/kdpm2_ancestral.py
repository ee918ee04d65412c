"""Ancestral DPM-Solver-2: a midpoint step down to sigma_down, then fresh noise up to sigma'.

The midpoint is halfway in log sigma between sigma and sigma_down = sigma'^2 / sigma, which is sigma' itself; so both
calls of a step see the sigmas that `heun` would use. One call for the last step. Sources: Karras et al. 2022,
arXiv:2206.00364, algorithm 2; Lu et al. 2022, arXiv:2206.00927 (DPM-Solver-2, r1 = 1/2).
"""

from __future__ import annotations

import numpy as np

from .base import Array
from .heun import HEUN_SCHEDULE
from .objectives import DIFFUSION_OBJECTIVES
from .schedule import Schedule
from .sigma_space import SigmaSampler, ancestral_split, doubled, sigma_path


class KDPM2Ancestral(SigmaSampler):
    """Even calls go to the midpoint, odd calls take the whole step with the midpoint's slope and add noise."""

    name = "kdpm2_ancestral"
    aliases = ("KDPM2AncestralDiscrete",)
    objectives = DIFFUSION_OBJECTIVES

    def __init__(
        self, steps: int, *, objective: str = "epsilon", schedule: Schedule = HEUN_SCHEDULE, spacing: str | None = None
    ) -> None:
        path = sigma_path(steps, schedule, spacing)
        call_sigmas = doubled(path.sigmas[:-1])
        timesteps = doubled(path.timesteps)
        timesteps[1::2] = _timesteps_of(call_sigmas[1::2], schedule)
        super().__init__(
            objective,
            timesteps,
            call_sigmas=call_sigmas,
            # Three zeros at the end, not one: the form of upstream's table.
            sigmas=np.append(call_sigmas, np.zeros(3)),
            init_scale=path.init_scale,
            draws_noise=np.arange(len(call_sigmas)) % 2 == 1,
        )
        sigma_down, sigma_up = ancestral_split(path.sigmas)
        self._to_midpoint = np.diff(path.sigmas).tolist()
        self._to_sigma_down = (sigma_down - path.sigmas[:-1]).tolist()
        self._sigma_up = sigma_up.tolist()
        self._start: Array = None

    def _advance(self, x: Array, prediction: Array, i: int, noise: Array | None) -> Array:
        slope, step = self.slope(x, prediction, i), i // 2
        if i % 2 == 0:
            self._start = x
            return x + self._to_midpoint[step] * slope
        return self._start + self._to_sigma_down[step] * slope + self._sigma_up[step] * noise


def _timesteps_of(sigmas: np.ndarray, schedule: Schedule) -> np.ndarray:
    """The timesteps that have these sigmas, interpolated in log sigma."""
    return np.interp(np.log(sigmas), np.log(schedule.sigmas), np.arange(schedule.num_train_timesteps))
