"""Whether pictures show the digits that they were made as: a small classifier, trained on real digits, looks at them.

Its own errors are measured on real digits that it has not seen. Nothing here needs a framework.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .. import random
from ..data.digits import CLASSES, GREYS, SIDE, Digits
from ..errors import MediaError
from ..extras import needs_extra
from ..io.files import read_json
from ..io.images import read_image
from ..printable import short_name
from ..progress import progress

FOLD_SEED, FOLDS = 0, 5
PENALTY, WIDTH = 10.0, 0.001
"""Of the support vectors: of errors, and of the kernel, by digits of 17 greys. As in scikit-learn's own example."""
PICTURES = "*.png"
CLASS = "prompt_in_template"
"""What a sidecar says of it: its number, where the prompt may be a name."""


@dataclass(frozen=True)
class Judgement:
    """What was asked for and what the classifier saw."""

    table: np.ndarray
    """(CLASSES, CLASSES): how often a digit that was asked for (row) was seen as which one (column)."""
    variety: float
    """How far the pictures of a class are from their mean, squared, as a part of what real digits are: near 0 where a
    model makes one picture of a class again and again."""

    @property
    def count(self) -> int:
        """Pictures that were looked at."""
        return int(self.table.sum())

    @property
    def right(self) -> float:
        """The share that was seen as what was asked for."""
        return float(np.trace(self.table) / self.count)


class DigitJudge:
    """The classifier."""

    def __init__(self, real: Digits) -> None:
        """Learn real digits. Raises: PackageMissing without scikit-learn."""
        self._real = real
        self._classifier = _learned(real)

    def __call__(self, asked: Digits) -> Judgement:
        """Look at pictures (N, SIDE, SIDE) uint8, whose labels say what they are to show."""
        return Judgement(_table(self._classifier, asked), _variety(asked, self._real))


def cross_validated(real: Digits) -> Judgement:
    """Of real digits, each of which a classifier looks at that has learned the four fifths without it."""
    shuffled = random.stream(FOLD_SEED, "folds of digits").permutation(len(real.labels))
    folds = np.array_split(shuffled, FOLDS)
    tables = [_table(_learned(real.at(np.setdiff1d(shuffled, fold))), real.at(fold)) for fold in folds]
    return Judgement(np.sum(tables, axis=0), 1.0)


def read_labelled(folder: Path) -> Digits:
    """Pictures with the class that each was made as.

    Where there are sidecars, as `duosora sample` writes them, those that have one, whose prompt is the class; else the
    pictures in a folder for each class.
    Raises: MediaError when there are none, or one is no digit of that size or of no known class.
    """
    if not folder.is_dir():
        raise MediaError(f"{folder}: there is no such folder of pictures")
    files = [file for file in sorted(folder.rglob(PICTURES)) if not file.name.startswith(".")]
    if not files:
        raise MediaError(f"{folder}: holds no pictures ({PICTURES}); duosora sample writes them")
    sampled = [file for file in files if _sidecar(file).exists()]  # the others are grids of these
    labels = [_prompted(_sidecar(file)) for file in sampled] or [_class_folder(file) for file in files]
    pictures = [_read(file) for file in progress(sampled or files, "reading", "picture")]
    return Digits(np.stack(pictures), np.array(labels))


def _sidecar(file: Path) -> Path:
    return file.with_suffix(".json")


def _prompted(sidecar: Path) -> int:
    try:
        said: Any = read_json(sidecar)
    except (OSError, ValueError) as error:
        raise MediaError(f"{sidecar}: cannot be read as JSON ({error})") from error
    return _digit(said.get(CLASS) if isinstance(said, dict) else None, f"{sidecar}: {CLASS}")


def _class_folder(file: Path) -> int:
    return _digit(file.parent.name, f"{file}: its folder")


def _read(file: Path) -> np.ndarray:
    colours = read_image(file)
    if colours.shape[:2] != (SIDE, SIDE):
        height, width = colours.shape[:2]
        raise MediaError(f"{file}: has {width}x{height} pixels; a digit has {SIDE}x{SIDE}")
    return np.rint(colours.mean(-1)).astype(np.uint8)


def _digit(said: object, where: str) -> int:
    if not isinstance(said, str) or not re.fullmatch(r"\d", said, re.ASCII):
        raise MediaError(f"{where}: is {short_name(repr(said))}; expected the class of a digit, 0 to {CLASSES - 1}")
    return int(said)


def _learned(real: Digits) -> Any:
    with needs_extra("lesson", "judging handwritten digits"):
        from sklearn.svm import SVC
    return SVC(C=PENALTY, gamma=WIDTH).fit(_flat(real.pictures), real.labels)


def _table(classifier: Any, asked: Digits) -> np.ndarray:
    table = np.zeros((CLASSES, CLASSES), np.int64)
    np.add.at(table, (asked.labels, classifier.predict(_flat(asked.pictures))), 1)
    return table


def _flat(pictures: np.ndarray) -> np.ndarray:
    """As the data set itself has them: (N, SIDE * SIDE), from 0 to GREYS."""
    return pictures.reshape(len(pictures), -1) * (GREYS / 255)


def _variety(asked: Digits, real: Digits) -> float:
    """The mean over the classes that were asked for."""
    return float(np.mean([_spread(asked, label) / _spread(real, label) for label in set(asked.labels)]))


def _spread(digits: Digits, label: int) -> float:
    return float(_flat(digits.pictures[digits.labels == label]).var(0).sum())
