"""What every cache is: its options, and a denoiser that leaves out blocks for one sampling run.

Such a denoiser works on the three parts of a call (BlockByBlock of the backends) and does no more with tensors than
multiply and add. What it stores belongs to the run. The first call is computed, and so is one for another condition or
another size. Both halves of guidance are decided together, in one batch or on two ranks; ranks that share tokens decide
alike, as all of them add up the same numbers in the same order.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from math import inf
from typing import Any, ClassVar

import numpy as np

from ..models.kinds import DenoiserSpec
from ..seam.backend import Backend
from ..seam.group import Group
from ..seam.models import Array, Condition, Given
from ..shapes import LatentShape
from .report import CacheReport


@dataclass(frozen=True, kw_only=True)
class CacheKind(ABC):
    """A cache with its options, of which those without a default of the kind's own are here."""

    name: ClassVar[str]
    warmup: int
    """Network calls at the start that are computed; at least one."""
    keep_last: int = 0
    """Calls at the end that are computed."""
    most_reused: int | None = None
    """Calls in a row that may leave out blocks; None: any number."""

    @abstractmethod
    def over(self, model: Any, run: CachedRun) -> CachedDenoiser:
        """A denoiser for one run, of a BlockByBlock."""

    def lacks(self, spec: DenoiserSpec) -> str | None:
        """What it needs of a denoiser and does not find, as the end of a sentence; None: nothing."""
        return None

    def computes_all(self, num_calls: int) -> bool:
        """Whether of so many calls none can leave out blocks."""
        return num_calls <= max(1, self.warmup) + self.keep_last


@dataclass(frozen=True)
class CachedRun:
    """What a cache has to know of the run that it is for."""

    backend: Backend
    num_calls: int
    """Of the network."""
    halves: Group
    """The ranks that hold the halves of guidance."""


class Course:
    """How far a run has come, in plain numbers, and which calls are computed whatever the signals say."""

    def __init__(self, kind: CacheKind, num_calls: int) -> None:
        self.kind, self.num_calls = kind, num_calls
        self.calls = 0
        """That are over."""
        self.fresh = 0
        """Since the run began, or what was stored was thrown away."""
        self._in_a_row = 0

    def must_compute(self) -> bool:
        """Whether the call that comes next is computed in any case."""
        is_end = self.calls >= self.num_calls - self.kind.keep_last
        return self.fresh < max(1, self.kind.warmup) or is_end or self._in_a_row == self.kind.most_reused

    def go_on(self, reused: bool) -> None:
        """Count a call."""
        self.calls, self.fresh = self.calls + 1, self.fresh + 1
        self._in_a_row = self._in_a_row + 1 if reused else 0

    def begin_anew(self) -> None:
        """The calls that come are as the first ones."""
        self.fresh = self._in_a_row = 0


class CachedDenoiser(ABC):
    """A denoiser for one run; it is called like the model itself."""

    def __init__(self, kind: CacheKind, model: Any, run: CachedRun) -> None:
        self.model, self._run, self.report = model, run, CacheReport()
        self.course = Course(kind, run.num_calls)
        self._made_for: tuple[Condition, tuple[int, ...]] | None = None

    def condition(self, given: Given, latent: LatentShape) -> Condition:
        """The model's."""
        return self.model.condition(given, latent)

    def with_frames(self, condition: Condition, frame_mask: np.ndarray | None) -> Condition:
        """The model's."""
        return self.model.with_frames(condition, frame_mask)

    def __call__(self, latents: Array, timestep: Array, condition: Condition) -> Array:
        """As the model's, from fewer blocks."""
        tokens, modulation = self.model.begin(latents, timestep, condition)
        before, made_for = self.report.blocks, self._made_for
        if made_for is None or made_for[0] is not condition or made_for[1] != tuple(tokens.shape):
            self.course.begin_anew()
            self.forget()
            self._made_for = condition, tuple(tokens.shape)
        tokens = self.through(tokens, modulation, condition)
        is_whole = self.report.blocks - before == self.model.num_blocks
        self.report.count(is_whole, self.model.num_blocks)
        self.course.go_on(reused=not is_whole)
        return self.model.finish(tokens, modulation, condition)

    @abstractmethod
    def through(self, tokens: Array, modulation: Any, condition: Condition) -> Array:
        """The tokens behind the last block, or what stands for them."""

    @abstractmethod
    def forget(self) -> None:
        """Throw away what is stored."""

    def compute(self, first: int, end: int, tokens: Array, modulation: Any, condition: Condition) -> Array:
        """The tokens behind the blocks of numbers from `first` to before `end`."""
        self.report.blocks += end - first
        return self.model.run_blocks(first, end, tokens, modulation, condition)

    def change(self, now: Array, before: Array, condition: Condition) -> float:
        """The relative change of a signal, of all ranks; the host waits for it."""
        rows = self._run.halves.gather(self.model.change(now, before, condition), 0)
        difference, size = self._run.backend.to_numpy(rows).astype(np.float64).sum(0).tolist()
        self.report.changes.append(relative(difference, size))
        return self.report.changes[-1]


def relative(difference: float, size: float) -> float:
    """A change from two sums of sizes: of the differences, and of what was before."""
    return difference / size if size > 0 else (inf if difference > 0 else 0.0)
