"""What a reader of videos is: frames by number, uint8 RGB (T, H, W, 3), in the size and orientation of a player."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import chain, repeat
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..errors import MediaError
from .timeline import Timeline


class Note(NamedTuple):
    """Something unusual about a file."""

    kind: str
    """One of few words, to be counted."""
    detail: str


class VideoReader(ABC):
    """An open video; close it or use it in a `with` statement."""

    path: Path
    height: int
    width: int
    timeline: Timeline
    notes: tuple[Note, ...] = ()
    """What is unusual about the file, and how it is read."""

    @property
    def fps(self) -> float:
        """Frames per second on average."""
        return self.timeline.fps

    def __len__(self) -> int:
        """The number of frames."""
        return len(self.timeline.starts)

    @abstractmethod
    def close(self) -> None: ...

    @abstractmethod
    def _decode(self, numbers: Sequence[int]) -> Iterator[np.ndarray]:
        """The frames (H, W, 3) of rising numbers, all of them valid."""

    def read(self, frames: Sequence[int] | slice | None = None) -> np.ndarray:
        """Frames by number, in the order asked for, repeats allowed; all of them when None.

        Shape: (T, H, W, 3) uint8. Raises: MediaError when a number is not below the number of frames or a frame
        cannot be decoded.
        """
        numbers = self._numbers(frames)
        result = np.empty((len(numbers), self.height, self.width, 3), np.uint8)
        wanted = sorted(set(numbers))
        places: dict[int, list[int]] = {number: [] for number in wanted}
        for place, number in enumerate(numbers):
            places[number].append(place)
        for number, frame in zip(wanted, self._decode(wanted), strict=True):
            result[places[number]] = frame
        return result

    def chunks(self, size: int, frames: Sequence[int] | slice | None = None) -> Iterator[np.ndarray]:
        """Frames, `size` at a time (the last chunk may be shorter), with one chunk in memory.

        frames: numbers that do not fall; all when None. Shape: (size, H, W, 3) uint8 each. Raises: as read.
        """
        numbers = self._numbers(frames)
        counts = Counter(numbers)
        chunk: list[np.ndarray] = []
        for frame in chain.from_iterable(map(repeat, self._decode(list(counts)), counts.values())):
            chunk.append(frame)
            if len(chunk) == size:
                yield np.stack(chunk)
                chunk = []
        if chunk:
            yield np.stack(chunk)

    def at_one_rate(self, fps: float | None = None) -> list[int]:
        """Numbers of the frames that show the video at a constant rate, its own mean one unless another is given.

        Where the rate is constant already, every frame is one of them, once.
        """
        if self.timeline.is_variable:
            return self.timeline.resampled(fps or self.fps).tolist()
        return list(range(len(self)))

    def _numbers(self, frames: Sequence[int] | slice | None) -> list[int]:
        if frames is None or isinstance(frames, slice):
            return list(range(*(frames or slice(None)).indices(len(self))))
        for number in frames:
            if not 0 <= number < len(self):
                raise MediaError(f"{self.path}: has no frame {number}, only 0 to {len(self) - 1}")
        return [int(number) for number in frames]

    def __enter__(self) -> VideoReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
