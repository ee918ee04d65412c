"""TaylorSeer: every so many calls are computed, and what the blocks do in between is predicted from those before.

Its light form: how all blocks together move the tokens is one quantity, so that a call between costs no block and
little is stored. The host decides by the number of the call alone and waits for nothing.
Source: Liu et al. 2025, arXiv:2503.06923.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import factorial
from typing import Any, ClassVar

from ..seam.models import Array, Condition
from .base import CachedDenoiser, CachedRun, CacheKind


@dataclass(frozen=True, kw_only=True)
class Taylor(CacheKind):
    """A call between costs no block."""

    name: ClassVar[str] = "taylor"
    interval: int = 3
    """Behind warmup every so many calls are computed, warmup + 1 the first of them, calls counted from 0."""
    order: int = 1
    """Of the prediction; 0 repeats what was computed last."""
    warmup: int = 6

    def over(self, model: Any, run: CachedRun) -> CachedDenoiser:
        return TaylorDenoiser(self, model, run)

    def computes_all(self, num_calls: int) -> bool:
        return self.interval == 1 or super().computes_all(num_calls)

    def predicts(self, call: int) -> bool:
        """Whether a call, counted from 0, is predicted."""
        warmup = max(1, self.warmup)
        return call >= warmup and (call - warmup - 1) % self.interval != 0


def differences(now: Array, before: Sequence[Array], distance: int, order: int) -> list[Array]:
    """A value and its backward differences up to an order. before: those of the value `distance` calls earlier."""
    found = [now]
    for each in before[:order]:
        found.append((found[-1] - each) * (1.0 / distance))
    return found


def predicted(factors: Sequence[Array], distance: int) -> Array:
    """The value `distance` calls later, from a value and its differences."""
    value = factors[0]
    for power, factor in enumerate(factors[1:], 1):
        value = value + factor * (distance**power / factorial(power))
    return value


class TaylorDenoiser(CachedDenoiser):
    """Stores how all blocks moved the tokens in the last computed call, and the differences of it."""

    def __init__(self, kind: Taylor, model: Any, run: CachedRun) -> None:
        super().__init__(kind, model, run)
        self.kind = kind
        self._factors: list[Array] = []
        self._computed_at = 0

    def through(self, tokens: Array, modulation: Any, condition: Condition) -> Array:
        distance = self.course.calls - self._computed_at
        if not self.course.must_compute() and self.kind.predicts(self.course.fresh):
            return self.model.move(tokens, predicted(self._factors, distance))
        behind_all = self.compute(0, self.model.num_blocks, tokens, modulation, condition)
        self._factors = differences(self.model.moved(behind_all, tokens), self._factors, distance, self.kind.order)
        self._computed_at = self.course.calls
        return behind_all

    def forget(self) -> None:
        self._factors = []
