"""Flow-matching Euler sampler.

Time runs from sigma = 1 (noise) to sigma = 0 (data); the network predicts velocity = noise - data and is told sigma *
1000. Sources: Lipman et al. 2022, arXiv:2210.02747 (the path, with t = 1 - sigma); Esser et al. 2024,
arXiv:2403.03206 (the shift).
"""

from __future__ import annotations

import numpy as np

from ..errors import ConfigError
from .base import LinearSampler
from .schedule import FlowSchedule


class FlowEuler(LinearSampler):
    """x' = x + (sigma' - sigma) * velocity."""

    name = "flow_euler"
    aliases = ("FlowMatchEulerDiscrete",)
    objectives = ("flow",)

    def __init__(
        self, steps: int, *, objective: str = "flow", shift: float = 1.0, num_train_timesteps: int = 1000
    ) -> None:
        if not 1 <= steps <= num_train_timesteps:
            raise ConfigError(f"sampler.steps = {steps}: from 1 to {num_train_timesteps} steps are possible")
        trained = FlowSchedule(num_train_timesteps=num_train_timesteps, shift=shift)
        # The grid runs between the ends of the trained sigmas, which are shifted already, and is then shifted as a
        # whole: published results have the small end shifted twice (diffusers issue 13243).
        visited = trained.shifted(np.linspace(trained.sigmas[0], trained.sigmas[-1], steps))
        sigmas = np.append(visited, 0.0)
        super().__init__(
            self.check_objective(objective),
            visited * num_train_timesteps,
            keep=np.ones(steps),
            take=np.diff(sigmas),
            sigmas=sigmas,
        )
