"""Filling the caches of a training run: every caption through the text encoder, every clip through the autoencoder."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from ..config.caches import CacheSettings
from ..data.cache import CacheReader, CacheWriter
from ..data.latent_cache import ToDo, latent_identity, write_latent_cache
from ..data.text_cache import text_identity, write_text_cache
from ..errors import ConfigError, MediaError
from ..printable import say
from ..seam.group import Alone, Group
from .encoders import CaptionEncoder, ClipEncoder

SECONDS_BETWEEN_LINES = 30.0


class Progress:
    """A bar with the time that is left; where there is no terminal, a line now and then."""

    def __init__(self, what: str, total: int) -> None:
        self.what, self.total = what, total
        self._bar = tqdm(total=total, desc=what, dynamic_ncols=True, disable=None)
        self._done, self._started = 0, time.monotonic()
        self._told = self._started

    def advance(self, count: int) -> None:
        """Some more are done."""
        self._done += count
        self._bar.update(count)
        now = time.monotonic()
        if self._bar.disable and now - self._told >= SECONDS_BETWEEN_LINES:
            self._told = now
            left = (now - self._started) / self._done * (self.total - self._done)
            self.say(f"{self.what}: {self._done} of {self.total}, about {tqdm.format_interval(left)} left")

    def say(self, line: str) -> None:
        """A line above the bar."""
        say(line, file=sys.stderr)

    def close(self) -> None:
        self._bar.close()


def text_writer(settings: CacheSettings, encoder: CaptionEncoder, world: Group | None = None) -> CacheWriter:
    """The cache that the states of captions go to; nothing is written yet. world: ranks that fill it together.

    Raises: ConfigError when no folder is set; CheckpointError when it holds a cache made from something else.
    """
    if settings.text is None:
        raise ConfigError("caches.text: name the folder for the text states")
    identity = text_identity(encoder.part, encoder.tokenizer, encoder.max_tokens) | {"computed in": encoder.dtype}
    return _writer(settings.text, identity, settings.text_dtype, settings, world)


def cache_texts(
    writer: CacheWriter, encoder: CaptionEncoder, captions: Sequence[str], world: Group | None = None
) -> CacheReader:
    """Store the states of captions that are not stored yet; returns the finished cache."""
    progress = Progress("captions", len(captions))
    try:
        write_text_cache(writer, captions, encoder.states, progress.advance, world)
    finally:
        progress.close()
    return CacheReader(writer.folder)


def latent_writer(
    settings: CacheSettings, encoder: ClipEncoder, transform: dict[str, Any], world: Group | None = None
) -> CacheWriter:
    """The cache that the moments of clips go to; nothing is written yet.

    transform: the settings by which clips are cut. world: ranks that fill it together.
    Raises: ConfigError when no folder is set; CheckpointError when it holds a cache made from something else.
    """
    if settings.latents is None:
        raise ConfigError("caches.latents: name the folder for the moments of the latents")
    identity = latent_identity(encoder.part, transform, settings.identify) | {"computed in": encoder.dtype}
    return _writer(settings.latents, identity, settings.latents_dtype, settings, world)


def cache_latents(
    writer: CacheWriter,
    encoder: ClipEncoder,
    to_do: ToDo,
    read: Callable[[Sequence[int]], Iterable[np.ndarray | MediaError]],
    world: Group | None = None,
) -> CacheReader:
    """Store the moments of clips; those that cannot be read are named and left out. Returns the finished cache.

    read: the pixels of clips by their places, (3, T, H, W) in [-1, 1] each, or why there are none.
    """
    progress = Progress("clips", len(to_do.share(world or Alone()).uncached))

    def encode(places: Sequence[int]) -> Iterator[np.ndarray | MediaError]:
        for pixels in read(places):
            yield pixels if isinstance(pixels, MediaError) else encoder.moments(pixels)

    try:
        write_latent_cache(writer, to_do, encode, progress.advance, progress.say, world)
    finally:
        progress.close()
    return CacheReader(writer.folder)


def _writer(
    folder: Path, identity: dict[str, Any], dtype: str, settings: CacheSettings, world: Group | None
) -> CacheWriter:
    group = world or Alone()
    return CacheWriter(folder, identity, dtype, settings.shard_mb << 20, writer=group.index, writers=group.size)
