"""Interpolants between noise and data: paths, what a network may predict on them, and how fast noise may come in.

Times run from t = 0, noise, to t = 1, data; the state is alpha(t) * data + sigma(t) * noise. All that is asked of a
path is linear in the state and in the network's output, so it comes down to pairs of numbers, of_state and of_output.
Source: Ma et al. 2024 (SiT), arXiv:2401.08740.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from ..errors import ConfigError
from ..printable import short_name

Times = Any
"""A number, or an array of them, in float64."""
PATHS = ("linear", "gvp", "vp")
"""Straight; variance-preserving by sine and cosine; variance-preserving by the betas of a diffusion."""
PREDICTIONS = ("velocity", "noise", "score")
WEIGHTINGS = ("none", "velocity", "likelihood")
FORMS = ("constant", "sbdm", "sigma", "linear", "decreasing", "increasing-decreasing")
VP_BETAS = 0.1, 20.0
VP_EPS, EPS = (1e-5, 1e-3), (1e-3, 1e-3)
"""What training and sampling leave out of the time where a quantity would be infinite."""


class Mix(NamedTuple):
    """of_state * state + of_output * output."""

    of_state: Times
    of_output: Times


class Rates(NamedTuple):
    """The path at a time: the state is alpha * data + sigma * noise, and these are the derivatives by the time."""

    alpha: Times
    sigma: Times
    alpha_slope: Times
    sigma_slope: Times


@dataclass(frozen=True)
class Interpolant:
    """A path, and what the network predicts on it. Raises: ConfigError for names that there are not."""

    path: str = "linear"
    prediction: str = "velocity"

    def __post_init__(self) -> None:
        _one_of("path", self.path, PATHS)
        _one_of("prediction", self.prediction, PREDICTIONS)

    def rates(self, t: Times) -> Rates:
        """Of times: their data, their noise, and the velocity of both."""
        if self.path == "linear":
            return Rates(t, 1.0 - t, np.ones_like(t), -np.ones_like(t))
        if self.path == "gvp":
            angle = t * np.pi / 2
            sine, cosine = np.sin(angle), np.cos(angle)
            return Rates(sine, cosine, np.pi / 2 * cosine, -np.pi / 2 * sine)
        low, high = VP_BETAS
        exponent = -0.25 * (1 - t) ** 2 * (high - low) - 0.5 * (1 - t) * low
        alpha, slope = np.exp(exponent), 0.5 * (1 - t) * (high - low) + 0.5 * low
        square = -np.expm1(2 * exponent)  # 1 - alpha ** 2, which cancels near t = 1
        with np.errstate(divide="ignore", invalid="ignore"):  # there is nothing beyond t = 1
            sigma = np.sqrt(square)
            return Rates(alpha, sigma, alpha * slope, -(alpha**2) * slope / sigma)

    def drift(self, t: Times) -> Mix:
        """Of the ordinary differential equation that carries noise to data."""
        if self.prediction == "velocity":
            return Mix(np.zeros_like(t), np.ones_like(t))
        pull, pace = self._backwards(t)
        if self.prediction == "score":
            return Mix(pull, pace)
        return Mix(pull, -pace / self.rates(t).sigma)

    def score(self, t: Times) -> Mix:
        """The gradient of the state's log density."""
        if self.prediction == "score":
            return Mix(np.zeros_like(t), np.ones_like(t))
        alpha, sigma, alpha_slope, sigma_slope = self.rates(t)
        if self.prediction == "noise":
            return Mix(np.zeros_like(t), -1.0 / sigma)
        ratio = alpha / alpha_slope
        variance = sigma**2 - ratio * sigma_slope * sigma
        return Mix(-1.0 / variance, ratio / variance)

    def target(self, t: Times) -> tuple[Times, Times]:
        """What the network is to predict: the first times the data plus the second times the noise."""
        _, sigma, alpha_slope, sigma_slope = self.rates(t)
        if self.prediction == "velocity":
            return alpha_slope, sigma_slope
        return np.zeros_like(t), np.ones_like(t) if self.prediction == "noise" else -1.0 / sigma

    def weight(self, weighting: str, t: Times) -> Times:
        """Of the squared error of the prediction. Raises: ConfigError for a weighting that the prediction lacks."""
        _one_of("weighting", weighting, WEIGHTINGS)
        if self.prediction == "velocity":
            if weighting != "none":
                raise ConfigError(f"weighting = {weighting!r}: a velocity has none; noise and score have")
            return np.ones_like(t)
        sigma = self.rates(t).sigma
        pace = self._backwards(t)[1]
        weight = {"none": np.ones_like(t), "velocity": (pace / sigma) ** 2, "likelihood": pace / sigma**2}[weighting]
        # The error of a score is that of the noise it stands for.
        return weight * sigma**2 if self.prediction == "score" else weight

    def diffusion(self, form: str, norm: float, t: Times) -> Times:
        """How much of the score a stochastic sampler adds to its drift; half the square of its noise."""
        _one_of("form", form, FORMS)
        if form == "constant":
            return norm * np.ones_like(t)
        if form == "sbdm":
            return norm * self._backwards(t)[1]
        if form == "sigma":
            return norm * self.rates(t).sigma
        if form == "linear":
            return norm * (1.0 - t)
        if form == "decreasing":
            return 0.25 * (norm * np.cos(np.pi * t) + 1) ** 2
        return norm * np.sin(np.pi * t) ** 2

    def _backwards(self, t: Times) -> tuple[Times, Times]:
        """What the state, and what the score is multiplied by in the drift."""
        if self.path == "vp":
            low, high = VP_BETAS
            beta = low + (1 - t) * (high - low)
            return beta / 2, beta / 2
        _, sigma, _, sigma_slope = self.rates(t)
        with np.errstate(divide="ignore", invalid="ignore"):
            pull = 1.0 / t if self.path == "linear" else np.pi / (2 * np.tan(t * np.pi / 2))
        return pull, pull * sigma**2 - sigma * sigma_slope


