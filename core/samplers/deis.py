"""DEIS of second order: the noise is a straight line in log sigma through this call's and the previous one's.

With x = z / alpha the ODE is dx / dsigma = noise, so a step is the integral of that line over sigma. Runs end at the
sigma of timestep 0 (0.01 for the usual betas), not at 0, where log sigma has no value. Source: Zhang and Chen 2022,
arXiv:2204.13902 (the variant in log rho).
"""

from __future__ import annotations

import numpy as np

from .base import MultistepSampler
from .objectives import DIFFUSION_OBJECTIVES, noise_weights, signal_rate
from .schedule import LINEAR, Schedule
from .spacing import visit_intervals

FEW_STEPS = 15
"""Below this many steps the last one is of first order, for stability."""


class DEIS(MultistepSampler):
    """z' / alpha' = z / alpha + the integral of the extrapolated noise from sigma to sigma'."""

    name = "deis"
    aliases = ("DEISMultistep",)
    objectives = DIFFUSION_OBJECTIVES

    def __init__(
        self, steps: int, *, objective: str = "epsilon", schedule: Schedule = LINEAR, spacing: str | None = None
    ) -> None:
        timesteps = visit_intervals(steps, schedule, spacing)
        sigmas = np.append(schedule.sigmas_at(timesteps), schedule.sigmas[0])
        alpha = signal_rate(sigmas)
        sigma, following = sigmas[:-1], sigmas[1:]
        recall = np.zeros(steps)
        last = steps - 1 if steps < FEW_STEPS else steps
        second = slice(1, last)
        recall[second] = _line_integral(sigma[second], following[second], previous=sigma[: last - 1])
        super().__init__(
            objective,
            timesteps,
            read=noise_weights(self.check_objective(objective), alpha[:-1], (alpha * sigmas)[:-1]),
            keep=alpha[1:] / alpha[:-1],
            # Both weights sum to the length of the interval.
            take=alpha[1:] * (following - sigma - recall),
            recall=alpha[1:] * recall,
            sigmas=sigmas,
        )


def _line_integral(sigma: np.ndarray, following: np.ndarray, previous: np.ndarray) -> np.ndarray:
    """Integral over [sigma, following] of the line in log sigma that is 0 at sigma and 1 at previous."""
    # The antiderivative of log(s / sigma) is s * (log(s / sigma) - 1).
    return (following * (np.log(following / sigma) - 1.0) + sigma) / np.log(previous / sigma)
