"""SpeeD: more of the timesteps at which the noise grows fast, in pairs, and errors that weigh less near the clean end.

Sources: Wang et al. 2024, arXiv:2405.17403 (the draw); Choi et al. 2022, arXiv:2204.00227 (the weights, P2);
opensora/schedulers/iddpm/speed.py of hpcaitech Open-Sora, whose training draws plain timesteps at v1.2.0 (quirk Q18).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from .. import random
from ..samplers.schedule import Schedule

FAST, SLOW = 1e-4, 5e-5
"""Growth of the noise's standard deviation per timestep: above the one timesteps are favoured, below the other they say
little."""
FAVOURED, OTHERS = 2.5, 0.5


class SpeedDraw:
    """Timesteps and weights of a schedule."""

    def __init__(self, schedule: Schedule) -> None:
        alphas_cumprod = replace(schedule, rounds=False).alphas_cumprod
        growth = np.gradient(np.sqrt(1.0 - alphas_cumprod))
        shares = np.where(growth > FAST, FAVOURED, OTHERS)
        self._until = np.cumsum(shares / shares.sum())
        self.meaningful = int(np.argmax(growth < SLOW)) + 1
        """The first timestep that says little, and one."""
        self.weights = 1.0 - alphas_cumprod
        """1 / (1 + signal-to-noise ratio) of each timestep."""

    def draw(self, seed: int, samples: Sequence[int], step: int) -> np.ndarray:
        """Timesteps (B,): every other sample, by its number, has the partner of the one before."""
        return np.array([self._draw(seed, sample, step) for sample in samples], np.int64)

    def partner(self, timestep: int) -> int:
        """As far from the other end of the timesteps that say much, or of those that say little."""
        return abs(self.meaningful - timestep)

    def _draw(self, seed: int, sample: int, step: int) -> int:
        share = random.stream(seed, "timestep", sample - sample % 2, step).random()
        drawn = min(int(np.searchsorted(self._until, share, side="right")), len(self._until) - 1)
        return self.partner(drawn) if sample % 2 else drawn
