"""Which records of a source are trained on, and at which shape: made once, the same in every process."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np

from ..config.data import DataSettings
from ..errors import MediaError
from ..shapes import Compression, VideoShape
from .selection import RecordDraws, Unusable, check_settings, plan_shape
from .sources import RecordSource

RARE = "rare size"


class Dropped(NamedTuple):
    """A record that is left out."""

    number: int
    kind: str
    """One of few words, to be counted."""
    reason: str


class Plan(Protocol):
    """Which records are trained on, and at which shape."""

    @property
    def numbers(self) -> np.ndarray:
        """Of the record of the source at each place of the set."""

    def __len__(self) -> int: ...

    def shape(self, place: int, epoch: int) -> VideoShape:
        """Of the sample at a place."""

    def stand_ins(self, place: int, epoch: int) -> Iterator[np.ndarray]:
        """Places of other samples that can be read at its shape, in groups, those first that are in its bucket."""

    def name(self, place: int, epoch: int) -> str | None:
        """Resolution and frames of its bucket, as "240p 51", where a table of buckets names them."""

    def counts(self) -> dict[str, int]:
        """Records by what becomes of them: "used", and the kinds of reasons."""


@dataclass(frozen=True)
class EpochPlan:
    """A Plan that is the same in all epochs. Place i of the set is in bucket buckets[i]."""

    numbers: np.ndarray
    buckets: np.ndarray
    shapes: tuple[VideoShape, ...]
    """Of each bucket."""
    dropped: tuple[Dropped, ...]

    def __len__(self) -> int:
        return len(self.numbers)

    def shape(self, place: int, epoch: int = 0) -> VideoShape:
        """Of the sample at a place."""
        return self.shapes[self.buckets[place]]

    def stand_ins(self, place: int, epoch: int = 0) -> Iterator[np.ndarray]:
        """Places of the other samples in its bucket."""
        same = np.flatnonzero(self.buckets == self.buckets[place])
        yield same[same != place]

    def name(self, place: int, epoch: int = 0) -> None:
        """Sizes by themselves have no name."""

    def counts(self) -> dict[str, int]:
        """Records by what becomes of them: "used", and the kinds of reasons."""
        return {"used": len(self)} | dict(Counter(drop.kind for drop in self.dropped).most_common())


def make_plan(
    source: RecordSource,
    settings: DataSettings,
    compression: Compression,
    seed: int,
    total_batch: int,
    sp_size: int = 1,
) -> EpochPlan:
    """Plan every record of a source.

    total_batch: samples of an optimiser step over all ranks; sizes too rare for it are dropped.
    Raises: ConfigError and ShapeError when the settings do not fit one another or the autoencoder; MediaError when no
    record is left.
    """
    check_settings(settings, compression)
    planned: list[tuple[int, VideoShape]] = []
    dropped: list[Dropped] = []
    for number in range(len(source)):
        record = source.record(number)
        try:
            planned.append((number, plan_shape(record, settings, compression, sp_size, RecordDraws(seed, number))))
        except Unusable as unusable:
            dropped.append(Dropped(number, unusable.kind, unusable.detail))
    counts = Counter(shape for _, shape in planned)
    common = {shape: None for shape in counts if not is_rare(counts[shape], total_batch, settings.min_bucket_batches)}
    for number, shape in planned:
        if shape not in common:
            dropped.append(Dropped(number, RARE, rare_detail(shape, counts[shape], total_batch, settings)))
    kept = [(number, shape) for number, shape in planned if shape in common]
    if not kept:
        raise MediaError(f"no clip can be trained on: {_summary(dropped)}")
    index = {shape: bucket for bucket, shape in enumerate(common)}
    return EpochPlan(
        np.array([number for number, _ in kept], np.int64),
        np.array([index[shape] for _, shape in kept], np.int64),
        tuple(index),
        tuple(dropped),
    )


def is_rare(count: int, total_batch: float, min_batches: int) -> bool:
    """Whether a size has too few clips."""
    return count < min_batches * total_batch


def rare_detail(shape: VideoShape, count: int, total_batch: int, settings: DataSettings) -> str:
    """Why a size of so many clips is left out."""
    return (
        f"is one of {count} clips of {shape.frames} x {shape.height} x {shape.width}; a size needs "
        f"{settings.min_bucket_batches} batches of {total_batch} (data.min_bucket_batches)"
    )


def _summary(dropped: Sequence[Dropped]) -> str:
    counts = Counter(drop.kind for drop in dropped).most_common()
    if not counts:
        return "the annotation holds no record"
    kinds = ", ".join(f"{count} {kind}" for kind, count in counts)
    return f"{kinds}; the first {dropped[0].reason}"
