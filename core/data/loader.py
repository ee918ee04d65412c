"""The clips of a training run, micro-batch by micro-batch, read ahead; the only part of core.data that a loop needs.

What a step gets follows from the seed, the records, the settings and the step, whatever was read before and by however
many processes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import count, islice, tee
from typing import NamedTuple, Protocol

import numpy as np

from ..config.data import DataSettings
from ..errors import MediaError
from ..shapes import Compression, Patch, VideoShape
from .batch import ClipBatch, ReadFailure
from .bucket_order import Bucketing
from .bucket_plan import BucketPlan
from .captions import Captioner
from .collate import collate, collate_moments
from .condition_masks import ConditionMasks
from .fetching import Fetcher, MomentsOf, ReadingCounts, Sample
from .latent_cache import CachedClip
from .order import MicroBatch, Order
from .plan import EpochPlan, Plan, make_plan
from .pool import make_runner
from .probing import probed
from .records import Record
from .selection import shown_rate
from .sources import RecordSource, fitted
from .transforms import to_signed
from .worker import Failed

TextOf = Callable[[Record, int | None], np.ndarray | None]
"""Ready-made states (L, D) of a record's caption, by its number among the record's, None where it was dropped; nothing
where the record brings none. Raises: MediaError for a record whose states are damaged; another takes its place."""


class Ordering(Protocol):
    """Which samples are read at a step."""

    accumulation: int
    batch: int
    """Clips that a micro-batch has at least."""

    @property
    def steps_per_epoch(self) -> int:
        """After which every sample was seen."""

    def micro_batch(self, step: int, part: int) -> MicroBatch:
        """A micro-batch of a step; part: from 0 to accumulation - 1."""


class _Begun(NamedTuple):
    """A micro-batch on its way."""

    micro_batch: MicroBatch
    samples: list[Sample]


class ClipLoader:
    """Reads the micro-batches of a run, or one reader's share of them. Close it, or use it in a `with` statement."""

    def __init__(
        self,
        source: RecordSource,
        settings: DataSettings,
        seed: int,
        compression: Compression,
        patch: Patch,
        *,
        micro_batch: int = 1,
        accumulation: int = 1,
        readers: int = 1,
        reader: int = 0,
        sp_size: int = 1,
        mixes_sizes: bool = False,
        bucketing: Bucketing | None = None,
        text_of: TextOf | None = None,
        moments_of: MomentsOf | None = None,
        are_scaled: bool = False,
        keeps_dropped: bool = False,
    ) -> None:
        """accumulation: micro-batches of a step, of which one of several readers reads every so many-th; their number
        divides it. sp_size: ranks that share the frames of one sample. mixes_sizes: sizes follow each other in as small
        parts as can be, whatever the settings say, so that the first few micro-batches show many of them. bucketing:
        where the settings have buckets; then micro_batch has no use.

        keeps_dropped: captions and labels that are dropped stay, and batches say which they are.

        With moments_of no media file is opened, and the crop in time is the first epoch's in all of them. are_scaled:
        what it gives are latents that a denoiser can be trained on as they are.
        Raises: ConfigError and ShapeError when settings do not fit; MediaError when no clip can be trained on;
        PackageMissing when captions need libraries that are not installed.
        """
        self.settings = settings = fitted(settings, compression)
        self.compression, self.patch = compression, patch
        self.parts = range(reader, accumulation, readers)
        """Of a step's micro-batches, those that are read here."""
        self.captioner = Captioner(settings, seed, keeps_dropped)
        self._masks = ConditionMasks(settings.masks, seed) if settings.masks else None
        self._text_of, self._has_moments, self._are_scaled = text_of, moments_of is not None, are_scaled
        self._runner = make_runner(settings.workers, settings.timeout_seconds)
        try:
            source = probed(source, self._runner) if settings.probe else source
            self.plan: Plan
            self.order: Ordering
            if bucketing is not None:
                self.plan = buckets = BucketPlan(source, settings, bucketing.tables, compression, seed)
                self.order = bucketing.order(buckets, seed, accumulation, settings.drop_last)
            else:
                assert settings.buckets is None, "buckets need the sizes of a recipe"
                self.plan = sizes = make_plan(source, settings, compression, seed, micro_batch * accumulation, sp_size)
                self.order = self._order(sizes, seed, micro_batch, accumulation, mixes_sizes)
            self.captioner.check(map(source.record, map(int, self.plan.numbers)))
        except BaseException:
            self._runner.close()
            raise
        self._fetcher = Fetcher(source, self.plan, settings, seed, compression, sp_size, self._runner, moments_of)

    @property
    def steps_per_epoch(self) -> int:
        """Optimiser steps after which every sample was seen, or in buckets those of the first epoch; the last one may
        reach into the next epoch."""
        return self.order.steps_per_epoch

    def batches(self, start_step: int = 0) -> Iterator[list[ClipBatch]]:
        """The micro-batches of each optimiser step from a step on, without end. Raises: as of_steps."""
        return self.of_steps(count(start_step))

    def of_steps(self, steps: Iterable[int]) -> Iterator[list[ClipBatch]]:
        """The micro-batches of each of some optimiser steps.

        Raises: MediaError when all records of a bucket fail.
        """
        window: deque[_Begun] = deque()
        begun_steps, made_steps = tee(steps)
        coming = (self.order.micro_batch(step, part) for step in begun_steps for part in self.parts)
        try:
            for _ in made_steps:
                yield [self._next(window, coming) for _ in self.parts]
        finally:
            for begun in window:
                for sample in begun.samples:
                    self._fetcher.drop(sample)

    def describe(self) -> str:
        """What is trained on and what is left out, in a line."""
        left_out = self.plan.counts()
        used = left_out.pop("used")
        left_out |= {"bad row": len(self._fetcher.source.bad)} if self._fetcher.source.bad else {}
        line = f"{used} clips of {self._sizes()}, {self.steps_per_epoch} steps an epoch"
        if not left_out:
            return line
        return f"{line}; left out: {', '.join(f'{count} {kind}' for kind, count in left_out.items())}"

    def counts(self) -> dict[str, int]:
        """Records of the source, and the clips among them that are trained on."""
        return {"records": len(self._fetcher.source), "clips": len(self.plan)}

    def report(self) -> ReadingCounts:
        """What has been read so far, and what failed and why."""
        return self._fetcher.report()

    def close(self) -> None:
        """End the reading processes."""
        self._runner.close()

    def __enter__(self) -> ClipLoader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def record(self, place: int) -> Record:
        """The record at a place of the plan."""
        return self._fetcher.record(place)

    def cached_views(self) -> Iterator[CachedClip]:
        """The clips of the plan as a cache of latents knows them, each in all the ways that it is seen."""
        return map(self._fetcher.cached_view, range(len(self.plan) * self._fetcher.views))

    def pixels(self, views: Iterable[int]) -> Iterator[np.ndarray | MediaError]:
        """Some of these by their numbers, (3, T, H, W) in [-1, 1] each, or why there is none."""
        for result in self._fetcher.read_alone(views, 2 * max(self.settings.workers, 1)):
            yield MediaError(result.reason) if isinstance(result, Failed) else to_signed(result)

    def captions(self) -> Iterator[str]:
        """Every caption that may be trained with, repeats included, to fill a cache with."""
        for place in range(len(self.plan)):
            yield from self.captioner.possible(self.record(place))

    def _order(self, plan: EpochPlan, seed: int, micro_batch: int, accumulation: int, mixes_sizes: bool) -> Order:
        settings, numbers = self.settings, plan.buckets.tolist()
        mega_batch = self._mega_batch(plan, micro_batch, accumulation, mixes_sizes)
        is_upstream = settings.upstream.mixed_groups
        return Order(numbers, seed, mega_batch, micro_batch, accumulation, settings.grouped, is_upstream)

    def _mega_batch(self, plan: EpochPlan, micro_batch: int, accumulation: int, mixes_sizes: bool) -> int:
        """Clips that lie together in the order as they have one size."""
        if mixes_sizes:
            has_one_size = not self.settings.grouped or len(plan.shapes) == 1
            return 1 if has_one_size else micro_batch
        return micro_batch * (self.settings.mega_batch or accumulation)

    def _sizes(self) -> str:
        if isinstance(self.plan, EpochPlan):
            return f"{len(self.plan.shapes)} sizes"
        return f"{len(self.settings.buckets or ())} resolutions in buckets"

    @property
    def _ahead(self) -> int:
        """Micro-batches read ahead at most: as many as keep all processes busy."""
        if not self.settings.workers:
            return 0
        return max(self.settings.prefetch, -(-self.settings.workers // self.order.batch))

    def _next(self, window: deque[_Begun], coming: Iterator[MicroBatch]) -> ClipBatch:
        while len(window) <= self._ahead and not self._keeps_busy(window):
            if (micro_batch := next(coming, None)) is None:
                break
            entries = zip(micro_batch.places, micro_batch.samples, micro_batch.epochs, strict=True)
            begun = [self._fetcher.begin(*entry) for entry in entries]
            window.append(_Begun(micro_batch, begun))
        for ahead in window:  # so that what stands in for a failed sample is read before it is needed
            for sample in ahead.samples:
                self._fetcher.advance(sample)
        return self._made(window.popleft())

    def _keeps_busy(self, window: deque[_Begun]) -> bool:
        """Whether enough is ahead: batches of buckets may be large, and must not all lie in memory."""
        ahead = sum(len(begun.samples) for begun in islice(window, 1, None))
        return len(window) > self.settings.prefetch and ahead >= self.settings.workers

    def _made(self, begun: _Begun) -> ClipBatch:
        failures: list[ReadFailure] = []
        captions, states = [], []
        for sample in begun.samples:
            caption, text = self._text(sample)
            captions.append(caption)
            states.append(text)
            failures += self._fetcher.finish(sample)
        arrays = [sample.array for sample in begun.samples if sample.array is not None]
        records = [self.record(sample.place) for sample in begun.samples]
        pixels, moments, latents = None, None, None
        if self._has_moments:
            moments, mask = collate_moments(arrays, self.compression, self.patch, self._box)
            if self._are_scaled:
                moments, latents = None, moments
        else:
            pixels, mask = self._joined([to_signed(array) for array in arrays])
        return ClipBatch(
            pixels=pixels,
            mask=mask,
            captions=tuple(captions),
            samples=tuple(begun.micro_batch.samples),
            sources=tuple(str(record.path) for record in records),
            moments=moments,
            latents=latents,
            labels=tuple(record.label for record in records if record.label is not None),
            text=tuple(states) if any(text is not None for text in states) else None,
            frame_mask=None if pixels is None else self._frame_mask(begun, arrays, pixels.shape[2]),
            sizes=tuple(self._size(sample) for sample in begun.samples),
            fps=tuple(
                shown_rate(record, self.settings, sample.fps)
                for record, sample in zip(records, begun.samples, strict=True)
            ),
            bucket=self.plan.name(begun.micro_batch.places[0], begun.micro_batch.epochs[0]),
            is_null=self._null(begun),
            failures=tuple(failures),
        )

    def _size(self, sample: Sample) -> VideoShape:
        if self._has_moments or sample.array is None:
            return sample.shape
        return VideoShape(*sample.array.shape[1:])

    def _null(self, begun: _Begun) -> tuple[bool, ...]:
        if not self.captioner.keeps_dropped:
            return ()
        return tuple(self.captioner.is_dropped(sample.number) for sample in begun.samples)

    def _joined(self, clips: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray | None]:
        """Pixels and mask of a batch."""
        if self.settings.buckets is not None:
            return np.stack(clips), None  # of one size, which models pad to patches by themselves
        return collate(clips, self.compression, self.patch, self._box)

    def _text(self, sample: Sample) -> tuple[str, np.ndarray | None]:
        """The caption of a sample and, where they are asked for, its states, which may be damaged like a clip."""
        while True:
            self._fetcher.advance(sample, waits=True)
            record, number = self.record(sample.place), int(self.plan.numbers[sample.place])
            caption = self.captioner.caption(record, number, sample.epoch, sample.number)
            if self._text_of is None:
                return caption, None
            is_left = not self.captioner.is_dropped(sample.number) or self.captioner.keeps_dropped
            pick = None if not record.captions or not is_left else self.captioner.pick(record, number, sample.epoch)
            try:
                return caption, self._text_of(record, pick)
            except MediaError as error:
                reason = " ".join(str(error).split())
            self._fetcher.reject(sample, reason)

    def _frame_mask(self, begun: _Begun, arrays: list[np.ndarray], num_frames: int) -> np.ndarray | None:
        if self._masks is None:
            return None
        frame_mask = np.ones((len(arrays), num_frames), np.float32)
        for row, sample, array in zip(frame_mask, begun.samples, arrays, strict=True):
            row[: array.shape[1]] = self._masks.draw(array.shape[1], sample.number)
        return frame_mask

    @property
    def _box(self) -> VideoShape | None:
        """What ungrouped batches are padded to; grouped ones, and single clips, have one size."""
        if self.settings.grouped or self.order.batch == 1:
            return None
        return VideoShape(self.settings.frames, self.settings.height or 0, self.settings.width or 0)
