"""DDPM: each step draws from the posterior q(x' | x, x_0) of the forward process.

Source: Ho et al. 2020, arXiv:2006.11239, equations 6 and 7, with the posterior's own (the smaller) variance.
"""

from __future__ import annotations

import numpy as np

from .base import LinearSampler
from .objectives import DIFFUSION_OBJECTIVES, clean_weights
from .schedule import LINEAR, Schedule
from .spacing import visit_whole_points, whole_stride


class DDPM(LinearSampler):
    """x' = posterior mean of (x_0, x) + posterior standard deviation * noise."""

    name = "ddpm"
    aliases = ("DDPM",)
    objectives = DIFFUSION_OBJECTIVES

    def __init__(
        self, steps: int, *, objective: str = "epsilon", schedule: Schedule = LINEAR, spacing: str | None = None
    ) -> None:
        timesteps = visit_whole_points(steps, schedule, spacing)
        alpha, sigma = schedule.rates(timesteps)
        clean_of_x, clean_of_prediction = clean_weights(self.check_objective(objective), alpha, sigma)
        a_next = schedule.alphas_cumprod_at(timesteps - whole_stride(steps, schedule))
        # Signal kept and noise added on the way from the cleaner timestep to this one.
        kept = alpha**2 / a_next
        added = 1.0 - kept
        of_clean = np.sqrt(a_next) * added / sigma**2
        of_x = np.sqrt(kept) * (1.0 - a_next) / sigma**2
        super().__init__(
            objective,
            timesteps,
            keep=of_x + of_clean * clean_of_x,
            take=of_clean * clean_of_prediction,
            spread=np.sqrt((1.0 - a_next) / sigma**2 * added),
        )
