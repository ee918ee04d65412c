"""Latents of pictures with their classes as Mini Sora's feature extraction writes them: two folders of .npy.

`<name>_features/<n>.npy` holds the scaled latent (1, C, H, W) of a picture, `<name>_labels/<n>.npy` its class (1,). The
files are read in the order of their names as text, so 10 comes before 2, as where models were trained on them.
Source: mini-sora/MiniSora-DiT, extract_features.py and train.py.
"""

from __future__ import annotations

import io
import os
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..errors import MediaError
from ..io.files import open_regular
from ..printable import short_name

FEATURES, LABELS = "_features", "_labels"
ENDING = ".npy"


class Feature(NamedTuple):
    """A picture of a class."""

    latent: np.ndarray
    """(C, H, W) float32, scaled."""
    label: int


class FeatureFolder:
    """Reads such a folder; each read opens its files anew, so that it may be done from many processes."""

    def __init__(self, folder: Path) -> None:
        """Raises: MediaError when there are not the two folders, or a file of one has no partner in the other."""
        self.folder = folder
        self.features, self.labels = (_folder_of(folder, ending) for ending in (FEATURES, LABELS))
        self.names = _names(self.features)
        _check_pairs(self.features, self.names, self.labels, _names(self.labels))

    def __len__(self) -> int:
        return len(self.names)

    def label(self, index: int, classes: int | None = None) -> int:
        """The class of a picture. Raises: as read."""
        path = self.labels / self.names[index]
        label = _array(path)
        if label.shape != (1,) or label.dtype.kind not in "iu":
            raise MediaError(
                f"{path}: holds {_told(label.dtype, label.shape)}; expected a class, one whole number (1,)"
            )
        number = int(label[0])
        if number < 0 or (classes is not None and number >= classes):
            known = "0 or more" if classes is None else f"0 to {classes - 1}"
            raise MediaError(f"{path}: class {number}; the model knows {known}")
        return number

    def shape(self, index: int) -> tuple[int, int, int]:
        """C, H and W of a latent, of which nothing else is read. Raises: as read."""
        path = self.features / self.names[index]
        shape, dtype = _header(path)
        _check_latent(path, shape, dtype)
        return shape[1], shape[2], shape[3]

    def read(self, index: int, classes: int | None = None) -> Feature:
        """The picture at a place in the order. classes: how many the model knows.

        Raises: MediaError when a file is damaged, holds objects or another shape, or a class that is not known.
        """
        return Feature(self.latent(index), self.label(index, classes))

    def latent(self, index: int) -> np.ndarray:
        """The latent of a picture, (C, H, W) float32. Raises: as read."""
        path = self.features / self.names[index]
        latent = _array(path)
        _check_latent(path, latent.shape, latent.dtype)
        if not np.isfinite(latent).all():
            raise MediaError(f"{path}: holds NaN or infinity; make it again")
        return latent[0].astype(np.float32)


def _folder_of(folder: Path, ending: str) -> Path:
    if not folder.is_dir():
        raise MediaError(f"{folder}: there is no such folder of features")
    found = sorted(each for each in folder.iterdir() if each.name.endswith(ending) and each.is_dir())
    if len(found) != 1:
        named = ", ".join(short_name(each.name) for each in found) or "none"
        raise MediaError(f"{folder}: expected one folder whose name ends with {ending}, found {named}")
    return found[0]


def _names(folder: Path) -> list[str]:
    return sorted(name for name in os.listdir(folder) if name.endswith(ENDING))


def _check_pairs(features: Path, of_features: list[str], labels: Path, of_labels: list[str]) -> None:
    if not of_features:
        raise MediaError(f"{features}: holds no {ENDING}")
    for here, names, there, others in (
        (features, of_features, labels, of_labels),
        (labels, of_labels, features, of_features),
    ):
        alone = sorted(set(names) - set(others))
        if alone:
            more = f" and {len(alone) - 1} more" if len(alone) > 1 else ""
            raise MediaError(f"{here / short_name(alone[0])}{more}: no file of that name in {there}")


def _array(path: Path) -> np.ndarray:
    try:
        with open_regular(path) as file:
            array = np.load(io.BytesIO(file.read()), allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise _unreadable(path, error) from error
    if not isinstance(array, np.ndarray):
        raise MediaError(f"{path}: holds several arrays; expected one")
    return array


def _header(path: Path) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape and dtype of an array that is all there."""
    try:
        with open_regular(path) as file:
            version = np.lib.format.read_magic(file)
            if version not in _HEADERS:
                raise ValueError(f"its version is {version[0]}.{version[1]}")
            shape, _, dtype = _HEADERS[version](file)
            if dtype.hasobject:
                raise ValueError("it holds Python objects, and reading these can run code")
            if os.fstat(file.fileno()).st_size - file.tell() != prod(shape) * dtype.itemsize:
                raise ValueError("it is cut off")
    except (OSError, ValueError, EOFError) as error:
        raise _unreadable(path, error) from error
    return shape, dtype


_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


def _check_latent(path: Path, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    if len(shape) != 4 or shape[0] != 1 or dtype.kind != "f":
        raise MediaError(f"{path}: holds {_told(dtype, shape)}; expected a latent, floats (1, C, H, W)")


def _unreadable(path: Path, error: Exception) -> MediaError:
    return MediaError(f"{path}: cannot be read as {ENDING} ({' '.join(str(error).split())}); make it again")


def _told(dtype: np.dtype[Any], shape: tuple[int, ...]) -> str:
    return f"{dtype} {shape}"
