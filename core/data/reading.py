"""Reading one clip: the job that a reading process does, and the same one inside the training process."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from .. import random
from ..config.data import DataSettings
from ..errors import DuosoraError, MediaError
from ..io.timeline import Timeline
from ..io.video_reader import Note
from ..shapes import VideoShape
from .records import Record
from .selection import Unusable, rate_of, stride_frames
from .sources import ClipOpener, OpenedClip
from .transforms import Cover, ShorterSide, Square, Transform, cut_out

FRAMES_AT_ONCE = 8
"""Decoded frames of the file's own size in memory; 93 of 1080 x 1920 would be 580 MB in each process."""


class UnreadableRecord(MediaError):
    """A record of which no frame can be read, whichever are asked for."""


class Rated(NamedTuple):
    """A clip, and the rate of a file whose annotation has none."""

    pixels: np.ndarray
    fps: float | None


@dataclass(frozen=True)
class ReadJob:
    """All that the pixels of one sample follow from."""

    opener: ClipOpener
    record: Record
    moments: tuple[float, ...] | None
    """As core.data.selection.choose_moments gives them; None: frames at a stride, by the settings and the draw."""
    settings: DataSettings
    shape: VideoShape
    """That the plan promises."""
    draw: tuple[int, int, int]
    """Seed, number of the record, epoch."""
    is_mirrored: bool = False
    """Turned left to right."""

    def __call__(self) -> np.ndarray | Rated:
        """(3, T, H, W), as Transform makes it.

        Raises: UnreadableRecord when the record cannot be opened; MediaError when these frames of it cannot be used.
        """
        seed, number, epoch = self.draw
        draw = random.stream(seed, "clip", number, epoch)
        with closing(self._opened(draw)) as clip:
            numbers = self._numbers(clip, draw)
            pixels = self._pixels(clip, numbers, (draw.random(), draw.random()))
            return Rated(pixels, file_rate(clip, self.record)) if self._asks_rate else pixels

    @property
    def _asks_rate(self) -> bool:
        """Whether the file is to say the rate that the model is told, because its annotation does not."""
        return self.settings.buckets is not None and self.record.is_video and self.record.fps is None

    def _opened(self, draw: np.random.Generator) -> Any:
        try:
            return self.opener(self.record, draw)
        except DuosoraError as error:
            raise UnreadableRecord(str(error)) from error

    def _numbers(self, clip: OpenedClip, draw: np.random.Generator) -> np.ndarray:
        if self.moments is not None:
            moments = np.asarray(self.moments)
            if clip.timeline is not None and clip.timeline.is_variable and not self._asks_rate:
                return self._by_time(clip.timeline, moments)
            return moments.astype(np.int64)
        start, num_frames = self.record.start, self.record.num_frames
        end = len(clip) if num_frames is None else min(start + num_frames, len(clip))
        try:
            return start + stride_frames(end - start, self.settings, draw)
        except Unusable as unusable:
            raise MediaError(f"{self.record.path}: {unusable.detail}") from unusable

    def _by_time(self, timeline: Timeline, moments: np.ndarray) -> np.ndarray:
        """Where the rate varies, a record's frames and rate say how long it is, and moments are parts of that time."""
        record, rate = self.record, rate_of(self.record)
        start, stop = record.start, min(record.start + (record.num_frames or 0), len(timeline.starts))
        if start >= stop:
            raise MediaError(f"{record.path}: has no frame {start}, only 0 to {len(timeline.starts) - 1}")
        seconds = (moments - start) / rate
        lasts = timeline.time(stop) - timeline.time(start)
        if seconds[-1] > lasts + 1 / rate:
            raise MediaError(
                f"{record.path}: its rate varies, and frames {start} to {stop - 1} last {lasts:.3g} s, not the "
                f"{(stop - start) / rate:.3g} s that follow from its fps; set that to {timeline.rate(start, stop):.4g}"
            )
        return np.minimum(timeline.at(timeline.time(start) + seconds), stop - 1)

    def _pixels(self, clip: Any, numbers: np.ndarray, corner: tuple[float, float]) -> np.ndarray:
        """corner: of a random window, as parts of the ways that it can be moved down and right."""
        transform = self._transform()
        unique, places = np.unique(numbers, return_inverse=True)
        pixels: np.ndarray | None = None
        for start in range(0, len(unique), FRAMES_AT_ONCE):
            frames = clip.read(unique[start : start + FRAMES_AT_ONCE].tolist())
            part = transform(self._cut_out(frames, corner))
            if pixels is None:
                self._check(VideoShape(len(numbers), *part.shape[2:]))
                pixels = np.empty((3, len(unique), *part.shape[2:]), part.dtype)
            pixels[:, start : start + part.shape[1]] = part
        assert pixels is not None
        if self.is_mirrored:
            pixels = np.ascontiguousarray(pixels[..., ::-1])
        return pixels if len(unique) == len(numbers) else pixels[:, places]

    def _transform(self) -> Transform | Cover:
        size = self.shape.height, self.shape.width
        if self.settings.kind == "class_folders":
            return Square(*size, is_picture=not self.record.is_video)
        if self.settings.autoencoder is not None and self.settings.autoencoder.by_shorter_side:
            return ShorterSide(*size, is_picture=False)
        if self.settings.buckets is None:
            return Transform.of(self.settings)
        return Cover(*size, is_picture=not self.record.is_video)

    def _cut_out(self, frames: np.ndarray, corner: tuple[float, float]) -> np.ndarray:
        inside = cut_out(frames, self.record.crop)
        if self.settings.autoencoder is not None and self.settings.autoencoder.random_window:
            inside = self._window(inside, corner)
        if 0 in inside.shape:
            raise MediaError(f"{self.record.path}: the crop of its annotation lies outside its frames")
        return inside

    def _window(self, frames: np.ndarray, corner: tuple[float, float]) -> np.ndarray:
        height, width = self.shape.height, self.shape.width
        down, right = frames.shape[1] - height, frames.shape[2] - width
        if min(down, right) < 0:
            raise MediaError(
                f"{self.record.path}: has {frames.shape[1]} x {frames.shape[2]} pixels, fewer than the window of "
                f"{height} x {width} (data.autoencoder.random_window)"
            )
        top, left = int(corner[0] * (down + 1)), int(corner[1] * (right + 1))
        return frames[:, top : top + height, left : left + width]

    def _check(self, shape: VideoShape) -> None:
        if shape != self.shape:
            raise MediaError(
                f"{self.record.path}: gives {_words(shape)} where {_words(self.shape)} follow from its annotation; "
                "correct its size there"
            )


