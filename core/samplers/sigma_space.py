"""The common half of samplers whose state is x = x_0 + sigma * noise: the Euler, Heun and KDPM2 families.

dx / dsigma is the noise in x. The network was trained on states of unit variance, so it sees x / sqrt(1 + sigma^2).
Source: Karras et al. 2022, arXiv:2206.00364.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .base import Array, Sampler
from .objectives import clean_weights, signal_rate
from .schedule import Schedule
from .spacing import default_spacing, visit_points


class SigmaPath(NamedTuple):
    """Where a run passes: timesteps (steps,), sigmas (steps + 1,) ending at 0, and the scale of the first state."""

    timesteps: np.ndarray
    sigmas: np.ndarray
    init_scale: float


def sigma_path(steps: int, schedule: Schedule, spacing: str | None) -> SigmaPath:
    """The path of `steps` points.

    Raises: ConfigError as `visit_points`.
    """
    spacing = spacing or default_spacing(schedule)
    timesteps = visit_points(steps, schedule, spacing)
    sigmas = np.append(schedule.sigmas_at(timesteps), 0.0)
    largest = float(sigmas[0])
    # A leading run starts where data is left: its variance 1 counts. Else the start passes for pure noise.
    init_scale = (largest**2 + 1.0) ** 0.5 if spacing == "leading" else largest
    return SigmaPath(timesteps, sigmas, init_scale)


def doubled(values: np.ndarray) -> np.ndarray:
    """Each value twice but the first once, for the two calls of second-order steps: (n,) -> (2n - 1,)."""
    return np.repeat(values, 2)[1:]


def ancestral_split(sigmas: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """sigma_down and sigma_up of each interval of `sigmas`: where the step ends and how much noise is added there.

    The two variances sum to that of the interval's end, and sigma_up is such that q(x' | x, x_0) is the posterior of
    the forward process (Song et al. 2021, arXiv:2010.02502, eta = 1).
    """
    sigma, following = sigmas[:-1], sigmas[1:]
    ratio = following / sigma
    return following * ratio, following * np.sqrt(1.0 - ratio**2)


class SigmaSampler(Sampler):
    """Shows the network scaled states and reads dx / dsigma off its predictions."""

    def __init__(
        self,
        objective: str,
        timesteps: np.ndarray,
        *,
        call_sigmas: np.ndarray,
        sigmas: np.ndarray,
        init_scale: float,
        draws_noise: np.ndarray | None = None,
    ) -> None:
        alpha = signal_rate(call_sigmas)
        super().__init__(
            objective,
            timesteps,
            sigmas=sigmas,
            init_scale=init_scale,
            input_scales=alpha,
            draws_noise=draws_noise,
        )
        of_state, of_prediction = clean_weights(self.check_objective(objective), alpha, alpha * call_sigmas)
        self._of_x, self._of_prediction = (alpha * of_state).tolist(), of_prediction.tolist()
        self._per_sigma = (1.0 / call_sigmas).tolist()

    def slope(self, x: Array, prediction: Array, i: int) -> Array:
        """How the state changes with sigma at call i; all in one shape."""
        # By way of x_0, and the step as x + stride * slope, though both would fold into two weights: at sigma = 4096
        # a float32 state is rounded to 0.0005, and this order rounds as published trajectories do.
        clean = self._of_x[i] * x + self._of_prediction[i] * prediction
        return self._per_sigma[i] * (x - clean)
