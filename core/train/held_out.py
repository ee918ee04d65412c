"""The clips that a run is measured on: the same few at each validation, dealt to the data ranks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

import numpy as np

from ..data.batch import ClipBatch
from ..parallel.micro_batches import joined
from ..seam.ranks import Ranks


class Reader(Protocol):
    """Where clips come from, a micro-batch a step."""

    def of_steps(self, steps: Iterable[int]) -> Iterator[list[ClipBatch]]:
        """The micro-batches of each of some steps."""


class HeldOut:
    """The first micro-batches of a reader of their own, of which m belongs to data rank m % d.

    Every rank has as many, so that all make the same calls: those for which none is left repeat the last one, which
    counts once.
    """

    def __init__(self, reader: Reader | None, count: int, ranks: Ranks | None = None) -> None:
        """reader: nothing for a rank that does not read."""
        self.reader, self.count, self.ranks = reader, count, ranks or Ranks()

    def clips(self) -> Iterator[ClipBatch]:
        """This rank's micro-batches."""
        assert self.reader is not None, "this rank does not read"
        data = self.ranks.plan.data
        rounds = -(-self.count // data)
        numbers = range(self.ranks.plan.place(self.ranks.rank).data, rounds * data, data)
        steps = self.reader.of_steps(min(number, self.count - 1) for number in numbers)
        return (clips for step in steps for clips in step)

    def of_all(self, own: Sequence[float | Sequence[float]]) -> np.ndarray:
        """What was found for each micro-batch of all ranks, a row each, in the order of one process.

        own: for each of this rank's. All ranks call together, and get the same.
        """
        return joined(self.ranks, np.array(own))[: self.count]
