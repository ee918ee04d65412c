"""DPM-Solver++(2M): second order from the previous prediction, one network call a step.

x_0 is taken as a straight line in lambda = -log sigma through this call's and the previous one's; the first step,
which has no previous call, and the last, whose lambda is infinite, take it as constant. Source: Lu et al. 2022,
arXiv:2211.01095, algorithm 2 (midpoint form).
"""

from __future__ import annotations

import numpy as np

from .base import MultistepSampler
from .objectives import DIFFUSION_OBJECTIVES, clean_weights, signal_rate
from .schedule import LINEAR, Schedule
from .spacing import visit_intervals


class DPMSolverMultistep(MultistepSampler):
    """z' = (s' / s) * z + alpha' * (1 - sigma' / sigma) * x_0, with x_0 extrapolated; sigma = s / alpha."""

    name = "dpmsolver_multistep"
    aliases = ("DPMSolverMultistep",)
    objectives = DIFFUSION_OBJECTIVES

    def __init__(
        self, steps: int, *, objective: str = "epsilon", schedule: Schedule = LINEAR, spacing: str | None = None
    ) -> None:
        timesteps = visit_intervals(steps, schedule, spacing)
        sigmas = np.append(schedule.sigmas_at(timesteps), 0.0)
        alpha = signal_rate(sigmas)
        weight = alpha[1:] * (1.0 - sigmas[1:] / sigmas[:-1])
        tilt = np.zeros(steps)
        between = slice(1, -1)
        climb = -np.diff(np.log(sigmas[:-1]))  # in lambda, of every step but the last
        tilt[between] = 0.5 * climb[1:] / climb[:-1]
        super().__init__(
            objective,
            timesteps,
            read=clean_weights(self.check_objective(objective), alpha[:-1], (alpha * sigmas)[:-1]),
            keep=(alpha * sigmas)[1:] / (alpha * sigmas)[:-1],
            take=weight * (1.0 + tilt),
            recall=-weight * tilt,
            sigmas=sigmas,
        )
