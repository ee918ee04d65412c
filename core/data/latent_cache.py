"""Moments of clips' latents, computed once: the cache that `duosora cache latents` writes and training reads.

Mean and log-variance are kept, not a sample, so every epoch still draws its own. What is random about a clip itself
(the crop in time) is fixed when it is cached. Inpaint models cannot use such a cache: they are shown the latents of the
clip with frames hidden, other ones each time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..errors import MediaError
from ..models.finding import Part
from ..models.kinds import AutoencoderSpec
from ..seam.group import Alone, Group
from .cache import CacheReader, CacheWriter, check_identity, fill
from .fingerprints import FileIdentity, file_fingerprint, json_fingerprint, model_fingerprint

KIND, SCALED = "latent moments", "scaled latents"
"""What a cache holds: means and log-variances, or what was drawn of them and scaled for a denoiser."""


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
    number: int = 0
    """Of its record in the source."""
    label: int | None = None
    is_mirrored: bool = False
    """Turned left to right; `cut` says so too."""

    @property
    def note(self) -> Mapping[str, Any] | None:
        """What a cache keeps beside it, of labelled pictures."""
        return None if self.label is None else label_note(self.name, self.label, self.is_mirrored)


def label_note(name: str, label: int, is_mirrored: bool) -> dict[str, Any]:
    """A note on a picture: its name, the number of its class, and whether it was turned left to right."""
    return {"name": name, "label": label, "mirrored": is_mirrored}


def latent_identity(part: Part, transform: Mapping[str, Any], identify: FileIdentity) -> dict[str, Any]:
    """From what the moments of a clip follow, beside the clip. transform: the settings by which clips are cut."""
    return {"kind": KIND, "model": model_fingerprint(part), "files identified by": identify, **transform}


def scaling_of(autoencoder: AutoencoderSpec) -> dict[str, Any]:
    """How a denoiser's latents follow from those of an autoencoder, as plain values."""
    return {"scale": list(autoencoder.scale), "shift": list(autoencoder.shift)}


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


class Uncached(NamedTuple):
    """A clip that is not in the cache yet."""

    place: int
    """Among the clips that were looked at."""
    key: str
    name: str
    """Its path in the annotation."""
    path: Path
    note: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class ToDo:
    """What is left of a cache's clips."""

    clips: int
    """That were looked at."""
    uncached: list[Uncached]
    """In their order; of clips that are alike the first."""
    unreadable: dict[str, str]
    """Files that are not there, by their path in the annotation, and why."""

    @property
    def num_stored(self) -> int:
        """Clips that need not be read, repeats included."""
        return self.clips - len(self.uncached) - len(self.unreadable)

    def share(self, group: Group) -> ToDo:
        """One rank's; what is not there is the first's to tell."""
        unreadable = {} if group.index else self.unreadable
        return replace(self, uncached=self.uncached[group.index :: group.size], unreadable=unreadable)


def find_uncached(writer: CacheWriter, clips: Iterable[CachedClip]) -> ToDo:
    """What is to be read for a cache; no file is opened unless files are known by their content."""
    uncached: dict[str, Uncached] = {}
    unreadable: dict[str, str] = {}
    place = -1
    for place, clip in enumerate(clips):
        try:
            key = _key(clip, writer.identity["files identified by"])
        except MediaError as error:
            unreadable[clip.name] = _reason(error, clip.path)
            continue
        if key not in writer and key not in uncached:
            uncached[key] = Uncached(place, key, clip.name, clip.path, clip.note)
    return ToDo(place + 1, list(uncached.values()), unreadable)


def write_latent_cache(
    writer: CacheWriter,
    to_do: ToDo,
    encode: Callable[[Sequence[int]], Iterable[np.ndarray | MediaError]],
    on_progress: Callable[[int], None] = lambda count: None,
    on_failure: Callable[[str], None] = lambda line: None,
    world: Group | None = None,
) -> None:
    """Encode the clips that are not in the cache yet, and close it.

    encode: clips by their places to (2C, t, h, w) each, or to why not. A clip that cannot be read is told to
    on_failure, noted and left out. on_progress: told how many further clips are done. world: ranks that share the work,
    each with a writer of its own.
    """
    to_do = to_do.share(world or Alone())

    def note(name: str, reason: str) -> None:
        writer.fail(name, reason)
        on_failure(f"{name}: {reason}")

    def add_all() -> None:
        for name, reason in to_do.unreadable.items():
            note(name, reason)
        places = [clip.place for clip in to_do.uncached]
        for clip, moments in zip(to_do.uncached, encode(places), strict=True):
            if isinstance(moments, MediaError):
                note(clip.name, _reason(moments, clip.path))
            else:
                writer.add(clip.key, moments, clip.name, clip.note)
            on_progress(1)

    fill(writer, add_all, world)


def _key(clip: CachedClip, identify: FileIdentity) -> str:
    content = clip.name if clip.is_drawn else file_fingerprint(clip.path, clip.name, identify)
    return json_fingerprint([content, clip.cut])


def _reason(error: MediaError, path: Path) -> str:
    """One line, without the path in front."""
    return " ".join(str(error).split()).removeprefix(f"{path}: ")
