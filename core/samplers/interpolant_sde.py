"""Euler-Maruyama along an interpolant's stochastic differential equation, for models such as SiT.

Time runs from 0 (noise) to 1 (data). Source: Ma et al. 2024, arXiv:2401.08740.
"""

from __future__ import annotations

import numpy as np

from ..errors import ConfigError
from ..maths.interpolants import PREDICTIONS, Interpolant, Interval
from .base import Array, Sampler
from .interpolant import SDE

MOST_STEPS = 1000


class InterpolantSDE(Sampler):
    """A call a step; the last step draws no noise."""

    name = "interpolant_sde"
    aliases = ()
    objectives = PREDICTIONS

    def __init__(
        self,
        steps: int,
        *,
        objective: str = "velocity",
        path: str = "linear",
        form: str = "sigma",
        norm: float = 1.0,
        last_step: str = "mean",
        last_step_size: float = 0.04,
    ) -> None:
        """Options as those of SDE. Raises: ConfigError for a number of steps that is impossible, and as SDE."""
        if not 2 <= steps <= MOST_STEPS:
            raise ConfigError(f"sampler.steps = {steps}: from 2 to {MOST_STEPS} steps are possible")
        self._sde = SDE(
            interval=Interval(of=Interpolant(path, self.check_objective(objective))),
            steps=steps,
            form=form,
            norm=norm,
            last_step=last_step,
            last_step_size=last_step_size,
        )
        times = self._sde.times
        times = times[:-1] if last_step == "none" else times
        super().__init__(objective, times, draws_noise=np.arange(len(times)) < steps - 1)

    def _advance(self, x: Array, prediction: Array, i: int, noise: Array | None) -> Array:
        time = float(self.timesteps[i])
        if noise is None:
            return self._sde.finish(x, prediction, time)
        return self._sde.euler(x, prediction, time, noise)