@dataclass(frozen=True, kw_only=True)
class Interval:
    """The times that training and sampling keep to."""

    of: Interpolant
    train_eps: float | None = None
    """Kept from the ends in training; None: as the path and the prediction need."""
    sample_eps: float | None = None
    """The same in sampling."""
    as_upstream: bool = False
    """sample_eps counts only beside train_eps, and neither for a velocity on the linear and gvp paths (quirk Q8)."""

    @property
    def eps(self) -> tuple[float, float]:
        """Of training and of sampling."""
        needs_none = self.of.path != "vp" and self.of.prediction == "velocity"
        train, sample = VP_EPS if self.of.path == "vp" else (0.0, 0.0) if needs_none else EPS
        if self.as_upstream and (needs_none or self.train_eps is None or self.sample_eps is None):
            return train, sample
        given = self.train_eps, self.sample_eps
        return train if given[0] is None else given[0], sample if given[1] is None else given[1]

    def training(self) -> tuple[float, float]:
        """First and last time."""
        return self._ends(self.eps[0])

    def ode(self, reverse: bool = False) -> tuple[float, float]:
        """From noise to data; reverse: upstream's way back, from data to noise."""
        first, last = self._ends(self.eps[1])
        return (1.0 - first, 1.0 - last) if reverse else (first, last)

    def sde(self, last_step: float = 0.0, form: str = "sbdm") -> tuple[float, float]:
        """Up to where the last step, of that size, begins."""
        eps, of = self.eps[1], self.of
        starts_late = of.path != "vp" and (form == "sbdm" or of.prediction != "velocity")
        return eps if starts_late else 0.0, 1.0 - (last_step or eps)

    def _ends(self, eps: float) -> tuple[float, float]:
        if self.of.path == "vp":
            return 0.0, 1.0 - eps
        return eps, 1.0 - eps


def _one_of(what: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ConfigError(f"{what} = {short_name(repr(value))}: needs one of {', '.join(allowed)}")
