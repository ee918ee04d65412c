"""The handwritten digits that scikit-learn ships, as pictures: what the lesson trains on and is judged by.

1,797 digits of 13 people, scaled down to 8 x 8 pixels of 17 greys. Source: Alpaydin and Kaynak 1998, "Optical
Recognition of Handwritten Digits", UCI Machine Learning Repository.
"""

from __future__ import annotations

import os
import secrets
import shutil
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from ..errors import MediaError
from ..extras import needs_extra
from ..io.files import TEMPORARY
from ..progress import progress

SIDE, CLASSES = 8, 10
GREYS = 16
"""Of the lightest, 0 of the darkest."""


class Digits(NamedTuple):
    """Pictures of digits."""

    pictures: np.ndarray
    """(N, SIDE, SIDE) uint8, light on dark."""
    labels: np.ndarray
    """(N,) int64, what each shows."""

    def at(self, places: np.ndarray) -> Digits:
        """Some of them."""
        return Digits(self.pictures[places], self.labels[places])


def read_digits() -> Digits:
    """All that scikit-learn has. Raises: PackageMissing without it."""
    with needs_extra("lesson", "reading the handwritten digits"):
        from sklearn.datasets import load_digits
    found = load_digits()
    pictures = np.rint(found.images * (255 / GREYS)).astype(np.uint8)
    return Digits(pictures, found.target.astype(np.int64))


def write_digits(digits: Digits, folder: Path) -> None:
    """Write pictures into a folder for each class: `folder/7/0042.png` is the 42nd, a seven. All are there, or none.

    Raises: MediaError when the folder is there already, or cannot be written.
    """
    if os.path.lexists(folder):
        raise MediaError(f"{folder}: exists already and is kept; choose another name, or use what it holds")
    temporary = folder.with_name(f"{TEMPORARY}{secrets.token_hex(4)}")
    try:
        for label in range(CLASSES):
            (temporary / str(label)).mkdir(parents=True)
        pairs = list(enumerate(zip(digits.pictures, digits.labels, strict=True)))
        for number, (picture, label) in progress(pairs, "writing digits", "picture"):
            Image.fromarray(picture).save(temporary / str(label) / f"{number:04d}.png")
        temporary.rename(folder)
    except OSError as error:
        raise MediaError(f"{folder}: cannot be written ({error.strerror or error})") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
