"""DDIM without noise: x_0 and the noise are read off the prediction and mixed again at the cleaner timestep.

Source: Song et al. 2021, arXiv:2010.02502, equation 12 with sigma = 0.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from .base import LinearSampler
from .objectives import DIFFUSION_OBJECTIVES, clean_weights, noise_weights
from .schedule import LINEAR, Schedule
from .spacing import visit_whole_points, whole_stride


class DDIM(LinearSampler):
    """x' = sqrt(a') * x_0 + sqrt(1 - a') * noise."""

    name = "ddim"
    aliases: ClassVar[tuple[str, ...]] = ("DDIM",)
    objectives = DIFFUSION_OBJECTIVES

    def __init__(
        self, steps: int, *, objective: str = "epsilon", schedule: Schedule = LINEAR, spacing: str | None = None
    ) -> None:
        timesteps = visit_whole_points(steps, schedule, spacing)
        alpha, sigma = schedule.rates(timesteps)
        clean_of_x, clean_of_prediction = clean_weights(self.check_objective(objective), alpha, sigma)
        noise_of_x, noise_of_prediction = noise_weights(objective, alpha, sigma)
        a_next = schedule.alphas_cumprod_at(timesteps - whole_stride(steps, schedule))
        alpha_next, sigma_next = np.sqrt(a_next), np.sqrt(1.0 - a_next)
        super().__init__(
            objective,
            timesteps,
            keep=alpha_next * clean_of_x + sigma_next * noise_of_x,
            take=alpha_next * clean_of_prediction + sigma_next * noise_of_prediction,
        )
