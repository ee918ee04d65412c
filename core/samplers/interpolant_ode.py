"""The ordinary differential equation of an interpolant, for models such as SiT: by steps of a length, or by dopri5.

Time runs from 0 (noise) to 1 (data). Source: Ma et al. 2024, arXiv:2401.08740.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..errors import ConfigError
from ..maths.interpolants import PREDICTIONS, Interpolant, Interval
from .base import Array, Sampler
from .interpolant import applied, points
from .solvers import ATOL, FIXED, RTOL, Query, Reached, solving

MOST_STEPS = 1000
ADAPTIVE = "dopri5"


class InterpolantODE(Sampler):
    """Between two points in time as many calls as the method has slopes; dopri5 chooses its own."""

    name = "interpolant_ode"
    aliases = ("ODE",)
    objectives = PREDICTIONS

    def __init__(
        self,
        steps: int,
        *,
        objective: str = "velocity",
        path: str = "linear",
        method: str = "heun2",
        atol: float = ATOL,
        rtol: float = RTOL,
        together: bool = False,
        sample_eps: float | None = None,
    ) -> None:
        """steps: from point to point, one less than upstream counts; dopri5 makes as many as it needs. atol, rtol:
        how far dopri5 may err in a step. together: its error is that of the whole batch, so that a picture depends a
        little on its companions, as upstream's does; else each is made by itself. sample_eps: what is kept from the
        ends of the time; None: as path and prediction need.

        Raises: ConfigError for a number of steps that is impossible, for an unknown path or method, and for options
        that the method has no use for.
        """
        if not 1 <= steps <= MOST_STEPS:
            raise ConfigError(f"sampler.steps = {steps}: from 1 to {MOST_STEPS} steps are possible")
        if method not in (*FIXED, ADAPTIVE):
            methods = ", ".join((*FIXED, ADAPTIVE))
            raise ConfigError(f"sampler.options.method = {method!r}: {self.name} takes {methods}")
        self._check_limits(method, atol, rtol, together)
        self._of = Interpolant(path, self.check_objective(objective))
        ends = points(Interval(of=self._of, sample_eps=sample_eps).ode(), steps + 1).astype(np.float64)
        self._solving = lambda x: solving(x, ends.tolist(), method, atol, rtol)
        self._events: Any = None
        self._left = steps
        self.adapts, self.runs_alone = method == ADAPTIVE, method == ADAPTIVE and not together
        if self.adapts:
            super().__init__(objective, ends[:1])
            self.timesteps, self.draws_noise = self.timesteps.tolist(), (False,)
        else:
            shares = [0.0, *(stage.share for stage in FIXED[method].stages)]
            super().__init__(objective, (ends[:-1, None] + np.diff(ends)[:, None] * shares).ravel())

    def _advance(self, x: Array, prediction: Array, i: int, noise: Array | None) -> Array:
        if self._events is None:
            self._events = self._solving(x)
            next(self._events)  # the state itself
            next(self._events)  # asks for the first slope, which has come
        event = self._events.send(applied(self._of.drift(self.timesteps[i]), x, prediction))
        while isinstance(event, Reached) and self._left > 1:
            self._left -= 1
            event = next(self._events)
        if self.adapts and isinstance(event, Query):
            self.timesteps.append(event.time)
            self.draws_noise = (False,) * len(self.timesteps)
        return event.state

    def _check_limits(self, method: str, atol: float, rtol: float, together: bool) -> None:
        if method != ADAPTIVE and (atol, rtol, together) != (ATOL, RTOL, False):
            raise ConfigError(
                f"sampler.options.atol, rtol and together are for method {ADAPTIVE}, not for {method}; leave them out"
            )
        if min(atol, rtol) < 0 or atol + rtol == 0:
            raise ConfigError(f"sampler.options.atol = {atol:g}, rtol = {rtol:g}: need numbers from 0 on, one above it")
