"""The learning rate of each optimiser step, as a function of the step alone.

The shapes are those of diffusers' get_scheduler, with which upstream trains, and `hold_cosine` of the tiny model.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import cos, pi

from ..errors import ConfigError

KINDS = ("constant", "linear", "cosine", "cosine_with_restarts", "polynomial", "hold_cosine")


@dataclass(frozen=True, kw_only=True)
class LearningRate:
    """A schedule. Raises: ConfigError for an unknown kind or impossible numbers."""

    peak: float
    kind: str = "constant"
    """After the warm-up: stay; fall in a straight line, along half a cosine, along `cycles` of them, or as a power of
    what is left; `hold_cosine` stays for `hold` of the steps first."""
    warmup_steps: int = 0
    """Steps over which it rises in a straight line from 0."""
    starts_above_zero: bool = False
    """Whether the first step already has a rate, one part of warmup_steps + 1 of the peak, as in Open-Sora 1.2."""
    total_steps: int = 1
    floor: float = 0.0
    """Where falling ends, as a part of the peak."""
    cycles: int = 1
    power: float = 1.0
    hold: float = 0.5

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ConfigError(f"learning_rate.kind = {self.kind!r}: needs one of {', '.join(KINDS)}")
        if not (self.peak > 0 and 0 <= self.floor <= 1 and 0 <= self.hold < 1 and self.cycles >= 1):
            raise ConfigError(
                "learning_rate: needs peak > 0, floor from 0 to 1, hold from 0 to below 1 and cycles >= 1"
            )
        if self.warmup_steps < 0 or self.total_steps < 1:
            raise ConfigError("learning_rate: needs warmup_steps of at least 0 and at least one step in all")

    def at(self, step: int) -> float:
        """The rate of optimiser step 0, 1, ..."""
        if step < self.warmup_steps:
            if self.starts_above_zero:
                return self.peak * (step + 1) / (self.warmup_steps + 1)
            return self.peak * step / self.warmup_steps
        after = max(1, self.total_steps - self.warmup_steps)
        passed = min(1.0, (step - self.warmup_steps) / after)
        return self.peak * (self.floor + (1.0 - self.floor) * self._shape(passed))

    def _shape(self, passed: float) -> float:
        """From 1 to 0 as `passed` goes from 0 to 1."""
        if self.kind == "constant":
            return 1.0
        if self.kind == "linear":
            return 1.0 - passed
        if self.kind == "polynomial":
            return (1.0 - passed) ** self.power
        if self.kind == "hold_cosine":
            passed = max(0.0, (passed - self.hold) / (1.0 - self.hold))
        if self.kind == "cosine_with_restarts":
            passed = 1.0 if passed >= 1.0 else (passed * self.cycles) % 1.0
        return 0.5 * (1.0 + cos(pi * passed))
