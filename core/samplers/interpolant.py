"""Sampling along an interpolant: its ordinary and its stochastic differential equation, and likelihoods.

Arrays of any framework: only operators are used. A network is a function of a state and a time.
Source: Ma et al. 2024 (SiT), arXiv:2401.08740.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from math import log, pi, sqrt

import numpy as np

from ..errors import ConfigError
from ..maths.interpolants import FORMS, Interpolant, Interval, Mix
from .base import Array
from .solvers import ATOL, RTOL, Field, solve

Network = Callable[[Array, float], Array]
"""(state, time) -> the prediction."""
LAST_STEPS = ("mean", "euler", "tweedie", "none")
METHODS = ("euler", "heun")


def points(ends: tuple[float, float], steps: int) -> np.ndarray:
    """Times evenly from one end to the other, as float32 rounds them. Raises: ConfigError for fewer than two."""
    if steps < 2:
        raise ConfigError(f"steps = {steps}: needs at least 2 points in time")
    return np.linspace(*ends, steps).astype(np.float32)


def ode(
    network: Network,
    state: Array,
    interval: Interval,
    steps: int,
    method: str = "dopri5",
    *,
    reverse: bool = False,
    atol: float = ATOL,
    rtol: float = RTOL,
) -> Iterator[Array]:
    """The states at `steps` points from noise to data; reverse: from data to noise.

    Fixed methods take a step less than there are points; dopri5 reads them off. Raises: as `solve`.
    """
    field = drift_field(network, interval.of)
    return solve(field, state, points(interval.ode(reverse), steps).tolist(), method, atol=atol, rtol=rtol)


def drift_field(network: Network, of: Interpolant) -> Field:
    """What `solve` asks for."""
    return lambda x, t: applied(of.drift(np.float64(t)), x, network(x, t))


@dataclass(frozen=True, kw_only=True)
class SDE:
    """A stochastic run. Raises: ConfigError for names that there are not, and where the noise would be infinite."""

    interval: Interval
    steps: int = 250
    """Points in time, of which the last is that of the last step."""
    method: str = "euler"
    form: str = "sigma"
    """How much noise comes in, by the time: one of maths.interpolants.FORMS."""
    norm: float = 1.0
    """How many times that."""
    last_step: str = "mean"
    """mean: a step of the drift without noise; euler: of the ordinary equation; tweedie: the data that are expected."""
    last_step_size: float = 0.04

    def __post_init__(self) -> None:
        for what, value, allowed in (
            ("method", self.method, METHODS),
            ("form", self.form, FORMS),
            ("last_step", self.last_step, LAST_STEPS),
        ):
            if value not in allowed:
                raise ConfigError(f"sampler.options.{what} = {value!r}: needs one of {', '.join(allowed)}")
        start = np.float64(self.times[0])
        with np.errstate(divide="ignore", invalid="ignore"):
            if not np.isfinite(self.interval.of.diffusion(self.form, self.norm, start)):
                raise ConfigError(
                    f"sampler.options.form = {self.form}: its noise is infinite at t = 0, where a "
                    f"{self.interval.of.prediction} model on the {self.interval.of.path} path starts; take another "
                    "form, or set sampler.options.sample_eps=0.001"
                )

    @property
    def times(self) -> np.ndarray:
        """Float32, `steps` of them."""
        size = 0.0 if self.last_step == "none" else self.last_step_size
        return points(self.interval.sde(size, self.form), self.steps)

    def run(self, network: Network, state: Array, noises: Callable[[int], Array]) -> Iterator[Array]:
        """The states after each of the steps - 1 steps and after the last step, `steps` in all.

        noises: of a step's number its unit noise, like the state.
        """
        *times, last = self.times.tolist()
        for i, time in enumerate(times):
            if self.method == "euler":
                state = self.euler(state, network(state, time), time, noises(i))
            else:
                state = self.noised(state, time, noises(i))
                slope = self.slope(state, network(state, time), time)
                there, after = state + self.length * slope, time + self.length
                state = state + self.length / 2 * (slope + self.slope(there, network(there, after), after))
            yield state
        yield state if self.last_step == "none" else self.finish(state, network(state, last), last)

    def drift(self, t: float) -> Mix:
        """The drift of the ordinary equation, and the score as much as noise comes in."""
        drift, score = self.interval.of.drift(np.float64(t)), self.interval.of.score(np.float64(t))
        amount = self._diffusion(t)
        return Mix(drift.of_state + amount * score.of_state, drift.of_output + amount * score.of_output)

    def _diffusion(self, t: float) -> float:
        return float(self.interval.of.diffusion(self.form, self.norm, np.float64(t)))

    @cached_property
    def length(self) -> float:
        """Of a step, in time."""
        return float(self.times[1] - self.times[0])

    def euler(self, x: Array, output: Array, t: float, noise: Array) -> Array:
        """The state a step after t. output: the network's, for x."""
        return self.noised(x + self.length * self.slope(x, output, t), t, noise)

    def slope(self, x: Array, output: Array, t: float) -> Array:
        """The drift of a state at t, noise aside. output: the network's, for x."""
        return applied(self.drift(t), x, output)

    def noised(self, x: Array, t: float, noise: Array) -> Array:
        """The state with the noise that comes in during the step from t on."""
        return x + sqrt(2.0 * self._diffusion(t) * self.length) * noise

    def finish(self, x: Array, output: Array, t: float) -> Array:
        """The state after the last step from t, where there is one. output: the network's, for x."""
        of = self.interval.of
        if self.last_step == "tweedie":
            alpha, sigma, _, _ = of.rates(np.float64(t))
            return float(1.0 / alpha) * x + float(sigma**2 / alpha) * applied(of.score(np.float64(t)), x, output)
        drift = self.drift(t) if self.last_step == "mean" else of.drift(np.float64(t))
        return x + self.last_step_size * applied(drift, x, output)


def log_likelihood(
    change: Callable[[np.ndarray, float], tuple[np.ndarray, np.ndarray]],
    data: np.ndarray,
    interval: Interval,
    steps: int,
    method: str = "dopri5",
    *,
    atol: float = ATOL,
    rtol: float = RTOL,
) -> tuple[np.ndarray, np.ndarray]:
    """Natural logarithm of the density of each datum (B, ...), (B,), and the noise that it comes from.

    change: of states and a time the drift, and the trace of its derivative by the state for each sample (B,), or an
    estimate of it: probe . grad(drift . probe) with a probe of signs. On the way to noise the network's time is
    1 - s, where s runs through the interval of sampling.
    Source: Hutchinson 1989; Chen et al. 2018, arXiv:1806.07366.
    """
    batch, shape = len(data), data.shape

    def field(joined: np.ndarray, s: float) -> np.ndarray:
        drift, trace = change(joined[:, :-1].reshape(shape), 1.0 - s)
        return np.concatenate([-drift.reshape(batch, -1), trace[:, None]], 1).astype(joined.dtype)

    joined = np.concatenate([data.reshape(batch, -1), np.zeros((batch, 1), data.dtype)], 1)
    *_, last = solve(field, joined, points(interval.ode(), steps).tolist(), method, atol=atol, rtol=rtol)
    noise, moved = last[:, :-1], last[:, -1]
    normal = -0.5 * (noise.astype(np.float64) ** 2).sum(1) - noise.shape[1] / 2 * log(2 * pi)
    return normal - moved, noise.reshape(shape)


def applied(pair: Mix, x: Array, output: Array) -> Array:
    """The mix of a state and the network's output."""
    of_state, of_output = float(pair.of_state), float(pair.of_output)
    return of_output * output if of_state == 0.0 else of_state * x + of_output * output
