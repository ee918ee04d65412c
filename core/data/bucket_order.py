"""Which batches of buckets are read at a step: a function of the seed, the records and the step alone.

An epoch is as long as chance makes it. Epoch follows epoch without end, and a step may reach into the next one: so
nothing is left out at its end, and ranks and accumulation change nothing.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from itertools import accumulate
from typing import NamedTuple

import numpy as np

from ..bucketing.order import Batch, batch_order
from ..bucketing.table import BucketTable
from ..errors import MediaError
from .bucket_plan import BucketPlan
from .order import EpochDraws, MicroBatch

MOST_EMPTY = 1000
"""Epochs without a batch, after which no more is hoped for."""


class Bucketing(NamedTuple):
    """How a set is read in buckets."""

    tables: tuple[BucketTable, ...]
    """One to train with; or, to measure, one of each bucket, so that every clip that fits may be in each."""
    batches_each: int | None = None
    """So many at most of each table, one table behind the other; None: epoch follows epoch without end."""

    @classmethod
    def to_measure(cls, table: BucketTable, batches_each: int) -> Bucketing:
        """Each bucket of a table by itself, whatever chance it gives them."""
        rows = [(name, length, entry) for name, row in table.entries.items() for length, entry in row.items()]
        singles = ({name: {length: (1.0, entry.batch_size)}} for name, length, entry in rows if entry.batch_size)
        return cls(tuple(BucketTable(single, table.sizes) for single in singles), batches_each)

    def order(self, plan: BucketPlan, seed: int, accumulation: int, drop_last: bool) -> BucketOrder | MeasuringOrder:
        """Of the plan's batches. Raises: MediaError when no bucket has clips for a batch."""
        if self.batches_each is not None:
            return MeasuringOrder(plan, seed, self.batches_each)
        return BucketOrder(plan, seed, accumulation, drop_last)


class BucketOrder:
    """The batches of a run, one sequence that is cut into steps. An order of core.data.loader."""

    batch = 1
    """Clips that a micro-batch has at least."""

    def __init__(self, plan: BucketPlan, seed: int, accumulation: int, drop_last: bool = True) -> None:
        """Raises: MediaError when no bucket has clips for a batch."""
        self.plan, self.seed, self.accumulation, self.drop_last = plan, seed, accumulation, drop_last
        self._ends: list[tuple[int, int]] = []
        """Batches and samples until the end of each epoch."""
        self._epoch: tuple[int, list[Batch], list[int]] = (-1, [], [])
        self._reach(0)

    @property
    def steps_per_epoch(self) -> int:
        """Of the first epoch; chance makes others longer or shorter."""
        return -(-self._ends[0][0] // self.accumulation) or 1

    def micro_batch(self, step: int, part: int) -> MicroBatch:
        """A micro-batch of a step; part: from 0 to accumulation - 1."""
        number = step * self.accumulation + part
        epoch = self._reach(number)
        first_batch, first_sample = self._ends[epoch - 1] if epoch else (0, 0)
        if self._epoch[0] != epoch:
            self._epoch = (epoch, *self._ordered(epoch))
        _, batches, starts = self._epoch
        return _micro_batch(epoch, batches[number - first_batch], first_sample + starts[number - first_batch])

    def _reach(self, number: int) -> int:
        """The epoch that a batch of the run is in."""
        while not self._ends or self._ends[-1][0] <= number:
            batches, samples = self._ends[-1] if self._ends else (0, 0)
            more_batches, more_samples = self._size(len(self._ends))
            self._ends.append((batches + more_batches, samples + more_samples))
            if len(self._ends) > MOST_EMPTY and self._ends[-1] == self._ends[-MOST_EMPTY]:
                raise MediaError(self._too_few())
        return bisect_right(self._ends, number, key=lambda end: end[0])

    def _size(self, epoch: int) -> tuple[int, int]:
        """Batches and samples of an epoch."""
        assigned, sizes = self.plan.assigned(epoch), _batch_sizes(self.plan.table(epoch))
        counts = np.bincount(assigned[assigned >= 0], minlength=len(sizes))
        batches = counts // sizes if self.drop_last else -(-counts // sizes)
        return int(batches.sum()), int((batches * sizes).sum())

    def _ordered(self, epoch: int) -> tuple[list[Batch], list[int]]:
        """The batches of an epoch, and how many samples come before each."""
        sizes = _batch_sizes(self.plan.table(epoch)).tolist()
        batches = _shuffled(self.plan, epoch, self.seed, sizes.__getitem__, self.drop_last)
        return batches, [0, *accumulate(len(batch.samples) for batch in batches)]

    def _too_few(self) -> str:
        return (
            f"no bucket has enough of the {len(self.plan)} clips for a whole batch: lower batch sizes in data.buckets, "
            "or set data.drop_last=false"
        )


class MeasuringOrder:
    """The first batches of each bucket, one bucket behind the other; clips too few for a batch make a smaller one."""

    batch = accumulation = 1

    def __init__(self, plan: BucketPlan, seed: int, batches_each: int) -> None:
        self.plan = plan
        self._batches: list[tuple[int, Batch]] = []
        for epoch, table in enumerate(plan.tables):
            counts = np.bincount(plan.assigned(epoch) + 1, minlength=len(table.buckets) + 1)[1:]
            sizes = np.minimum(_batch_sizes(table), counts).tolist()
            batches = _shuffled(plan, epoch, seed, sizes.__getitem__)
            self._batches += [(epoch, batch) for batch in batches[:batches_each]]
        self._starts = [0, *accumulate(len(batch.samples) for _, batch in self._batches)]

    @property
    def steps_per_epoch(self) -> int:
        """Batches in all."""
        return len(self._batches)

    def micro_batch(self, step: int, part: int = 0) -> MicroBatch:
        """The batch of a step."""
        epoch, batch = self._batches[step]
        return _micro_batch(epoch, batch, self._starts[step])


def _shuffled(
    plan: BucketPlan, epoch: int, seed: int, batch_size: Callable[[int], int], drop_last: bool = True
) -> list[Batch]:
    """An epoch's batches of places."""
    numbers = (None if number < 0 else number for number in plan.assigned(epoch).tolist())
    steps = batch_order(numbers, batch_size, 1, EpochDraws(seed, epoch).permutation, drop_last)
    return [batch for step in steps for batch in step]


def _batch_sizes(table: BucketTable) -> np.ndarray:
    """Of each bucket; of those in which nothing stays any."""
    return np.array([table.entries[bucket.resolution][bucket.frames].batch_size or 1 for bucket in table.buckets])


def _micro_batch(epoch: int, batch: Batch, first_sample: int) -> MicroBatch:
    count = len(batch.samples)
    return MicroBatch([epoch] * count, batch.samples, range(first_sample, first_sample + count))
