"""First-block cache: where the first block does to the tokens what it did before, so will the others.

Source: ParaAttention's first-block cache, as its documentation and diffusers' describe it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from ..models.kinds import DenoiserSpec
from ..seam.models import Array, Condition
from .base import CachedDenoiser, CachedRun, CacheKind


@dataclass(frozen=True, kw_only=True)
class FirstBlock(CacheKind):
    """A call that leaves out blocks costs the first one."""

    name: ClassVar[str] = "first_block"
    threshold: float = 0.5
    """Of the change since the call that was computed last, up to which the others are left out."""
    warmup: int = 4
    most_reused: int | None = 2

    def over(self, model: Any, run: CachedRun) -> CachedDenoiser:
        return FirstBlockDenoiser(self, model, run)

    def lacks(self, spec: DenoiserSpec) -> str | None:
        return None if len(spec.blocks()) > 1 else "has no block behind its first one"

    def computes_all(self, num_calls: int) -> bool:
        return self.threshold == 0 or super().computes_all(num_calls)

    def reuses(self, change: float) -> bool:
        """Whether a call leaves out blocks; never with a threshold of 0."""
        return self.threshold > 0 and change <= self.threshold


class FirstBlockDenoiser(CachedDenoiser):
    """Stores how the first block, and how the others, moved the tokens in the call that was computed last."""

    def __init__(self, kind: FirstBlock, model: Any, run: CachedRun) -> None:
        super().__init__(kind, model, run)
        self.kind = kind
        self._first: Array = None
        self._others: Array = None

    def through(self, tokens: Array, modulation: Any, condition: Condition) -> Array:
        behind_first = self.compute(0, 1, tokens, modulation, condition)
        first = self.model.moved(behind_first, tokens)
        if not self.course.must_compute() and self.kind.reuses(self.change(first, self._first, condition)):
            return self.model.move(behind_first, self._others)
        behind_all = self.compute(1, self.model.num_blocks, behind_first, modulation, condition)
        self._first, self._others = first, self.model.moved(behind_all, behind_first)
        return behind_all

    def forget(self) -> None:
        self._first = self._others = None
