"""The chain of improved diffusion: which training timesteps a run of few steps keeps, and the tables of what is left.

A chain of kept timesteps is a diffusion of its own: its betas are such that alphas_cumprod at the kept ones stay as
they were. The network is told the original timesteps. Sources: Nichol and Dhariwal 2021, arXiv:2102.09672, section 4;
Dhariwal and Nichol 2021, arXiv:2105.05233 (respacing); Peebles and Xie 2022, arXiv:2212.09748 (DiT, which uses both).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from ..errors import ConfigError
from .schedule import Schedule

SPACINGS = ("linspace", "leading")


def sections(total: int, counts: Sequence[int]) -> np.ndarray:
    """Timesteps that remain where `total` of them are cut into as many sections as counts, and of each so many are
    kept, its first and last among them: int64, rising.

    Raises: ConfigError for a count that a section is too short for.
    """
    size, more = divmod(total, len(counts))
    start, kept = 0, set()
    for number, count in enumerate(counts):
        length = size + (number < more)
        if not 1 <= count <= length:
            raise ConfigError(f"sampler.steps = {count}: of {length} timesteps, from 1 to {length} can be kept")
        # A running sum with Python's rounding of halves to even: published timesteps depend on both.
        stride, place = (length - 1) / (count - 1) if count > 1 else 1.0, 0.0
        for _ in range(count):
            kept.add(start + round(place))
            place += stride
        start += length
    return np.array(sorted(kept), np.int64)


def constant_stride(total: int, count: int) -> np.ndarray:
    """The timesteps 0, s, 2s ... with the smallest whole stride s that gives exactly `count` of them.

    Raises: ConfigError, naming the nearest numbers of steps, where there is no such stride.
    """
    possible = {-(-total // stride): stride for stride in range(total, 0, -1)}
    if count not in possible:
        below = max((each for each in possible if each < count), default=1)
        above = min((each for each in possible if each > count), default=total)
        raise ConfigError(
            f"sampler.steps = {count}: no constant stride over {total} timesteps has so many steps; the nearest are "
            f"{below} and {above}"
        )
    return np.arange(0, total, possible[count], dtype=np.int64)


def kept_timesteps(total: int, steps: int, spacing: str, counts: str = "") -> np.ndarray:
    """Rising timesteps (steps,) of a run. spacing: linspace for even sections, leading for a constant stride. counts:
    of several sections, such as "10,15,20", whose sum is the number of steps.

    Raises: ConfigError for another spacing, counts that are no numbers or another sum, and as the functions above.
    """
    if spacing not in SPACINGS:
        raise ConfigError(f"sampler.spacing = {spacing!r}: needs {' or '.join(SPACINGS)} here")
    if not counts:
        return constant_stride(total, steps) if spacing == "leading" else sections(total, [steps])
    asked = [int(each) if each.strip().isdecimal() else 0 for each in counts.split(",")]
    if sum(asked) != steps or 0 in asked:
        raise ConfigError(
            f"sampler.options.sections = {counts}: needs whole numbers with commas between that together make "
            f"sampler.steps = {steps}"
        )
    kept = sections(total, asked)
    if len(kept) != steps:
        raise ConfigError(f"sampler.options.sections = {counts}: repeats a timestep, use fewer steps")
    return kept


@dataclass(frozen=True, eq=False)
class Chain:
    """Tables of a diffusion over kept timesteps, all (N,), index 0 the cleanest."""

    timesteps: np.ndarray
    """Of training, rising: what the network is told."""
    alphas_cumprod: np.ndarray
    betas: np.ndarray

    @classmethod
    def of(cls, schedule: Schedule, kept: np.ndarray | None = None, rounds: bool = False) -> Chain:
        """The chain of a schedule with exact tables, as those of improved diffusion; kept None: of all timesteps.

        rounds: tables in float32, as Open-Sora has them from v1.1 on, some of them off by 0.02 %; else float64.
        """
        exact = replace(schedule, rounds=False)
        timesteps = np.arange(exact.num_train_timesteps) if kept is None else kept
        alphas_cumprod = exact.alphas_cumprod[timesteps]
        betas = 1.0 - alphas_cumprod / _cleaner(alphas_cumprod)
        if not rounds:
            return cls(timesteps, alphas_cumprod, betas)
        betas = betas.astype(np.float32)
        return cls(timesteps, np.cumprod(np.float32(1) - betas, dtype=np.float64).astype(np.float32), betas)

    @cached_property
    def cleaner(self) -> np.ndarray:
        """alphas_cumprod of the next cleaner timestep; 1 behind the cleanest."""
        return _cleaner(self.alphas_cumprod)

    @cached_property
    def rates(self) -> tuple[np.ndarray, np.ndarray]:
        """Signal and noise in the state."""
        return np.sqrt(self.alphas_cumprod), np.sqrt(1.0 - self.alphas_cumprod)

    @cached_property
    def posterior_variance(self) -> np.ndarray:
        """Of q(x' | x, x_0); 0 at the cleanest timestep."""
        return self.betas * (1.0 - self.cleaner) / (1.0 - self.alphas_cumprod)

    @cached_property
    def posterior_log_variance(self) -> np.ndarray:
        """Its logarithm, the first entry that of the second; of a single step, that of its beta."""
        second = self.posterior_variance[1:2] if len(self.betas) > 1 else self.betas
        return np.log(np.append(second, self.posterior_variance[1:]))

    @cached_property
    def posterior_mean(self) -> tuple[np.ndarray, np.ndarray]:
        """Weights of x_0 and of x in the mean of q(x' | x, x_0)."""
        noise = 1.0 - self.alphas_cumprod
        return self.betas * np.sqrt(self.cleaner) / noise, (1.0 - self.cleaner) * np.sqrt(1.0 - self.betas) / noise

    def log_variances(self, variance: str) -> tuple[np.ndarray, np.ndarray]:
        """Logarithms of the variances at the ends of what a network says, -1 and 1; alike where it says nothing.

        variance: learned_range between the posterior's and beta; fixed_small, the posterior's; fixed_large, beta with
        its first entry replaced by the posterior's second. Raises: ConfigError for another.
        """
        if variance not in VARIANCES:
            raise ConfigError(f"sampler.options.variance = {variance!r}: needs one of {', '.join(VARIANCES)}")
        least = self.posterior_log_variance
        if variance == "learned_range":
            return least, np.log(self.betas)
        large = np.append(least[:1], np.log(self.betas[1:]))
        return (least, least) if variance == "fixed_small" else (large, large)


VARIANCES = ("learned_range", "fixed_small", "fixed_large")


def _cleaner(alphas_cumprod: np.ndarray) -> np.ndarray:
    return np.concatenate([np.ones(1, alphas_cumprod.dtype), alphas_cumprod[:-1]])
