"""DPM-Solver++(2S): pairs of calls, where the second repeats the way from the pair's start at second order.

The pair's first call lands on its middle timestep at first order. The last step is of first order, for its lambda is
infinite; so is the one before it when the number of steps is even. Timesteps are evenly spaced over the whole range,
there is no choice. Source: Lu et al. 2022, arXiv:2211.01095, algorithm 1 (midpoint form).
"""

from __future__ import annotations

import numpy as np

from .base import MultistepSampler
from .objectives import DIFFUSION_OBJECTIVES, clean_weights, signal_rate
from .schedule import LINEAR, Schedule
from .spacing import visit_intervals


class DPMSolverSinglestep(MultistepSampler):
    """z' = (s' / s) * z + alpha' * (1 - sigma' / sigma) * x_0; odd calls from the pair's start, x_0 extrapolated."""

    name = "dpmsolver_singlestep"
    aliases = ("DPMSolverSinglestep",)
    objectives = DIFFUSION_OBJECTIVES

    def __init__(self, steps: int, *, objective: str = "epsilon", schedule: Schedule = LINEAR) -> None:
        timesteps = visit_intervals(steps, schedule, "linspace")
        sigmas = np.append(schedule.sigmas_at(timesteps), 0.0)
        alpha = signal_rate(sigmas)
        spread = alpha * sigmas
        closing = np.arange(1, steps - 1, 2)  # second calls of the pairs
        start = np.arange(steps)
        start[closing] -= 1
        height = -np.log(sigmas[:-1])  # lambda
        tilt = np.ones(steps)
        tilt[closing] = 0.5 * (height[closing + 1] - height[closing - 1]) / (height[closing] - height[closing - 1])
        weight = alpha[1:] * (1.0 - sigmas[1:] / sigmas[start])
        super().__init__(
            objective,
            timesteps,
            read=clean_weights(self.check_objective(objective), alpha[:-1], spread[:-1]),
            keep=spread[1:] / spread[start],
            take=weight * tilt,
            recall=weight * (1.0 - tilt),
            sigmas=sigmas,
            goes_back=start < np.arange(steps),
        )
