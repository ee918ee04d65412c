"""DPM-Solver++(2M) in continuous time, as the authors' own program runs it on a discrete schedule.

Times go evenly from 1 (of a cosine a little less) to 1 / N of N training timesteps, where the run ends; log alpha is a
straight line between the timesteps, and the network is told (t - 1 / N) * 1000, mostly a fraction.
Source: Lu et al. 2022, arXiv:2211.01095, algorithm 2; opensora/schedulers/dpms of hpcaitech Open-Sora.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ..errors import ConfigError
from .base import MultistepSampler
from .objectives import DIFFUSION_OBJECTIVES, clean_weights
from .schedule import LINEAR, Schedule

FEW_STEPS = 10
"""Runs of fewer steps end with one of first order, which is steadier."""
LEAST_LAMBDA = -5.1
"""Of log(alpha / sigma); a run begins at the first timestep that has more, as below it there is hardly any signal."""


class DPMSolver(MultistepSampler):
    """x' = (sigma' / sigma) * x + alpha' * (1 - exp(-h)) * x_0, x_0 extrapolated; h: the way in log(alpha / sigma)."""

    name = "dpm_solver"
    aliases = ("dpm-solver",)
    objectives = DIFFUSION_OBJECTIVES

    def __init__(self, steps: int, *, objective: str = "epsilon", schedule: Schedule = LINEAR) -> None:
        total = schedule.num_train_timesteps
        if not 2 <= steps <= total:
            raise ConfigError(f"sampler.steps = {steps}: from 2 to {total} steps are possible")
        log_alphas = _log_alphas(schedule)
        times = np.linspace(len(log_alphas) / total, 1.0 / total, steps + 1)
        log_alpha = np.interp(times, np.arange(1, len(log_alphas) + 1) / total, log_alphas)
        alpha, sigma = np.exp(log_alpha), np.sqrt(-np.expm1(2.0 * log_alpha))
        climb = np.diff(np.log(alpha / sigma))
        weight = alpha[1:] * -np.expm1(-climb)
        tilt = np.zeros(steps)
        tilt[1:] = 0.5 * climb[1:] / climb[:-1]
        if steps < FEW_STEPS:
            tilt[-1] = 0.0
        super().__init__(
            objective,
            (times[:-1] - 1.0 / total) * 1000.0,
            read=clean_weights(self.check_objective(objective), alpha[:-1], sigma[:-1]),
            keep=sigma[1:] / sigma[:-1],
            take=weight * (1.0 + tilt),
            recall=-weight * tilt,
            sigmas=sigma / alpha,
        )


def _log_alphas(schedule: Schedule) -> np.ndarray:
    """Of the timesteps with signal enough, the cleanest first."""
    left = replace(schedule, rounds=False).alphas_cumprod
    logs = 0.5 * np.log(left[left > 0])
    return logs[logs - 0.5 * np.log(-np.expm1(2.0 * logs)) >= LEAST_LAMBDA]
