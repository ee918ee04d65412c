"""Samples on their way from a source to a batch, and what stands in for those that fail.

A sample whose record fails gets another record of the same bucket, in an order that follows from the seed and the
sample's number. Failures are remembered, to save the time of failing again: a file that cannot be opened for good,
frames that cannot be decoded for these frames. Only what would fail again is skipped, so what a run has read before
does not change what it reads next.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import count, islice
from typing import Any, NamedTuple

import numpy as np

from .. import random
from ..config.data import DataSettings
from ..errors import MediaError
from ..shapes import Compression, VideoShape
from .batch import ReadFailure
from .latent_cache import CachedClip
from .plan import Plan
from .pool import JobRunner
from .reading import Rated, ReadJob
from .records import Record
from .selection import RecordDraws, Unusable, choose_moments, choose_window
from .sources import RecordSource
from .worker import Failed

SHOWN_FAILURES = 20
FLIPPED = 0.5
"""Of the samples, where some are turned left to right."""
MomentsOf = Callable[[CachedClip], np.ndarray]
"""Ready-made moments (2C, t, h, w) of a clip. Raises: MediaError for a clip without."""


class ReadingCounts(NamedTuple):
    """What has been read so far."""

    read: int
    """Samples that were read as planned."""
    replaced: int
    """Samples that another record stood in for."""
    failed: dict[str, str]
    """Records that could not be used, by their path, and why, in one line."""

    def lines(self) -> list[str]:
        """For people: nothing where nothing failed."""
        if not self.failed:
            return []
        shown = [f"  {path}: {reason}" for path, reason in islice(self.failed.items(), SHOWN_FAILURES)]
        rest = len(self.failed) - len(shown)
        total = self.read + self.replaced
        first = f"{len(self.failed)} clips could not be read, for {self.replaced} of {total} samples others stood in:"
        return [first, *shown, *([f"  and {rest} more; log.jsonl names all of them"] if rest else [])]


def joined(reports: Iterable[ReadingCounts]) -> ReadingCounts:
    """What several readers have read."""
    parts = list(reports)
    failed = {path: reason for part in parts for path, reason in part.failed.items()}
    return ReadingCounts(sum(part.read for part in parts), sum(part.replaced for part in parts), failed)


@dataclass
class Sample:
    """A sample on its way."""

    place: int
    """Of the record in the plan that is read for it now."""
    number: int
    """Of the sample in the whole run."""
    epoch: int
    shape: VideoShape
    """That it is read at, whichever record stands in."""
    is_mirrored: bool = False
    key: Hashable | None = None
    """Of the job that reads it."""
    array: np.ndarray | None = None
    """Its pixels as a Transform gives them, or its moments."""
    fps: float | None = None
    """Of its file, where the record does not say."""
    failed: list[tuple[str, str]] = field(default_factory=list)
    """Paths and reasons of the records tried before."""
    stand_ins: Iterator[int] | None = None
    """Places of the plan to try next."""


class Fetcher:
    """Reads samples of a plan through a runner."""

    def __init__(
        self,
        source: RecordSource,
        plan: Plan,
        settings: DataSettings,
        seed: int,
        compression: Compression,
        sp_size: int,
        runner: JobRunner,
        moments_of: MomentsOf | None = None,
    ) -> None:
        self.source, self.plan, self.settings, self.seed = source, plan, settings, seed
        self.compression, self.sp_size = compression, sp_size
        self._runner, self._moments_of = runner, moments_of
        self._keys = count()
        self._known: dict[Hashable, str] = {}
        self._counts: Counter[str] = Counter()
        self._reasons: dict[str, str] = {}

    def record(self, place: int) -> Record:
        """The record at a place of the plan."""
        return self.source.record(int(self.plan.numbers[place]))

    def begin(self, place: int, number: int, epoch: int) -> Sample:
        """Have the record at a place read for the sample of that number."""
        sample = Sample(place, number, epoch, self.plan.shape(place, epoch), self._is_mirrored(number))
        self._start(sample)
        return sample

    def advance(self, sample: Sample, waits: bool = False) -> None:
        """Take in what was read for a sample, and read another record when it failed; with waits, until one is there.

        Raises: MediaError when all records of the bucket fail.
        """
        while sample.array is None and sample.key is not None and (waits or self._runner.is_done(sample.key)):
            result, sample.key = self._runner.result(sample.key), None
            if isinstance(result, Failed):
                self._remember(sample, result)
                self._take_another(sample)
            else:
                sample.array, sample.fps = result if isinstance(result, Rated) else (result, None)

    def finish(self, sample: Sample) -> list[ReadFailure]:
        """Wait for a sample's array; returns what had to be replaced on the way. Raises: as advance."""
        self.advance(sample, waits=True)
        self._counts["replaced" if sample.failed else "read"] += 1
        used = str(self.record(sample.place).path)
        return [ReadFailure(path, reason, used) for path, reason in sample.failed]

    def reject(self, sample: Sample, reason: str) -> None:
        """Read another record for a sample that was read but cannot be used. Raises: as advance."""
        sample.array = None
        self._note(sample, reason)
        self._take_another(sample)

    def drop(self, sample: Sample) -> None:
        """A sample that nobody waits for any more."""
        if sample.key is not None:
            self._runner.forget(sample.key)

    @property
    def views(self) -> int:
        """How many ways there are to see each clip: 2 where half of them are turned left to right."""
        return 1 + self.settings.flip

    def read_alone(self, views: Iterable[int], ahead: int) -> Iterator[np.ndarray | Failed]:
        """What a Transform makes of views of clips, in the first epoch, without replacing any; so many ahead."""
        waiting: deque[Hashable | Failed] = deque()
        try:
            for view in views:
                place, is_mirrored = divmod(view, self.views)
                try:
                    job = self.job(place, 0, self.plan.shape(place, 0), bool(is_mirrored))
                except MediaError as error:
                    waiting.append(Failed(str(error)))
                else:
                    waiting.append(next(self._keys))
                    self._runner.submit(waiting[-1], job)
                if len(waiting) > ahead:
                    yield self._taken(waiting.popleft())
            while waiting:
                yield self._taken(waiting.popleft())
        finally:
            for key in waiting:
                self._runner.forget(key)

    def report(self) -> ReadingCounts:
        """What has been read so far."""
        return ReadingCounts(self._counts["read"], self._counts["replaced"], dict(self._reasons))

    def cached_view(self, view: int) -> CachedClip:
        """A view of a clip as a cache of latents knows it."""
        place, is_mirrored = divmod(view, self.views)
        return self.cached_clip(place, bool(is_mirrored))

    def cached_clip(self, place: int, is_mirrored: bool = False) -> CachedClip:
        """A clip as a cache of latents knows it: with the first epoch's crop in time."""
        record, shape = self.record(place), self.plan.shape(place, 0)
        try:
            moments = self._moments(place, 0, shape)
        except MediaError:
            moments = None  # reading it says why
        cut = {
            "frames": [int(moment) for moment in moments or ()],
            "crop": record.crop and list(record.crop),
            "shape": list(shape),
            **({"mirrored": True} if is_mirrored else {}),
        }
        number = int(self.plan.numbers[place])
        return CachedClip(record.path, record.name, cut, record.is_drawn, number, record.label, is_mirrored)

    def job(self, place: int, epoch: int, shape: VideoShape, is_mirrored: bool = False) -> ReadJob:
        """What reads the record at a place at a shape. Raises: MediaError when its frames cannot be chosen."""
        draw = (self.seed, int(self.plan.numbers[place]), epoch)
        moments = self._moments(place, epoch, shape)
        return ReadJob(self.source.opener, self.record(place), moments, self.settings, shape, draw, is_mirrored)

    def _is_mirrored(self, number: int) -> bool:
        """Whether the sample of a number is turned left to right, whichever record it is."""
        return self.settings.flip and random.stream(self.seed, "flip", number).random() < FLIPPED

    def _moments(self, place: int, epoch: int, shape: VideoShape) -> tuple[float, ...] | None:
        """Where in the file the frames of a sample are; None: decided when it is read, at a stride."""
        if self.settings.autoencoder is not None:
            return None
        record, draws = self.record(place), RecordDraws(self.seed, int(self.plan.numbers[place]), epoch)
        if self.settings.buckets is not None:
            return tuple(choose_window(record, shape.frames, self.settings.frame_interval, draws).tolist())
        try:
            chosen = choose_moments(record, self.settings, self.compression, self.sp_size, draws)
        except Unusable as unusable:
            raise MediaError(f"{record.path}: {unusable.detail}") from unusable
        return tuple(chosen.tolist())

    def _taken(self, waiting: Hashable | Failed) -> Any:
        return waiting if isinstance(waiting, Failed) else self._runner.result(waiting)

    def _start(self, sample: Sample) -> None:
        """Begin to read a sample's record, or the next one that is not known to fail."""
        failed = self._try(sample)
        while failed is not None:
            self._note(sample, failed)
            self._next(sample)
            failed = self._try(sample)

    def _take_another(self, sample: Sample) -> None:
        self._next(sample)
        self._start(sample)

    def _try(self, sample: Sample) -> str | None:
        """Begin to read a sample's record; returns why not, where that is known at once."""
        if self._moments_of is not None:
            try:
                sample.array = self._moments_of(self.cached_clip(sample.place, sample.is_mirrored))
            except MediaError as error:
                return str(error)
            return None
        try:
            job = self.job(sample.place, sample.epoch, sample.shape, sample.is_mirrored)
        except MediaError as error:
            return str(error)
        number = job.draw[1]
        known = self._known.get(number) or self._known.get(_frames_key(job))
        if known is None:
            sample.key = next(self._keys)
            self._runner.submit(sample.key, job)
        return known

    def _next(self, sample: Sample) -> None:
        """Turn to the next record that may stand in for a sample."""
        if sample.stand_ins is None:
            sample.stand_ins = self._stand_ins(sample.place, sample)
        place = next(sample.stand_ins, None)
        if place is None:
            shape = sample.shape
            path, reason = sample.failed[0]
            raise MediaError(
                f"all {len(sample.failed)} clips of {shape.frames} x {shape.height} x {shape.width} failed; "
                f"the first, {path}: {reason}"
            )
        sample.place = place

    def _stand_ins(self, place: int, sample: Sample) -> Iterator[int]:
        draw = random.stream(self.seed, "replacement", sample.number)
        for group in self.plan.stand_ins(place, sample.epoch):
            yield from draw.permutation(group).tolist()

    def _remember(self, sample: Sample, failed: Failed) -> None:
        job = self.job(sample.place, sample.epoch, sample.shape)
        if failed.is_for_good:
            self._known[job.draw[1]] = failed.reason
        elif job.moments is not None:  # at a stride, each epoch has other frames
            self._known[_frames_key(job)] = failed.reason
        self._note(sample, failed.reason)

    def _note(self, sample: Sample, reason: str) -> None:
        path = str(self.record(sample.place).path)
        reason = reason.removeprefix(f"{path}: ")
        sample.failed.append((path, reason))
        self._reasons[path] = reason


def _frames_key(job: ReadJob) -> Hashable:
    """What a job reads; two jobs with equal keys fail alike."""
    return job.draw[1], job.moments and (job.moments[0], len(job.moments))
