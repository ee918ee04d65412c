"""TeaCache: no block runs until what the output is expected to have changed by adds up to a threshold.

Source: Liu et al. 2024, arXiv:2411.19108.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from ..models.kinds import DenoiserSpec, has_signal
from ..seam.models import Array, Condition
from .base import CachedDenoiser, CachedRun, CacheKind


@dataclass(frozen=True, kw_only=True)
class TeaCache(CacheKind):
    """A call that leaves out blocks costs none."""

    name: ClassVar[str] = "teacache"
    threshold: float = 0.25
    """Below which the sum of expected changes since the last computed call stays."""
    polynomial: tuple[float, ...] = (1.0, 0.0)
    """Of the expected change of the output by that of what the first block reads, the highest power first."""
    warmup: int = 5
    most_reused: int | None = 2

    def over(self, model: Any, run: CachedRun) -> CachedDenoiser:
        return TeaCacheDenoiser(self, model, run)

    def lacks(self, spec: DenoiserSpec) -> str | None:
        return None if has_signal(spec) else "does not say what its first block reads"

    def computes_all(self, num_calls: int) -> bool:
        return self.threshold == 0 or super().computes_all(num_calls)

    def expected(self, change: float) -> float:
        """The change of the output; never less than nothing."""
        value = 0.0
        for coefficient in self.polynomial:
            value = value * change + coefficient
        return max(value, 0.0)


class Sum:
    """What the output is expected to have changed by since the call that was computed last, in plain numbers."""

    def __init__(self, kind: TeaCache) -> None:
        self.kind, self.value = kind, 0.0

    def reuses(self, change: float) -> bool:
        """Whether a call leaves out blocks, whose signal has changed since the call before; never with a threshold of
        0."""
        self.value += self.kind.expected(change)
        return self.value < self.kind.threshold

    def begin_anew(self) -> None:
        """A call was computed, whoever wanted it."""
        self.value = 0.0


class TeaCacheDenoiser(CachedDenoiser):
    """Stores what the first block read in the last call, and how all moved the tokens in the last computed one."""

    def __init__(self, kind: TeaCache, model: Any, run: CachedRun) -> None:
        super().__init__(kind, model, run)
        self.sum = Sum(kind)
        self._signal: Array = None
        self._all: Array = None

    def through(self, tokens: Array, modulation: Any, condition: Condition) -> Array:
        before, self._signal = self._signal, self.model.signal(tokens, modulation, condition)
        if not self.course.must_compute() and self.sum.reuses(self.change(self._signal, before, condition)):
            return self.model.move(tokens, self._all)
        self.sum.begin_anew()
        behind_all = self.compute(0, self.model.num_blocks, tokens, modulation, condition)
        self._all = self.model.moved(behind_all, tokens)
        return behind_all

    def forget(self) -> None:
        self._signal = self._all = None
        self.sum.begin_anew()
