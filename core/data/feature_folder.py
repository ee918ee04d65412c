"""Latents of pictures with their classes as Mini Sora's feature extraction writes them: two folders of .npy.

`<name>_features/<n>.npy` holds the scaled latent (1, C, H, W) of a picture, `<name>_labels/<n>.npy` its class (1,). The
files are read in the order of their names as text, so 10 comes before 2, as where models were trained on them.
Source: mini-sora/MiniSora-DiT, extract_features.py and train.py.
"""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import NamedTuple

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

    def read(self, index: int, classes: int | None = None) -> Feature:
        """The picture at a place in the order. classes: how many the model knows.

        Raises: MediaError when a file is damaged, holds objects or another shape, or a class that is not known.
        """
        name = self.names[index]
        latent, label = _array(self.features / name), _array(self.labels / name)
        if latent.ndim != 4 or len(latent) != 1 or latent.dtype.kind != "f":
            raise MediaError(f"{self.features / name}: holds {_told(latent)}; expected a latent, floats (1, C, H, W)")
        if label.shape != (1,) or label.dtype.kind not in "iu":
            raise MediaError(f"{self.labels / name}: holds {_told(label)}; expected a class, one whole number (1,)")
        if not np.isfinite(latent).all():
            raise MediaError(f"{self.features / name}: holds NaN or infinity; make it again")
        number = int(label[0])
        if number < 0 or (classes is not None and number >= classes):
            known = "0 or more" if classes is None else f"0 to {classes - 1}"
            raise MediaError(f"{self.labels / name}: class {number}; the model knows {known}")
        return Feature(latent[0].astype(np.float32), number)


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
        raise MediaError(
            f"{path}: cannot be read as {ENDING} ({' '.join(str(error).split())}); make it again"
        ) from error
    if not isinstance(array, np.ndarray):
        raise MediaError(f"{path}: holds several arrays; expected one")
    return array


def _told(array: np.ndarray) -> str:
    return f"{array.dtype} {array.shape}"
