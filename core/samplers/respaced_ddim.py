"""DDIM on a respaced chain, as improved diffusion and DiT sample with it.

Source: Song et al. 2021, arXiv:2010.02502, equation 12; eta = 0 adds no noise, eta = 1 as much as the posterior has.
"""

from __future__ import annotations

import numpy as np

from ..errors import ConfigError
from .base import LinearSampler
from .objectives import DIFFUSION_OBJECTIVES, clean_weights, noise_weights
from .respacing import Chain, kept_timesteps
from .schedule import LINEAR, Schedule


class RespacedDDIM(LinearSampler):
    """x' = sqrt(a') * x_0 + sqrt(1 - a' - sigma^2) * noise in x + sigma * fresh noise."""

    name = "respaced_ddim"
    aliases = ()
    objectives = DIFFUSION_OBJECTIVES

    def __init__(
        self,
        steps: int,
        *,
        objective: str = "epsilon",
        schedule: Schedule = LINEAR,
        spacing: str | None = None,
        sections: str = "",
        eta: float = 0.0,
    ) -> None:
        """spacing: leading (the default: a constant stride) or linspace. sections: as in IDDPM."""
        if not 0 <= eta <= 1:
            raise ConfigError(f"sampler.options.eta = {eta:g}: needs a number from 0 to 1")
        kept = kept_timesteps(schedule.num_train_timesteps, steps, spacing or "leading", sections)
        chain = Chain.of(schedule, kept)
        clean_of_x, clean_of_prediction = clean_weights(self.check_objective(objective), *chain.rates)
        noise_of_x, noise_of_prediction = noise_weights(objective, *chain.rates)
        spread = eta * np.sqrt(chain.posterior_variance)
        alpha, sigma = np.sqrt(chain.cleaner), np.sqrt(1.0 - chain.cleaner - spread**2)
        super().__init__(
            objective,
            chain.timesteps[::-1],
            keep=(alpha * clean_of_x + sigma * noise_of_x)[::-1],
            take=(alpha * clean_of_prediction + sigma * noise_of_prediction)[::-1],
            spread=spread[::-1],
        )
