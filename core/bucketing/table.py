"""Buckets of resolution and length, each with a probability and a batch size, as Open-Sora 1.1 and 1.2 train.

A sample goes to the largest resolution that it fills and to the longest clip that it holds, unless chance sends it on
to the next one. The proportion is the nearest one of the resolution. Chance depends on the seed of the sample alone.
Source: opensora/datasets/bucket.py of hpcaitech Open-Sora at v1.2.0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar

import numpy as np

from ..errors import ConfigError
from ..printable import short_name
from ..shapes import VideoShape
from .draws import first_draws
from .size_table import SizeTable

FILLED = 0.8
"""Part of a resolution's pixels that a sample must have."""


class Chances(NamedTuple):
    """What a table says of a resolution and a length."""

    keep: float
    """Probability that a sample which fits stays here; else it goes to the next smaller resolution."""
    consider: float
    """Probability that this length is looked at; else the next shorter one is."""
    batch_size: int | None
    """None: nothing stays here."""

    def decide(self, seeds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Of samples that fit, which are considered and which of these would be kept, by the seeds of their draws."""
        if {self.keep, self.consider} <= {0.0, 1.0} and self.consider:
            return np.ones(len(seeds), bool), np.full(len(seeds), bool(self.keep))
        draws = first_draws(seeds)
        if self.consider >= 1:
            return np.ones(len(seeds), bool), draws[:, 0] < self.keep
        return draws[:, 0] <= self.consider, draws[:, 1] < self.keep


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
        return np.uint64(seed + epoch & (1 << 64) - 1) + samples.astype(np.uint64) * step  # past the end they wrap round

    def assign(self, frames: int, height: int, width: int, seed: int, interval: int = 1) -> Bucket | None:
        """As assign_all, of one; None: it is left out."""
        sizes = (np.array([number]) for number in (frames, height, width))
        (number,) = self.assign_all(*sizes, np.array([seed], np.uint64), interval)
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
            is_large = heights * widths >= FILLED * self.sizes.resolution(name).pixels
            samples = np.flatnonzero((found < 0) & is_large)
            lengths = self._lengths(name, row, frames[samples], seeds[samples], interval)
            samples, lengths = samples[lengths > 0], lengths[lengths > 0]
            ratios = self.sizes.nearest_ratios(name, heights[samples], widths[samples])
            firsts = {length: self._first[name, length] for length in row}
            found[samples] = np.array([firsts[length] for length in lengths.tolist()], int) + ratios
        return found

    def video(self, bucket: Bucket) -> VideoShape:
        """The size of a bucket's clips."""
        return VideoShape(bucket.frames, *self.sizes.resolution(bucket.resolution).sizes[bucket.ratio])

    def batch_size(self, bucket: Bucket) -> int:
        """Clips in a batch of a bucket that `assign` gave."""
        size = self.entries[bucket.resolution][bucket.frames].batch_size
        assert size is not None, bucket
        return size

    def _lengths(
        self, name: str, row: Mapping[int, Chances], frames: np.ndarray, seeds: np.ndarray, interval: int
    ) -> np.ndarray:
        """The length that each sample has in a resolution, 0: none."""
        lengths = np.zeros(len(frames), int)
        waits = np.ones(len(frames), bool)
        for length, entry in row.items():
            samples = np.flatnonzero(waits & ((frames == 1) if length == 1 else (frames > length * interval)))
            is_considered, is_kept = entry.decide(seeds[samples] + np.uint64(self._numbers[name, length]))
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


def read_frames(value: Any) -> int:
    """A number of frames, or the text of one. Raises: ValueError."""
    text = str(value)
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise ValueError(f"expected a number of frames, got {short_name(text)!r}")
    return int(text)


def read_chances(pair: Any) -> Chances:
    """What a table says of a bucket. Raises: ValueError."""
    if not isinstance(pair, list | tuple) or len(pair) != 2:
        raise ValueError(f"expected [probability, batch size], got {_shown(pair)}")
    chances, batch_size = pair
    keep, consider = chances if isinstance(chances, list | tuple) and len(chances) == 2 else (chances, 1.0)
    for chance in (keep, consider):
        if isinstance(chance, bool) or not isinstance(chance, int | float) or not 0 <= chance <= 1:
            raise ValueError(f"expected probabilities from 0 to 1, got {_shown(chances)}")
    is_size = isinstance(batch_size, int) and not isinstance(batch_size, bool) and batch_size > 0
    if not is_size and not (batch_size is None and keep == 0):
        raise ValueError(f"expected a batch size of at least 1, got {_shown(batch_size)}")
    return Chances(float(keep), float(consider), batch_size)


def _shown(value: Any) -> str:
    return short_name(repr(value))
