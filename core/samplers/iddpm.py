"""IDDPM: ancestral sampling on a respaced chain, with a variance that the network may have learned.

Each step draws from a Gaussian about the posterior's mean of (x_0, x). The network says v in [-1, 1] beside its
prediction, and the logarithm of the variance is that far on the way from the posterior's to that of beta. x_0 is never
clipped. Sources: Nichol and Dhariwal 2021, arXiv:2102.09672, section 3.1; opensora/schedulers/iddpm of hpcaitech
Open-Sora at v1.2.0, also for frames that begin to move late.
"""

from __future__ import annotations

import numpy as np

from .base import Array, LinearSampler
from .late_frames import FrameStarts, choose
from .objectives import DIFFUSION_OBJECTIVES, clean_weights
from .respacing import Chain, kept_timesteps
from .schedule import LINEAR, Schedule


class IDDPM(LinearSampler):
    """x' = posterior mean of (x_0, x) + sqrt(least variance * largest) * (largest / least)^(v / 2) * noise."""

    name = "iddpm"
    aliases = ("IDDPM",)
    objectives = DIFFUSION_OBJECTIVES
    starts_frames_late = True

    def __init__(
        self,
        steps: int,
        *,
        objective: str = "epsilon",
        schedule: Schedule = LINEAR,
        spacing: str | None = None,
        variance: str = "learned_range",
        sections: str = "",
        tells_late: bool = False,
    ) -> None:
        """spacing: linspace (the default) or leading. variance: as Chain.log_variances. sections: counts of steps in
        as many equal parts of the timesteps, such as "10,15,20". tells_late: as upstream (see frame_starts)."""
        kept = kept_timesteps(schedule.num_train_timesteps, steps, spacing or "linspace", sections)
        chain = Chain.of(schedule, kept)
        clean_of_x, clean_of_prediction = clean_weights(self.check_objective(objective), *chain.rates)
        of_clean, of_x = chain.posterior_mean
        least, largest = chain.log_variances(variance)
        spread = np.exp((least + largest) / 4.0)
        spread[0] = 0.0  # the last step ends in the data
        super().__init__(
            objective,
            chain.timesteps[::-1],
            keep=(of_x + of_clean * clean_of_x)[::-1],
            take=(of_clean * clean_of_prediction)[::-1],
            spread=spread[::-1],
        )
        self.reads_range = variance == "learned_range"
        self._growth = np.exp((largest - least) / 4.0)[::-1].tolist()
        self._tells_late = tells_late
        self._rates = [rates[::-1].tolist() for rates in chain.rates]

    def with_noise(self, x: Array, noise: Array, enters: Array, i: int) -> Array:
        """As Sampler.with_noise."""
        signal, spread = (rates[i] for rates in self._rates)
        return choose(enters, signal * x + spread * noise, x)

    def frame_starts(self, strength: np.ndarray) -> FrameStarts:
        """A frame of strength s is made in the last s * steps calls, rounded down; at 0 it is kept.

        With tells_late the network is told that a frame is clean in the first call that moves it, and a frame of
        strength 0 takes part in the last call: upstream's way.
        """
        calls = len(self.timesteps)
        # In float32, as strengths are; upstream's product is rounded so too.
        first = (strength.astype(np.float32) * np.float32(calls)).astype(np.int64)
        left = np.arange(calls - 1, -1, -1)[:, None, None]
        moves, enters = first >= left, first == left
        if self._tells_late:
            return FrameStarts(moves, enters, told=first > left)
        return FrameStarts(moves & (strength > 0), enters & (strength > 0))

    def _scaled(self, noise: Array, variance: Array, i: int) -> Array:
        return self._growth[i] ** variance * noise
