"""The stochastic differential equation of an interpolant, for models such as SiT.

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
    """Euler-Maruyama with a call a step, or Heun with two behind the noise; the last step draws none."""

    name = "interpolant_sde"
    aliases = ("SDE",)
    objectives = PREDICTIONS

    def __init__(
        self,
        steps: int,
        *,
        objective: str = "velocity",
        path: str = "linear",
        method: str = "euler",
        form: str = "sigma",
        norm: float = 1.0,
        last_step: str = "mean",
        last_step_size: float = 0.04,
        sample_eps: float | None = None,
    ) -> None:
        """Options as those of SDE and Interval. Raises: ConfigError for a number of steps that is impossible, and as
        SDE."""
        if not 2 <= steps <= MOST_STEPS:
            raise ConfigError(f"sampler.steps = {steps}: from 2 to {MOST_STEPS} steps are possible")
        self._sde = SDE(
            interval=Interval(of=Interpolant(path, self.check_objective(objective)), sample_eps=sample_eps),
            steps=steps,
            method=method,
            form=form,
            norm=norm,
            last_step=last_step,
            last_step_size=last_step_size,
        )
        self._times = self._sde.times.astype(np.float64).tolist()
        self._calls = 2 if method == "heun" else 1
        times = [time + self._sde.length * call for time in self._times[:-1] for call in range(self._calls)]
        times += [] if last_step == "none" else self._times[-1:]
        begins = np.arange(len(times)) < self._calls * (steps - 1)
        super().__init__(objective, np.array(times), draws_noise=begins if method == "euler" else None)
        if method == "heun":
            self.draws_before = (begins & (np.arange(len(times)) % 2 == 0)).tolist()
        self._begin: Array = None
        self._slope: Array = None

    def before(self, x: Array, noise: Array, i: int) -> Array:
        """As Sampler.before."""
        return self._sde.noised(x, float(self.timesteps[i]), noise)

    def _advance(self, x: Array, prediction: Array, i: int, noise: Array | None) -> Array:
        time, (step, call) = float(self.timesteps[i]), divmod(i, self._calls)
        if step == len(self._times) - 1:
            return self._sde.finish(x, prediction, time)
        if noise is not None:
            return self._sde.euler(x, prediction, time, noise)
        slope = self._sde.slope(x, prediction, time)
        if call == 0:
            self._begin, self._slope = x, slope
            return x + self._sde.length * slope
        return self._begin + self._sde.length / 2 * (self._slope + slope)
