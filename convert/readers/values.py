"""What the pickle of a checkpoint describes, as plain data; nothing of these is an object of the file."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Global:
    """A name that the file mentions."""

    name: str

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class Storage:
    """A run of numbers."""

    key: str
    dtype: np.dtype[Any]
    numel: int
    """As announced; what the file holds is checked where it is read."""
    start: int = 0
    """Where a view of another storage begins, in elements (legacy files)."""
    data: bytes | None = None
    """The bytes of an array of numpy, which stand in the pickle; None where they lie outside of it."""


@dataclass(frozen=True)
class TensorView:
    """A tensor as torch describes it: a window on a storage. Offsets and strides count elements."""

    storage: Storage
    dtype: np.dtype[Any]
    """Of the numbers in the storage."""
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    becomes: np.dtype[Any] | None = None
    """What torch casts the numbers to when it loads them; None for no cast."""
    is_negative: bool = False
    """Whether torch takes the negative of the stored numbers."""
    is_conjugate: bool = False


@dataclass
class Namespace:
    """What an argparse.Namespace holds."""

    values: dict[str, Any] = field(default_factory=dict)


@dataclass(eq=False)
class Opaque:
    """Something that is noted by name and not looked into."""

    name: str
    parts: list[Any] = field(default_factory=list, repr=False)
    """What it was made of."""

    def __str__(self) -> str:
        return self.name


@dataclass(eq=False)
class NumpyType:
    """A dtype of numpy: a letter and a width, and the order of bytes."""

    code: str
    order: str = "="

    def dtype(self) -> np.dtype[Any] | None:
        """None for objects, records, and numbers in an order of bytes that is not read."""
        is_plain = self.code[:1] in tuple("biufc") and self.code[1:] in ("1", "2", "4", "8")
        return np.dtype(self.code) if is_plain and self.order != ">" else None


@dataclass(eq=False)
class Array:
    """An array of numpy."""

    dtype: np.dtype[Any] | None = None
    shape: tuple[int, ...] = ()
    is_fortran: bool = False
    data: bytes | None = field(default=None, repr=False)

    def __str__(self) -> str:
        return f"array of numpy, {self.dtype} {list(self.shape)}"


@dataclass(frozen=True)
class Unread:
    """A tensor, or something with tensors in it, that is not read."""

    name: str
    """Of what it was made by."""
