"""Buckets of resolution and length, each with a probability and a batch size, as Open-Sora 1.1 and 1.2 train.

A sample goes to the largest resolution that it fills and to the longest clip that it holds, unless chance sends it on
to the next one. The proportion is the nearest one of the resolution. Chance depends on the seed of the sample alone.
Source: opensora/datasets/bucket.py of hpcaitech Open-Sora at v1.2.0.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from ..errors import ConfigError
from ..shapes import VideoShape
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
                _frames(frames, f"{where}.{name}"): _chances(pair, f"{where}.{name}.{frames}")
                for frames, pair in row.items()
            }
            for name, row in table.items()
        }
        pixels = {name: sizes.resolution(name).pixels for name in entries}
        self.sizes = sizes
        self.entries: dict[str, dict[int, Chances]] = {
            name: dict(sorted(entries[name].items(), reverse=True))
            for name in sorted(entries, key=lambda name: pixels[name], reverse=True)
        }
        """In the order in which they are tried."""
        places = [(name, frames) for name, row in self.entries.items() for frames in row]
        self._numbers = {place: number for number, place in enumerate(places)}

    @property
    def num_buckets(self) -> int:
        """Of all resolutions, lengths and proportions: by how much the seeds of neighbouring samples differ."""
        return sum(len(row) * len(self.sizes.resolution(name).sizes) for name, row in self.entries.items())

    def seed_of(self, sample: int, seed: int, epoch: int) -> int:
        """The seed of a sample's draws."""
        return seed + epoch + sample * self.num_buckets

    def assign(self, frames: int, height: int, width: int, seed: int, interval: int = 1) -> Bucket | None:
        """The bucket of a clip, or of a picture, which has one frame; None: it is left out.

        interval: a clip is thinned to every so many frames. It must have more frames than its bucket needs, not just as
        many (quirk Q17).
        """
        for name, row in self.entries.items():
            if height * width < FILLED * self.sizes.resolution(name).pixels:
                continue
            found = self._picture(name, row, seed) if frames == 1 else self._clip(name, row, frames, interval, seed)
            if found is not None:
                return Bucket(name, found, self.sizes.nearest_ratio(name, height, width))
        return None

    def video(self, bucket: Bucket) -> VideoShape:
        """The size of a bucket's clips."""
        return VideoShape(bucket.frames, *self.sizes.resolution(bucket.resolution).sizes[bucket.ratio])

    def batch_size(self, bucket: Bucket) -> int:
        """Clips in a batch of a bucket that `assign` gave."""
        size = self.entries[bucket.resolution][bucket.frames].batch_size
        assert size is not None, bucket
        return size

    def _picture(self, name: str, row: Mapping[int, Chances], seed: int) -> int | None:
        return 1 if 1 in row and self._draws(name, 1, seed).random() < row[1].keep else None

    def _clip(self, name: str, row: Mapping[int, Chances], frames: int, interval: int, seed: int) -> int | None:
        for length, entry in row.items():
            draws = self._draws(name, length, seed)
            if entry.consider < 1 and draws.random() > entry.consider:
                continue
            if length > 1 and frames > length * interval:
                return length if entry.keep >= 1 or draws.random() < entry.keep else None
        return None

    def _draws(self, name: str, frames: int, seed: int) -> np.random.Generator:
        return np.random.default_rng(seed + self._numbers[name, frames])


def _frames(value: Any, where: str) -> int:
    text = str(value)
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise ConfigError(f"{where}: expected a number of frames, got {value!r}")
    return int(text)


def _chances(pair: Any, where: str) -> Chances:
    if not isinstance(pair, list | tuple) or len(pair) != 2:
        raise ConfigError(f"{where}: expected [probability, batch size], got {pair!r}")
    chances, batch_size = pair
    keep, consider = chances if isinstance(chances, list | tuple) and len(chances) == 2 else (chances, 1.0)
    for chance in (keep, consider):
        if isinstance(chance, bool) or not isinstance(chance, int | float) or not 0 <= chance <= 1:
            raise ConfigError(f"{where}: expected probabilities from 0 to 1, got {chances!r}")
    is_size = isinstance(batch_size, int) and not isinstance(batch_size, bool) and batch_size > 0
    if not is_size and not (batch_size is None and keep == 0):
        raise ConfigError(f"{where}: expected a batch size of at least 1, got {batch_size!r}")
    return Chances(float(keep), float(consider), batch_size)
