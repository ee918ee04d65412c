"""What a first epoch in buckets would be like, found without opening a file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ..bucketing.table import FILLED, Bucket, BucketTable
from ..config.data import DataSettings
from ..errors import MediaError
from ..shapes import Compression
from .bucket_order import BucketOrder
from .bucket_plan import NO_BUCKET, BucketPlan, bucket_facts
from .records import Record
from .selection import Unusable
from .sources import FileSource


class BucketCount(NamedTuple):
    """A resolution and a length in the first epoch."""

    resolution: str
    frames: int
    clips: int
    """Of all proportions."""
    batches: int
    batch_size: int | None


class BucketEpoch(NamedTuple):
    """The first epoch; in others chance decides anew."""

    buckets: tuple[BucketCount, ...]
    """In the order in which they are tried."""
    steps: int
    by_chance: int
    """Clips that no bucket keeps."""
    in_no_batch: int
    """Clips that fill no whole batch of their size, or, where these are filled up, that come twice, below 0."""

    def as_json(self) -> dict[str, Any]:
        """Plain values, for a file."""
        return self._asdict() | {"buckets": [bucket._asdict() for bucket in self.buckets]}


def first_epoch(
    records: Sequence[Record],
    settings: DataSettings,
    table: BucketTable,
    compression: Compression,
    seed: int,
    accumulate: int,
) -> BucketEpoch | None:
    """The first epoch of all records; None where they fill no batch. Raises: ConfigError and ShapeError."""
    try:
        plan = BucketPlan(FileSource(records, settings.reader), settings, [table], compression, seed)
        order = BucketOrder(plan, seed, accumulate, settings.drop_last)
    except MediaError:
        return None
    assigned = plan.assigned(0)
    names = [table.buckets[number][:2] for number in assigned[assigned >= 0].tolist()]
    clips = Counter(names)
    batches: Counter[tuple[str, int]] = Counter()
    for number, count in zip(*np.unique(assigned[assigned >= 0], return_counts=True), strict=True):
        size = table.batch_size(table.buckets[number])
        batches[table.buckets[number][:2]] += int(count // size if settings.drop_last else -(-count // size))
    counts = tuple(
        BucketCount(name, frames, clips[name, frames], batches[name, frames], entry.batch_size)
        for name, row in table.entries.items()
        for frames, entry in row.items()
    )
    read = sum(count.batches * (count.batch_size or 0) for count in counts)
    return BucketEpoch(counts, order.steps_per_epoch, len(plan) - len(names), len(names) - read)


def first_buckets(records: Sequence[Record], settings: DataSettings, table: BucketTable) -> list[Bucket | Unusable]:
    """The bucket that each record is in, if chance is kind, or why it is in none."""
    facts: list[tuple[int, int, int] | Unusable] = []
    for record in records:
        try:
            facts.append(bucket_facts(record, settings))
        except Unusable as unusable:
            facts.append(unusable)
    numbers = np.array([fact for fact in facts if isinstance(fact, tuple)], np.int64).reshape(-1, 3)
    frames, heights, widths = numbers.T
    found = iter(table.possible(frames, heights, widths, settings.frame_interval))
    return [fact if isinstance(fact, Unusable) else next(found) or _in_none(*fact) for fact in facts]


def _in_none(frames: int, height: int, width: int) -> Unusable:
    length = f"{frames} frames of " if frames > 1 else ""
    needs = f"{FILLED:.0%} of the pixels of a resolution, and a clip more frames than the bucket has"
    return Unusable(NO_BUCKET, f"fits no bucket: {length}{height} x {width} pixels; it needs {needs}")
