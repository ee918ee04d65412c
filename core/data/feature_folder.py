"""Latents of pictures with their classes as Mini Sora's feature extraction writes them: two folders of .npy.

`<name>_features/<n>.npy` holds the scaled latent (1, C, H, W) of a picture, `<name>_labels/<n>.npy` its class (1,). The
files are read in the order of their names as text, so 10 comes before 2, as where models were trained on them.
Source: mini-sora/MiniSora-DiT, extract_features.py and train.py.
"""

from __future__ import annotations

import io
import os
from functools import lru_cache
from math import prod
from pathlib import Path
from tokenize import TokenError
from typing import Any, NamedTuple

import numpy as np

from ..errors import MediaError
from ..io.files import open_regular
from ..printable import short_name

FEATURES, LABELS = "_features", "_labels"
ENDING = ".npy"
HEAD_BYTES = 128
"""That numpy writes before the values of an array of few axes, or fewer."""


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
        head, _ = _read(path, only_head=True)
        _check_latent(path, head.shape, head.dtype)
        _, channels, height, width = head.shape
        return channels, height, width

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
        with np.errstate(over="ignore"):
            values = latent[0].astype(np.float32)
        if not np.isfinite(values).all():
            raise MediaError(f"{path}: holds NaN or infinity, or more than float32 can hold; make it again")
        return values


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


class _Head(NamedTuple):
    """What an .npy says of its array."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    is_fortran: bool
    start: int
    """Where the values begin."""


def _array(path: Path) -> np.ndarray:
    head, values = _read(path)
    return np.frombuffer(values, head.dtype).reshape(head.shape, order="F" if head.is_fortran else "C")


def _read(path: Path, only_head: bool = False) -> tuple[_Head, bytes]:
    """An .npy that is all there. Raises: MediaError."""
    try:
        with open_regular(path) as file:
            head = _parsed(file.read(HEAD_BYTES))
            if os.fstat(file.fileno()).st_size - head.start != prod(head.shape) * head.dtype.itemsize:
                raise ValueError("it is cut off")
            file.seek(head.start)
            return head, b"" if only_head else file.read()
    except (OSError, ValueError, EOFError) as error:
        reason = " ".join(str(error).split())
        raise MediaError(f"{path}: cannot be read as {ENDING} ({reason}); make it again") from error


@lru_cache(maxsize=64)
def _parsed(start: bytes) -> _Head:
    """Of the beginning of a file; those of millions are alike."""
    file = io.BytesIO(start)
    version = np.lib.format.read_magic(file)
    if version != (1, 0):
        raise ValueError(f"its version is {version[0]}.{version[1]}, expected 1.0")
    try:
        shape, is_fortran, dtype = np.lib.format.read_array_header_1_0(file)
    except (SyntaxError, TokenError, TypeError) as error:  # numpy lets these through where a header is no Python
        raise ValueError("its header is damaged") from error
    if dtype.hasobject:
        raise ValueError("it holds Python objects, and reading these can run code")
    if dtype.subdtype or not dtype.itemsize or not all(type(size) is int and size > 0 for size in shape):
        raise ValueError(f"its header tells of {short_name(_told(dtype, shape))}")
    return _Head(shape, dtype, is_fortran, file.tell())


def _check_latent(path: Path, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    if len(shape) != 4 or shape[0] != 1 or dtype.kind != "f":
        raise MediaError(f"{path}: holds {_told(dtype, shape)}; expected a latent, floats (1, C, H, W)")


def _told(dtype: np.dtype[Any], shape: tuple[int, ...]) -> str:
    return f"{dtype} {shape}"
