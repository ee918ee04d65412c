"""Moments of clips' latents, computed once: the cache that `duosora cache latents` writes and training reads.

Mean and log-variance are kept, not a sample, so every epoch still draws its own. What is random about a clip itself
(the crop in time) is fixed when it is cached. Inpaint models cannot use such a cache: they are shown the latents of the
clip with frames hidden, other ones each time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import MediaError
from ..models.recognise import Part
from .cache import CacheReader, CacheWriter, check_identity
from .fingerprints import FileIdentity, file_fingerprint, json_fingerprint, model_fingerprint

KIND = "latent moments"


@dataclass(frozen=True)
class CachedClip:
    """One clip as the cache knows it."""

    path: Path
    name: str
    """Its path in the annotation, which stays when the whole folder moves."""
    cut: Mapping[str, Any]
    """What is taken of the file, in plain values: frames, crop, size."""
    is_drawn: bool = False
    """There is no file: the content follows from the name."""


def latent_identity(part: Part, transform: Mapping[str, Any], identify: FileIdentity) -> dict[str, Any]:
    """From what the moments of a clip follow, beside the clip. transform: the settings by which clips are cut."""
    return {"kind": KIND, "model": model_fingerprint(part), "files identified by": identify, **transform}


class LatentCache:
    """Finds the moments of clips in a cache; picklable, and safe to read from many threads and processes."""

    def __init__(self, folder: Path, identity: dict[str, Any] | None = None) -> None:
        """identity: what the training run needs, of `latent_identity`.

        Raises: CheckpointError when the cache is missing or unfinished, or was made with another model or transform.
        """
        self.reader = CacheReader(folder)
        check_identity(folder, self.reader.index.identity, identity or {"kind": KIND})

    def moments(self, clip: CachedClip) -> np.ndarray:
        """(2C, t, h, w) float32.

        Raises: MediaError when the clip is not in the cache, with the reason where it is known.
        """
        index = self.reader.index
        moments = self.reader.find(_key(clip, index.identity["files identified by"]))
        if moments is None:
            reason = index.failed.get(clip.name, "it is new or has changed; run `duosora cache latents` again")
            raise MediaError(f"{clip.path}: is not in the latent cache {self.reader.folder} ({reason})")
        return moments


def write_latent_cache(
    writer: CacheWriter,
    clips: Sequence[CachedClip],
    encode: Callable[[Sequence[int]], Iterable[np.ndarray | MediaError]],
    on_progress: Callable[[int], None] = lambda count: None,
    on_failure: Callable[[str], None] = lambda line: None,
) -> None:
    """Encode the clips that are not in the cache yet, in their order, and close it.

    encode: clips by their place in `clips` to (2C, t, h, w) each, or to why not. A clip that cannot be read is told to
    on_failure, noted and left out. on_progress: told how many further clips are done, stored ones included.
    """

    def note(clip: CachedClip, error: MediaError) -> None:
        reason = " ".join(str(error).split())
        writer.fail(clip.name, reason)
        on_failure(reason)

    keys: dict[int, str] = {}
    for place, clip in enumerate(clips):
        try:
            keys[place] = _key(clip, writer.identity["files identified by"])
        except MediaError as error:
            note(clip, error)
    missing = {key: place for place, key in reversed(keys.items()) if key not in writer}
    places = sorted(missing.values())
    on_progress(len(clips) - len(places))
    for place, moments in zip(places, encode(places), strict=True):
        if isinstance(moments, MediaError):
            note(clips[place], moments)
        else:
            writer.add(keys[place], moments, str(clips[place].path))
        on_progress(1)
    writer.close()


def _key(clip: CachedClip, identify: FileIdentity) -> str:
    content = clip.name if clip.is_drawn else file_fingerprint(clip.path, clip.name, identify)
    return json_fingerprint([content, clip.cut])
