"""Which records of a source are trained on in buckets; chance puts a record into another bucket in each epoch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np

from ..bucketing.table import Bucket, BucketTable
from ..config.data import DataSettings
from ..errors import MediaError, ShapeError
from ..shapes import Compression, VideoShape
from .records import Record
from .selection import Unusable, check_settings, used_size
from .sources import RecordSource

KEPT_EPOCHS = 2
"""A step may reach into the next epoch."""
NO_BUCKET, BY_CHANCE = "in no bucket", "left out by chance"


class BucketPlan:
    """Place i of the set is record numbers[i] of the source. A plan.Plan."""

    def __init__(
        self,
        source: RecordSource,
        settings: DataSettings,
        tables: Sequence[BucketTable],
        compression: Compression,
        seed: int,
    ) -> None:
        """tables: one, or several that epochs follow in turn.

        Raises: ConfigError and ShapeError when the settings do not fit one another or the autoencoder; MediaError when
        no record is left.
        """
        check_settings(settings, compression)
        for table in tables:
            check_buckets(table, compression)
        self.tables, self.interval, self.seed = tuple(tables), settings.frame_interval, seed
        numbers, facts, self._left_out = _usable(source, settings)
        frames, heights, widths = facts.T
        found = [table.possible(frames, heights, widths, self.interval) for table in tables]
        fits = np.array([any(buckets) for buckets in zip(*found, strict=True)], bool)
        self.numbers = numbers[fits]
        self._frames, self._heights, self._widths = frames[fits], heights[fits], widths[fits]
        self._left_out[NO_BUCKET] += int((~fits).sum())
        self._assigned: dict[int, np.ndarray] = {}
        if not len(self.numbers):
            counts = ", ".join(f"{count} {kind}" for kind, count in self._left_out.most_common() if count)
            raise MediaError(f"no clip can be trained on: {counts or 'the annotation holds no record'}")

    def __len__(self) -> int:
        return len(self.numbers)

    def table(self, epoch: int) -> BucketTable:
        """The one that an epoch follows."""
        return self.tables[epoch % len(self.tables)]

    def assigned(self, epoch: int) -> np.ndarray:
        """The number of each place's bucket in its table, -1: left out of this epoch."""
        if epoch not in self._assigned:
            while len(self._assigned) >= KEPT_EPOCHS:
                self._assigned.pop(next(iter(self._assigned)))
            table = self.table(epoch)
            seeds = table.seeds_of(self.numbers, self.seed, epoch)
            self._assigned[epoch] = table.assign_all(
                self._frames, self._heights, self._widths, seeds, self.interval
            ).astype(np.int16)
        return self._assigned[epoch]

    def bucket(self, place: int, epoch: int) -> Bucket:
        """That the sample at a place is in."""
        return self.table(epoch).buckets[self.assigned(epoch)[place]]

    def shape(self, place: int, epoch: int) -> VideoShape:
        """Of the sample at a place."""
        return self.table(epoch).video(self.bucket(place, epoch))

    def name(self, place: int, epoch: int) -> str:
        """What batches call its bucket, as "240p 51"."""
        bucket = self.bucket(place, epoch)
        return f"{bucket.resolution} {bucket.frames}"

    def stand_ins(self, place: int, epoch: int) -> Iterator[np.ndarray]:
        """Places of the other samples in its bucket; then, as it may be a small one, of all that fit there."""
        assigned, bucket = self.assigned(epoch), self.bucket(place, epoch)
        is_same = assigned == assigned[place]
        others = np.arange(len(self)) != place
        yield np.flatnonzero(is_same & others)
        single = BucketTable({bucket.resolution: {bucket.frames: (1.0, 1)}}, self.table(epoch).sizes)
        fitting = single.possible(self._frames, self._heights, self._widths, self.interval)
        yield np.flatnonzero(np.array([found is not None for found in fitting]) & ~is_same)

    def counts(self) -> dict[str, int]:
        """Records by what becomes of them in the first epoch: "used", and the kinds of reasons."""
        by_chance = int((self.assigned(0) < 0).sum())
        left_out = Counter({BY_CHANCE: by_chance}) + self._left_out
        return {"used": len(self) - by_chance} | dict(left_out.most_common())


def check_buckets(table: BucketTable, compression: Compression) -> None:
    """Raises: ShapeError when the autoencoder cannot encode the clips of a bucket."""
    for bucket in table.buckets:
        try:
            compression.check(table.video(bucket))
        except ShapeError as error:
            raise ShapeError(f"data.buckets.{bucket.resolution}.{bucket.frames}: {error}") from error


def _usable(source: RecordSource, settings: DataSettings) -> tuple[np.ndarray, np.ndarray, Counter[str]]:
    """Numbers (N,) of the records that can be read, their facts (N, 3), and why others cannot."""
    numbers: list[int] = []
    facts: list[tuple[int, int, int]] = []
    left_out: Counter[str] = Counter()
    for number in range(len(source)):
        try:
            facts.append(bucket_facts(source.record(number), settings))
            numbers.append(number)
        except Unusable as unusable:
            left_out[unusable.kind] += 1
    return np.array(numbers, np.int64), np.array(facts, np.int64).reshape(-1, 3), left_out


def bucket_facts(record: Record, settings: DataSettings) -> tuple[int, int, int]:
    """Frames, height and width: what a record's bucket depends on. Raises: Unusable."""
    if not record.captions:
        raise Unusable("no caption", "has no caption")
    height, width = used_size(record, settings)
    if not record.is_video:
        return 1, height, width
    if record.num_frames is None:
        raise Unusable("no length", "has no num_frames; add it to the annotation or set data.probe")
    return record.num_frames, height, width
