"""The order of batches whose sizes differ from bucket to bucket, as Open-Sora 1.1 and 1.2 train.

Each bucket is cut into whole batches and shuffled, then the batches are; a step gives the next one to each rank, so the
ranks of a step may work on different buckets.
Source: VariableVideoBatchSampler of opensora/datasets/sampler.py of hpcaitech Open-Sora at v1.2.0.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from itertools import cycle, islice
from typing import NamedTuple, TypeVar

Key = TypeVar("Key", bound=Hashable)


class Batch(NamedTuple):
    """Samples that are read together."""

    bucket: Hashable
    samples: list[int]


def batch_order(
    buckets: Iterable[Key | None],
    batch_size: Callable[[Key], int],
    ranks: int = 1,
    permutation: Callable[[int], Sequence[int]] | None = None,
    drop_last: bool = True,
    is_upstream: bool = False,
) -> list[list[Batch]]:
    """One epoch: for each step the batch of each rank. buckets: of each sample, None: left out.

    permutation: of so many numbers, called once for each bucket in the order they first come, then for the batches;
    None: nothing is shuffled. drop_last: leave out what gives no whole batch or step; else samples, and batches, come
    twice to fill it. is_upstream: a bucket of less than half a batch gives none, and a batch that fills the last step
    goes on in its bucket, past whose end it is empty. It is cut before it is shuffled, so the same samples are left out
    of every epoch.
    """
    groups = _grouped(buckets)
    if is_upstream:
        groups = _whole_batches(groups, batch_size, drop_last, is_upstream)
    if permutation is not None:
        groups = {bucket: [group[place] for place in permutation(len(group))] for bucket, group in groups.items()}
    if not is_upstream:
        groups = _whole_batches(groups, batch_size, drop_last, is_upstream)
    access = [bucket for bucket, group in groups.items() for _ in range(len(group) // batch_size(bucket))]
    if permutation is not None:
        access = [access[place] for place in permutation(len(access))]
    access, num_repeated = _whole_steps(access, ranks, drop_last)
    starts = dict.fromkeys(groups, 0)
    batches = []
    for number, bucket in enumerate(access):
        if number == len(access) - num_repeated and not is_upstream:
            starts = dict.fromkeys(groups, 0)
        start, stop = starts[bucket], starts[bucket] + batch_size(bucket)
        starts[bucket] = stop
        batches.append(Batch(bucket, groups[bucket][start:stop]))
    return [batches[start : start + ranks] for start in range(0, len(batches), ranks)]


def _grouped(buckets: Iterable[Key | None]) -> dict[Key, list[int]]:
    groups: dict[Key, list[int]] = {}
    for number, bucket in enumerate(buckets):
        if bucket is not None:
            groups.setdefault(bucket, []).append(number)
    return groups


def _whole_batches(
    groups: Mapping[Key, list[int]], batch_size: Callable[[Key], int], drop_last: bool, is_upstream: bool
) -> dict[Key, list[int]]:
    whole = {}
    for bucket, group in groups.items():
        rest = len(group) % batch_size(bucket)
        missing = batch_size(bucket) - rest if rest else 0
        if rest and drop_last:
            whole[bucket] = group[:-rest]
        else:
            whole[bucket] = group + (group[:missing] if is_upstream else list(islice(cycle(group), missing)))
    return whole


def _whole_steps(access: list[Key], ranks: int, drop_last: bool) -> tuple[list[Key], int]:
    """The batches of whole steps, and how many of them come twice."""
    rest = len(access) % ranks
    if not rest:
        return access, 0
    if drop_last:
        return access[:-rest], 0
    return access + access[: ranks - rest], ranks - rest
