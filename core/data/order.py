"""The order of samples: a pure function of the seed and the step; no state goes from step to step.

A mega-batch is a step, or a part of it, whose samples are all of one bucket. Buckets are shuffled, cut into
mega-batches, the last one filled up with repeats; then the mega-batches are shuffled. Epoch follows epoch without end,
and a step that accumulates may reach into the next one.
Source: Open-Sora Plan v1.3, get_length_grouped_indices of opensora/utils/dataset_utils.py.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from .. import random


class MicroBatch(NamedTuple):
    """What is read at once."""

    epochs: list[int]
    """Of its samples."""
    places: list[int]
    """Of the samples in the set."""
    samples: range
    """Their numbers in the whole run, rising over steps and their micro-batches."""


class OrderDraws(Protocol):
    """What is random about an order."""

    def permutation(self, count: int) -> Sequence[int]: ...

    def below(self, count: int) -> int:
        """A whole number from 0 to count - 1."""


class EpochDraws:
    """The draws of one epoch."""

    def __init__(self, seed: int, epoch: int) -> None:
        self._generator = random.stream(seed, "order", epoch)

    def permutation(self, count: int) -> Sequence[int]:
        return self._generator.permutation(count).tolist()

    def below(self, count: int) -> int:
        return int(self._generator.integers(count))


def grouped_order(buckets: Sequence[Hashable], size: int, draws: OrderDraws) -> np.ndarray:
    """One epoch of samples, each with its bucket, as (mega-batches, size) numbers; every sample is in it."""
    mega_batches = []
    for numbers in _by_bucket(buckets):
        shuffled = [numbers[place] for place in draws.permutation(len(numbers))]
        missing = -len(shuffled) % size
        shuffled += [numbers[draws.below(len(numbers))] for _ in range(missing)]
        mega_batches.append(np.array(shuffled, np.int64).reshape(-1, size))
    joined = np.concatenate(mega_batches)
    return joined[np.asarray(draws.permutation(len(joined)), np.int64)]


def plain_order(count: int, size: int, draws: OrderDraws) -> np.ndarray:
    """One epoch of samples of any bucket, as (mega-batches, size) numbers; every sample is in it."""
    return grouped_order(np.zeros(count, np.int64).tolist(), size, draws)


def upstream_order(
    buckets: Sequence[Hashable], world: int, batch: int, draws: OrderDraws, is_grouped: bool = True
) -> np.ndarray:
    """The published order, (mega-batches, world, batch) numbers.

    The rest of one bucket shares a mega-batch with the next one. In a batch of mixed sizes the majority stays and takes
    the places of the others by repeats, so a few samples of an epoch are never seen.
    """
    if is_grouped:
        numbers = [group[place] for group in _by_bucket(buckets) for place in draws.permutation(len(group))]
    else:
        numbers = [int(number) for number in draws.permutation(len(buckets))]
    size = world * batch
    dealt = [_deal(numbers[start : start + size], world, batch, draws) for start in range(0, len(numbers), size)]
    shuffled = [dealt[place] for place in draws.permutation(len(dealt))]
    if is_grouped:
        shuffled = [[_of_one_size(part, buckets, draws) for part in mega_batch] for mega_batch in shuffled]
    return np.array(shuffled, np.int64)


def _by_bucket(buckets: Sequence[Hashable]) -> list[list[int]]:
    """Sample numbers of each bucket, the largest bucket first, equal ones in the order they first come."""
    groups: dict[Hashable, list[int]] = {}
    for number, bucket in enumerate(buckets):
        groups.setdefault(bucket, []).append(number)
    return sorted(groups.values(), key=len, reverse=True)


def _deal(numbers: list[int], world: int, batch: int, draws: OrderDraws) -> list[list[int]]:
    """Deal the numbers of a mega-batch to the ranks in turn; ranks that got too few repeat their own or another's."""
    parts: list[list[int]] = []
    for rank in range(world):
        part = numbers[rank::world]
        if part:
            part = part + [part[draws.below(len(part))] for _ in range(batch - len(part))]
        else:
            part = parts[draws.below(len(parts))]
        parts.append(part)
    return parts


def _of_one_size(part: list[int], buckets: Sequence[Hashable], draws: OrderDraws) -> list[int]:
    """A rank's batch with the samples of its most frequent size, of equal ones the last; repeats fill the rest."""
    counts: dict[Hashable, int] = {}
    for number in part:
        counts[buckets[number]] = counts.get(buckets[number], 0) + 1
    if len(counts) == 1:
        return part
    most = max(reversed(list(counts)), key=lambda bucket: counts[bucket])
    kept = [number for number in dict.fromkeys(part) if buckets[number] == most]
    return kept + [kept[draws.below(len(kept))] for _ in range(len(part) - len(kept))]


class Order:
    """Which samples are read at a step. Two equal orders agree at every step, whichever steps were asked for.

    It is one sequence of samples, cut into steps and these into micro-batches. So how a step is cut changes nothing
    else, as long as the mega-batches hold the same number of samples.
    """

    def __init__(
        self,
        buckets: Sequence[int],
        seed: int,
        mega_batch: int,
        batch: int,
        accumulation: int,
        is_grouped: bool = True,
        is_upstream: bool = False,
    ) -> None:
        """buckets: of each sample. mega_batch: its samples, a multiple of `batch` where there is more than one bucket.
        batch: samples of a micro-batch. accumulation: micro-batches of a step."""
        self.buckets, self.seed, self.mega_batch = buckets, seed, mega_batch
        self.batch, self.accumulation = batch, accumulation
        self.is_grouped, self.is_upstream = is_grouped, is_upstream
        self._epoch: tuple[int, np.ndarray] = (0, self._make(0))
        self.per_epoch = len(self._epoch[1])
        """Samples of an epoch, repeats included; the same in every epoch."""

    @property
    def steps_per_epoch(self) -> int:
        """Optimiser steps after which every sample was seen; the last one may reach into the next epoch."""
        return -(-self.per_epoch // (self.batch * self.accumulation))

    def micro_batch(self, step: int, part: int) -> MicroBatch:
        """A micro-batch of a step; part: from 0 to accumulation - 1."""
        first = (step * self.accumulation + part) * self.batch
        samples = range(first, first + self.batch)
        return MicroBatch(
            [number // self.per_epoch for number in samples], [self._place(number) for number in samples], samples
        )

    def _place(self, number: int) -> int:
        """Of a sample of the run in the set."""
        epoch, place = divmod(number, self.per_epoch)
        if self._epoch[0] != epoch:
            self._epoch = (epoch, self._make(epoch))
        return int(self._epoch[1][place])

    def _make(self, epoch: int) -> np.ndarray:
        """An epoch's samples one behind the other."""
        draws = EpochDraws(self.seed, epoch)
        if self.is_upstream:
            world = max(self.mega_batch // self.batch, 1)
            return upstream_order(self.buckets, world, self.batch, draws, self.is_grouped).reshape(-1)
        if self.is_grouped:
            return grouped_order(self.buckets, self.mega_batch, draws).reshape(-1)
        return plain_order(len(self.buckets), self.mega_batch, draws).reshape(-1)
