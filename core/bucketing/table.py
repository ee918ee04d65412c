"""Buckets of resolution and length, each with a probability and a batch size, as Open-Sora 1.1 and 1.2 train.

A sample goes to the largest resolution that it fills and to the longest clip that it holds, unless chance sends it on
to the next one. The proportion is the nearest one of the resolution. Chance depends on the seed of the sample alone.
Source: opensora/datasets/bucket.py of hpcaitech Open-Sora at v1.2.0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, TypeVar

import numpy as np

from ..config.buckets import Chances, read_chances, read_frames
from ..errors import ConfigError
from ..shapes import VideoShape
from .draws import first_draws
from .size_table import SizeTable

FILLED = 0.8
"""Part of a resolution's pixels that a sample must have."""


class Bucket(NamedTuple):
    """Where a sample belongs."""

    resolution: str
    frames: int
    ratio: str
    """height / width as the size table writes it."""


class BucketTable:
    """Assigns samples to buckets."""

    def __init__(self, table: Mapping[str, Mapping[Any, Any]], sizes: SizeTable, where: str = "data.buckets") -> None:
        """table: {resolution: {frames: (keep or (keep, consider), batch size)}}. Raises: ConfigError."""
        entries = {
            name: {
                _at(f"{where}.{name}", read_frames, frames): _at(f"{where}.{name}.{frames}", read_chances, pair)
                for frames, pair in row.items()
            }
            for name, row in table.items()
        }
        pixels = {name: _pixels(sizes, name, where) for name in entries}
        self.sizes = sizes
        self.entries: dict[str, dict[int, Chances]] = {
            name: dict(sorted(entries[name].items(), reverse=True))
            for name in sorted(entries, key=lambda name: pixels[name], reverse=True)
        }
        """In the order in which they are tried."""
        self.buckets = tuple(
            Bucket(name, frames, ratio)
            for name, row in self.entries.items()
            for frames in row
            for ratio in sizes.resolution(name).sizes
        )
        """All that there are: by how many the seeds of neighbouring samples differ."""
        places = [(name, frames) for name, row in self.entries.items() for frames in row]
        self._numbers = {place: number for number, place in enumerate(places)}
        self._first = {bucket[:2]: number for number, bucket in reversed(list(enumerate(self.buckets)))}

    def seeds_of(self, samples: np.ndarray, seed: int, epoch: int) -> np.ndarray:
        """The seeds of the draws of samples by their numbers (N,), as uint64."""
        step = np.uint64(len(self.buckets))
        return (
            np.uint64(seed + epoch & (1 << 64) - 1) + samples.astype(np.uint64) * step
        )  # past the end they wrap round

    def assign(self, frames: int, height: int, width: int, seed: int, interval: int = 1) -> Bucket | None:
        """As assign_all, of one; None: it is left out."""
        of_one = (np.array([frames]), np.array([height]), np.array([width]), np.array([seed], np.uint64))
        (number,) = self.assign_all(*of_one, interval)
        return None if number < 0 else self.buckets[number]

    def assign_all(
        self, frames: np.ndarray, heights: np.ndarray, widths: np.ndarray, seeds: np.ndarray, interval: int = 1
    ) -> np.ndarray:
        """The number in `buckets` of each clip, or picture, which has one frame; -1: it is left out. All (N,).

        interval: a clip is thinned to every so many frames. It must have more frames than its bucket needs, not just as
        many (quirk Q17).
        """
        found = np.full(len(frames), -1)
        for name, row in self.entries.items():
            samples = np.flatnonzero((found < 0) & self._fills(name, heights, widths))
            lengths = self._lengths(name, row, frames[samples], seeds[samples], interval)
            samples, lengths = samples[lengths > 0], lengths[lengths > 0]
            ratios = self.sizes.nearest_ratios(name, heights[samples], widths[samples])
            firsts = {length: self._first[name, length] for length in row}
            found[samples] = np.array([firsts[length] for length in lengths.tolist()], int) + ratios
        return found

    def possible(
        self, frames: np.ndarray, heights: np.ndarray, widths: np.ndarray, interval: int = 1
    ) -> list[Bucket | None]:
        """The first bucket in which each sample can be, if chance is kind; None where it can be in none. (N,)."""
        table = BucketTable({name: dict(_kind(row)) for name, row in self.entries.items()}, self.sizes)
        numbers = table.assign_all(frames, heights, widths, np.zeros(len(frames), np.uint64), interval)
        return [None if number < 0 else table.buckets[number] for number in numbers.tolist()]

    def video(self, bucket: Bucket) -> VideoShape:
        """The size of a bucket's clips."""
        return VideoShape(bucket.frames, *self.sizes.resolution(bucket.resolution).sizes[bucket.ratio])

    def takes(self, bucket: Bucket) -> bool:
        """Whether clips are ever put into a bucket; some are there only to be passed through."""
        return self.entries[bucket.resolution][bucket.frames].batch_size is not None

    def batch_size(self, bucket: Bucket) -> int:
        """Clips in a batch of a bucket that `assign` gave."""
        size = self.entries[bucket.resolution][bucket.frames].batch_size
        assert size is not None, bucket
        return size

    def _fills(self, name: str, heights: np.ndarray, widths: np.ndarray) -> np.ndarray:
        return heights * widths >= FILLED * self.sizes.resolution(name).pixels

    def _lengths(
        self, name: str, row: Mapping[int, Chances], frames: np.ndarray, seeds: np.ndarray, interval: int
    ) -> np.ndarray:
        """The length that each sample has in a resolution, 0: none."""
        lengths = np.zeros(len(frames), int)
        waits = np.ones(len(frames), bool)
        for length, entry in row.items():
            samples = np.flatnonzero(waits & _holds(frames, length, interval))
            is_considered, is_kept = _decide(entry, seeds[samples] + np.uint64(self._numbers[name, length]))
            lengths[samples[is_considered & is_kept]] = length
            waits[samples[is_considered]] = False
        return lengths


T = TypeVar("T")


def _at(where: str, read: Callable[[Any], T], value: Any) -> T:
    try:
        return read(value)
    except ValueError as error:
        raise ConfigError(f"{where}: {error}") from error


def _pixels(sizes: SizeTable, name: str, where: str) -> int:
    try:
        return sizes.resolution(name).pixels
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error


def _holds(frames: np.ndarray, length: int, interval: int) -> np.ndarray:
    return (frames == 1) if length == 1 else (frames > length * interval)


def _kind(row: Mapping[int, Chances]) -> Iterator[tuple[int, tuple[float, int | None]]]:
    """The row without what chance decides: lengths are kept, or sent on, or not looked at."""
    for length, entry in row.items():
        if entry.consider > 0 and (entry.keep > 0 or entry.consider >= 1):
            yield length, (float(entry.keep > 0), entry.batch_size)


def _decide(chances: Chances, seeds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of samples that fit, which are considered and which of these would be kept, by the seeds of their draws."""
    if chances.consider >= 1 and chances.keep in (0, 1):
        return np.ones(len(seeds), bool), np.full(len(seeds), chances.keep > 0)
    draws = first_draws(seeds)
    if chances.consider >= 1:
        return np.ones(len(seeds), bool), draws[:, 0] < chances.keep
    return draws[:, 0] <= chances.consider, draws[:, 1] < chances.keep
