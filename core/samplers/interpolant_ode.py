"""Steps of a fixed length along an interpolant's ordinary differential equation, for models such as SiT.

Time runs from 0 (noise) to 1 (data). Source: Ma et al. 2024, arXiv:2401.08740.
"""

from __future__ import annotations

import numpy as np

from ..errors import ConfigError
from ..maths.interpolants import PREDICTIONS, Interpolant, Interval
from .base import Array, Sampler
from .interpolant import applied, points
from .solvers import FIXED, mixed

MOST_STEPS = 1000


class InterpolantODE(Sampler):
    """Between two points in time as many calls as the method has slopes."""

    name = "interpolant_ode"
    aliases = ()
    objectives = PREDICTIONS

    def __init__(self, steps: int, *, objective: str = "velocity", path: str = "linear", method: str = "heun2") -> None:
        """steps: from point to point, one less than upstream counts.

        Raises: ConfigError for a number of steps that is impossible, and for an unknown path or method.
        """
        if not 1 <= steps <= MOST_STEPS:
            raise ConfigError(f"sampler.steps = {steps}: from 1 to {MOST_STEPS} steps are possible")
        if method not in FIXED:
            raise ConfigError(f"sampler.options.method = {method!r}: {self.name} takes {', '.join(FIXED)}")
        self._of, self._method = Interpolant(path, self.check_objective(objective)), FIXED[method]
        ends = points(Interval(of=self._of).ode(), steps + 1).astype(np.float64)
        shares = [0.0, *(stage.share for stage in self._method.stages)]
        super().__init__(objective, (ends[:-1, None] + np.diff(ends)[:, None] * shares).ravel())
        self._lengths = np.diff(ends).tolist()
        self._begin: Array = None
        self._slopes: list[Array] = []

    def _advance(self, x: Array, prediction: Array, i: int, noise: Array | None) -> Array:
        step, call = divmod(i, len(self._method.of_slopes))
        if call == 0:
            self._begin, self._slopes = x, []
        self._slopes.append(applied(self._of.drift(self.timesteps[i]), x, prediction))
        is_last = call == len(self._method.stages)
        of_slopes = self._method.of_slopes if is_last else self._method.stages[call].of_slopes
        return self._begin + self._lengths[step] * mixed(of_slopes, self._slopes)
