"""Which training timesteps a run of few steps visits.

Three rules, named as in Lin et al. 2023, arXiv:2305.08891, table 2: `leading` (multiples of a whole ratio, starting
at 0), `trailing` (ends at the last timestep, what zero terminal SNR needs) and `linspace` (both ends). Two families
of samplers count differently: most visit `steps` points; the multistep solvers cut the range in `steps` intervals and
leave out the clean end.
"""

from __future__ import annotations

import numpy as np

from ..errors import ConfigError
from .schedule import Schedule

SPACINGS = ("leading", "trailing", "linspace")


def default_spacing(schedule: Schedule) -> str:
    """Trailing when the last timestep is pure noise, which a run has to start from; else leading."""
    return "trailing" if schedule.zero_terminal_snr else "leading"


def visit_points(steps: int, schedule: Schedule, spacing: str | None) -> np.ndarray:
    """Timesteps for samplers that visit `steps` points, falling, float64 (steps,); `linspace` may give fractions.

    Raises: ConfigError for an unknown spacing or a number of steps outside 1 .. num_train_timesteps.
    """
    total = _checked(steps, schedule)
    spacing = spacing or default_spacing(schedule)
    if spacing == "leading":
        return (np.arange(steps) * (total // steps))[::-1].astype(np.float64)
    if spacing == "trailing":
        return _trailing(steps, total)
    if spacing == "linspace":
        return np.linspace(0, total - 1, steps)[::-1].copy()
    raise _unknown(spacing)


def visit_whole_points(steps: int, schedule: Schedule, spacing: str | None) -> np.ndarray:
    """As `visit_points`, rounded to whole timesteps: int64 (steps,), usable as indices of the schedule's tables."""
    return visit_points(steps, schedule, spacing).round().astype(np.int64)


def whole_stride(steps: int, schedule: Schedule) -> int:
    """How many timesteps a step of the DDIM family goes down.

    Where `steps` does not divide num_train_timesteps, neighbouring visits can be one further apart than this;
    published results step by the whole part all the same.
    """
    return schedule.num_train_timesteps // steps


def visit_intervals(steps: int, schedule: Schedule, spacing: str | None) -> np.ndarray:
    """Whole timesteps at the noisy ends of `steps` intervals, falling, int64 (steps,).

    Raises: ConfigError as `visit_points`, and when two of the timesteps are the same.
    """
    total = _checked(steps, schedule)
    spacing = spacing or default_spacing(schedule)
    if spacing == "leading":
        timesteps = np.arange(steps, 0, -1) * float(total // (steps + 1))
    elif spacing == "trailing":
        timesteps = _trailing(steps, total)
    elif spacing == "linspace":
        timesteps = np.linspace(0, total - 1, steps + 1).round()[::-1][:-1]
    else:
        raise _unknown(spacing)
    if np.any(np.diff(timesteps) >= 0):
        raise ConfigError(
            f"sampler.steps = {steps}: {spacing} spacing repeats a timestep, use fewer steps or trailing spacing"
        )
    return timesteps.astype(np.int64)


def _trailing(steps: int, total: int) -> np.ndarray:
    # np.arange, not total - i * total / steps: at halves, published timesteps depend on its own rounding (48 steps:
    # 937.5 less a hair). For some step counts it yields one entry too many, just above 0.
    return np.arange(total, 0, -total / steps).round()[:steps] - 1.0


def _checked(steps: int, schedule: Schedule) -> int:
    total = schedule.num_train_timesteps
    if not 1 <= steps <= total:
        raise ConfigError(f"sampler.steps = {steps}: from 1 to {total} steps are possible")
    return total


def _unknown(spacing: str) -> ConfigError:
    return ConfigError(f"sampler.spacing = {spacing!r}: unknown, use one of {', '.join(SPACINGS)}")