@dataclass(frozen=True)
class Facts:
    """What a file says about itself."""

    height: int
    width: int
    num_frames: int
    fps: float | None
    """Of the record's part of the file."""
    notes: tuple[Note, ...] = ()


@dataclass(frozen=True)
class ProbeJob:
    """Open a record and say what it is."""

    opener: ClipOpener
    record: Record
    decodes_all: bool = False
    """Decode every frame of the clip, not only the first of the file."""

    def __call__(self) -> Facts:
        """Raises: MediaError when the record cannot be opened or a frame cannot be decoded."""
        with closing(self.opener(self.record, random.stream(0, "probe"))) as clip:
            first = clip.read([0])
            if self.decodes_all:
                end = len(clip) if self.record.num_frames is None else self.record.start + self.record.num_frames
                for start in range(self.record.start, min(end, len(clip)), FRAMES_AT_ONCE):
                    clip.read(slice(start, min(start + FRAMES_AT_ONCE, end)))
            return Facts(first.shape[1], first.shape[2], len(clip), file_rate(clip, self.record), tuple(clip.notes))


def file_rate(clip: OpenedClip, record: Record) -> float | None:
    """Frames per second of a record's part of its file; None where frames have no time."""
    if clip.timeline is None:
        return None
    start, length = record.start, record.num_frames
    return clip.timeline.rate(start, len(clip) if length is None else start + length)


def _words(shape: VideoShape) -> str:
    return f"{shape.frames} frames of {shape.height} x {shape.width} pixels"
