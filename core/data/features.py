"""Latents of labelled pictures that were computed before and need no pictures any more: what training reads of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, Protocol

import numpy as np

from ..errors import MediaError
from .cache import INDEX_NAME
from .feature_folder import FeatureFolder
from .labelled_cache import LabelledCache
from .latent_cache import CachedClip
from .records import BadRow, Record


class Features(Protocol):
    """Such latents, by their numbers."""

    @property
    def folder(self) -> Path: ...

    @property
    def are_scaled(self) -> bool:
        """Whether they were drawn and scaled; else they are moments."""

    @property
    def are_mirrored(self) -> bool:
        """Whether there is a second one of each picture, turned left to right."""

    @property
    def scaling(self) -> Mapping[str, Any] | None:
        """Of moments, as core.data.latent_cache.scaling_of."""

    @property
    def size(self) -> tuple[int, int]:
        """Height and width, the same of all."""

    @property
    def labels(self) -> np.ndarray:
        """Numbers of the classes."""

    def __len__(self) -> int: ...

    def name(self, number: int) -> str: ...

    def shown(self, number: int) -> Path:
        """What messages call it."""

    def latent(self, number: int, is_mirrored: bool = False) -> np.ndarray:
        """(C or 2C, 1, h, w) float32. Raises: MediaError and CheckpointError when it cannot be read any more."""


class FolderFeatures:
    """Mini Sora's two folders of .npy; all of them are looked at, and none is opened whole, before any is read."""

    are_scaled, are_mirrored, scaling = True, False, None

    def __init__(self, folder: Path) -> None:
        """Raises: MediaError for files that do not go together, naming the first."""
        self.folder, self._files = folder, FeatureFolder(folder)
        self.labels = np.array([self._files.label(number) for number in range(len(self._files))])
        shape = self._files.shape(0)
        for number in range(1, len(self)):
            if (other := self._files.shape(number)) != shape:
                raise MediaError(
                    f"{self._files.features / self.name(number)}: holds a latent of {_x(other)}, {self.name(0)} one of "
                    f"{_x(shape)}; all need one size"
                )
        self.size = shape[1:]

    def __len__(self) -> int:
        return len(self._files)

    def name(self, number: int) -> str:
        return self._files.names[number]

    def shown(self, number: int) -> Path:
        return self._files.labels / self.name(number)

    def latent(self, number: int, is_mirrored: bool = False) -> np.ndarray:
        """As Features."""
        return self._files.latent(number)[:, None]


class FeatureSource:
    """A RecordSource of features: its records are known, and not opened."""

    bad: Sequence[BadRow] = ()

    def __init__(self, features: Features) -> None:
        self.features, self.opener = features, _no_pixels

    def __len__(self) -> int:
        return len(self.features)

    def record(self, number: int) -> Record:
        features = self.features
        name, label = features.name(number), int(features.labels[number])
        return Record(path=features.shown(number), name=name, label=label, origin=str(features.folder))

    def latent_of(self, clip: CachedClip) -> np.ndarray:
        """What a loader takes for the pixels of a clip."""
        return self.features.latent(clip.number, clip.is_mirrored)


def open_features(folder: Path) -> Features:
    """The features in a folder: a cache of labelled pictures, or Mini Sora's two folders of .npy.

    Raises: MediaError and CheckpointError when there are none, or some do not belong together.
    """
    return LabelledCache(folder) if (folder / INDEX_NAME).exists() else FolderFeatures(folder)


def _no_pixels(record: Record, draw: np.random.Generator) -> NoReturn:
    raise MediaError(f"{record.path}: holds latents, no pixels")


def _x(sizes: Sequence[int]) -> str:
    return " x ".join(map(str, sizes))
