"""PNDM: four Runge-Kutta calls for each of the first three steps, then a linear multistep of fourth order.

Both estimate the noise; the pseudo-numerical transfer then moves the state along the DDIM direction. Runs end at the
noise of timestep 0. Source: Liu et al. 2022, arXiv:2202.09778, equations 11 to 13.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from ..errors import ConfigError
from .base import Array, Sampler
from .objectives import noise_weights
from .schedule import LINEAR, Schedule
from .spacing import visit_whole_points, whole_stride

NUM_WARMUP_STEPS = 3
CALLS_PER_WARMUP_STEP = 4
RUNGE_KUTTA = (1 / 6, 1 / 3, 1 / 3, 1 / 6)
ADAMS_BASHFORTH = (55 / 24, -59 / 24, 37 / 24, -9 / 24)
"""Weights of the newest prediction and the three before it."""


class PNDM(Sampler):
    """z' = keep * z + take * noise for each call, from the state and timestep its step sets out from.

    Predictions are combined as they are and read as noise afterwards, also velocities of different timesteps:
    published results depend on it.
    """

    name = "pndm"
    aliases = ("PNDM",)
    objectives = ("epsilon", "v_prediction")

    def __init__(
        self, steps: int, *, objective: str = "epsilon", schedule: Schedule = LINEAR, spacing: str | None = None
    ) -> None:
        if schedule.zero_terminal_snr:
            raise ConfigError(
                "sampler.zero_terminal_snr: pndm divides by the signal of the first timestep, which is 0 then; take "
                "another sampler, or set it to false and sampler.spacing to 'trailing' as Open-Sora Plan does"
            )
        if steps <= NUM_WARMUP_STEPS:
            raise ConfigError(f"sampler.steps = {steps}: pndm needs at least {NUM_WARMUP_STEPS + 1}")
        visited = visit_whole_points(steps, schedule, spacing)
        calls, bases, targets = _itinerary(visited, whole_stride(steps, schedule))
        alpha, sigma = schedule.rates(bases)
        a = alpha**2
        a_next = schedule.alphas_cumprod_at(targets, before_first=float(schedule.alphas_cumprod[0]))
        noise_of_x, noise_of_prediction = noise_weights(self.check_objective(objective), alpha, sigma)
        along = -(a_next - a) / (a * np.sqrt(1.0 - a_next) + alpha * sigma * np.sqrt(a_next))
        self._keep = (np.sqrt(a_next / a) + along * noise_of_x).tolist()
        self._take = (along * noise_of_prediction).tolist()
        self._history: list[Array] = []
        super().__init__(objective, calls)

    def _advance(self, x: Array, prediction: Array, i: int, noise: Array | None) -> Array:
        if i >= NUM_WARMUP_STEPS * CALLS_PER_WARMUP_STEP:
            self._remember(prediction)
            return self._transfer(x, _weighted_sum(ADAMS_BASHFORTH, self._history), i)
        stage = i % CALLS_PER_WARMUP_STEP
        if stage == 0:
            self._start, self._stages = x, []
            self._remember(prediction)
        self._stages.append(prediction)
        if stage == CALLS_PER_WARMUP_STEP - 1:
            prediction = _weighted_sum(RUNGE_KUTTA, self._stages)
        return self._transfer(self._start, prediction, i)

    def _transfer(self, x: Array, prediction: Array, i: int) -> Array:
        return self._keep[i] * x + self._take[i] * prediction

    def _remember(self, prediction: Array) -> None:
        self._history = [prediction, *self._history[: len(ADAMS_BASHFORTH) - 1]]


def _itinerary(visited: np.ndarray, stride: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each call: its timestep, the timestep its step sets out from, and the one it arrives at (negative: before 0).

    A warm-up step is called at its start, twice at its middle and at its end. The middle counts back from the end by
    half the whole-number stride.
    """
    calls: list[int] = []
    bases: list[int] = []
    targets: list[int] = []
    for start, end in pairwise(visited[: NUM_WARMUP_STEPS + 1].tolist()):
        middle = end + stride // 2
        calls += [start, middle, middle, end]
        bases += [start] * CALLS_PER_WARMUP_STEP
        targets += [start - stride // 2, middle, middle - stride // 2, end]
    rest = visited[NUM_WARMUP_STEPS:]
    return (
        np.array([*calls, *rest]),
        np.array([*bases, *rest]),
        np.array([*targets, *(rest - stride)]),
    )


def _weighted_sum(weights: tuple[float, ...], arrays: list[Array]) -> Array:
    total = weights[0] * arrays[0]
    for weight, array in zip(weights[1:], arrays[1:], strict=True):
        total = total + weight * array
    return total
