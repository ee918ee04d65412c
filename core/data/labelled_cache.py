"""A latent cache of labelled pictures, read by itself: the pictures need not be there any more.

Beside each tensor the cache keeps a note: the name of its picture, the number of its class, and whether it is mirrored.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..errors import CheckpointError
from ..printable import short_name
from .cache import CacheReader, Note
from .latent_cache import KIND, SCALED


class _Label(NamedTuple):
    """On a tensor."""

    name: str
    label: int
    is_mirrored: bool


class LabelledCache:
    """Its pictures in the order of their names, class after class where they had folders (core.data.features)."""

    def __init__(self, folder: Path) -> None:
        """Raises: CheckpointError when the cache is missing or unfinished, or one of clips without labels."""
        self.folder, self._reader = folder, CacheReader(folder)
        identity = self._reader.index.identity
        notes = {key: _read(folder, note) for key, note in self._reader.notes()}
        if identity.get("kind") not in (KIND, SCALED) or len(notes) != len(self._reader) or not notes:
            raise CheckpointError(f"{folder}: is no cache of labelled pictures; make it: duosora cache latents")
        self.are_scaled = identity["kind"] == SCALED
        self.scaling = None if self.are_scaled else {name: identity.get(name) for name in ("scale", "shift")}
        found = {(note.label, note.name) for note in notes.values()}
        pictures = sorted(found, key=(lambda one: one[1]) if self.are_scaled else None)  # as where they come from
        self.labels = np.array([label for label, _ in pictures])
        self._names = [name for _, name in pictures]
        places = {picture: place for place, picture in enumerate(pictures)}
        self._keys: tuple[list[str | None], ...] = ([None] * len(pictures), [None] * len(pictures))
        for key, note in notes.items():
            self._keys[note.is_mirrored][places[note.label, note.name]] = key
        self.are_mirrored = None not in self._keys[True]
        if None in self._keys[False]:
            name = self._names[self._keys[False].index(None)]
            raise CheckpointError(f"{folder}: holds {short_name(name)} mirrored only; make the cache again")
        _, frames, height, width = self.latent(0).shape
        if frames > 1:
            raise CheckpointError(f"{folder}: holds clips; name their class_folders, and this cache as caches.latents")
        self.size = height, width

    def __len__(self) -> int:
        return len(self._names)

    def name(self, number: int) -> str:
        return self._names[number]

    def shown(self, number: int) -> Path:
        return self.folder / self._names[number]

    def latent(self, number: int, is_mirrored: bool = False) -> np.ndarray:
        """As core.data.features.Features."""
        key = self._keys[is_mirrored][number]
        assert key is not None, "asked for only where are_mirrored says so"
        found = self._reader.find(key)
        assert found is not None
        return found


def _read(folder: Path, note: Note) -> _Label:
    try:
        return _Label(str(note["name"]), int(note["label"]), bool(note["mirrored"]))
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{folder}: a note of it is damaged ({error}); make the cache again") from error
