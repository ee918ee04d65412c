"""Tensors where they lie in files of other formats, as the rest of duosora reads weights: one at a time, by name."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ...core.errors import CheckpointError
from ...core.io.files import open_regular

CHUNK_BYTES = 4 << 20
"""Bytes that are read, hashed and written at a time."""
MAX_EXPANDED_BYTES = 64 << 20
"""Most that a tensor may be larger than what is stored of it (an axis that repeats one number)."""
MAX_TENSORS = 100_000
"""Of one file. The largest training states have some thousands; a hostile one must not take minutes or a gigabyte."""
MAX_REPEATS = 16
"""How often the tensors of a file may pass over its bytes; tied weights and interleaved ones do so a few times."""
WINDOW_BYTES = 64 << 20
"""Bytes that are read at a time of a window on something larger."""


class TensorSource(Protocol):
    """Tensors by name, in the order of the file: what core.io.weights.WeightsReader offers, and Stored."""

    source: str

    def __iter__(self) -> Iterator[str]: ...

    def __len__(self) -> int: ...

    def shape(self, name: str) -> tuple[int, ...]: ...

    def dtype(self, name: str) -> np.dtype[Any]: ...

    def read_bytes(self, name: str, start: int, count: int) -> np.ndarray:
        """A part of a tensor's bytes in C order, uint8. Raises CheckpointError when the file has become shorter."""

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors together."""


@dataclass(frozen=True)
class Piece:
    """Bytes of a file."""

    path: Path
    offset: int
    nbytes: int
    data: bytes | None = None
    """What the offset counts from, where it is in memory already; None where the file has to be read."""


@dataclass(frozen=True)
class StoredTensor:
    """A tensor whose bytes are the pieces joined, or, with strides, a window on them."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    pieces: tuple[Piece, ...]
    strides: tuple[int, ...] | None = None
    """In elements; None where the elements lie in C order."""
    held: np.dtype[Any] | None = None
    """What the pieces hold, where it is cast to `dtype`."""
    is_negative: bool = False
    """Whether the tensor is the negative of what the pieces hold."""
    is_conjugate: bool = False

    @property
    def nbytes(self) -> int:
        return prod(self.shape) * self.dtype.itemsize

    @property
    def held_dtype(self) -> np.dtype[Any]:
        return self.held or self.dtype

    def values(self, raw: np.ndarray) -> np.ndarray:
        """The tensor's bytes from a part of the pieces' bytes, both uint8."""
        if not self.held and not self.is_negative and not self.is_conjugate:
            return raw
        values = raw.view(self.held_dtype)
        if self.is_conjugate:
            values = np.conj(values)
        if self.is_negative:
            values = -values
        with np.errstate(over="ignore", invalid="ignore"):
            return values.astype(self.dtype, copy=False).view(np.uint8)


def view_of(
    where: str, piece: Piece, shape: tuple[int, ...], strides: tuple[int, ...], offset: int, dtype: np.dtype[Any]
) -> StoredTensor:
    """A window on a storage; offset and strides count elements. Raises CheckpointError when it reaches outside."""
    width = dtype.itemsize
    if 0 in shape:
        return StoredTensor(shape, dtype, ())
    span = 1 + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    if (offset + span) * width > piece.nbytes:
        raise CheckpointError(
            f"{where}: its shape {shape} needs {(offset + span) * width} bytes of its storage, "
            f"{piece.nbytes} are there; the file is damaged, copy or download it again"
        )
    if prod(shape) * width > piece.nbytes + MAX_EXPANDED_BYTES:
        raise CheckpointError(f"{where}: its shape {shape} repeats stored numbers too often for a weight")
    held = replace(piece, offset=piece.offset + offset * width, nbytes=span * width)
    return StoredTensor(shape, dtype, (held,), None if _is_plain(shape, strides) else strides)


def _is_plain(shape: tuple[int, ...], strides: tuple[int, ...]) -> bool:
    expected = 1
    for size, stride in zip(reversed(shape), reversed(strides), strict=True):
        if size > 1 and stride != expected:
            return False
        expected *= size
    return True


def check_repeats(source: str, tensors: Iterable[StoredTensor]) -> None:
    """Raises CheckpointError where a small file would become a huge one, or be read for days."""
    held: set[Path] = set()
    read = 0
    for tensor in tensors:
        held.update(piece.path for piece in tensor.pieces)
        read += max(tensor.nbytes, sum(piece.nbytes for piece in tensor.pieces))
    size = sum(path.stat().st_size for path in held)
    if read > MAX_REPEATS * size + MAX_EXPANDED_BYTES:
        raise CheckpointError(
            f"{source}: its tensors use {read} bytes out of a file of {size}; they repeat stored numbers too often "
            "to be weights"
        )


class Stored(Mapping[str, np.ndarray]):
    """The tensors of a file of another format by name. Each access reads anew."""

    def __init__(self, source: str, tensors: Mapping[str, StoredTensor]) -> None:
        self.source = source
        """The file as the user named it, for error messages."""
        self._tensors = dict(tensors)
        self._gathered: tuple[str, np.ndarray] | None = None

    def __getitem__(self, name: str) -> np.ndarray:
        tensor = self._tensors[name]
        return self.read_bytes(name, 0, tensor.nbytes).view(tensor.dtype).reshape(tensor.shape)

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        return self._tensors[name].shape

    def dtype(self, name: str) -> np.dtype[Any]:
        return self._tensors[name].dtype

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in self._tensors.values())

    def place(self, name: str) -> StoredTensor:
        """Where a tensor lies: equal for two names of one tensor."""
        return self._tensors[name]

    def read_bytes(self, name: str, start: int, count: int) -> np.ndarray:
        """A part of a tensor's bytes in C order, uint8. Raises CheckpointError when the file has become shorter."""
        tensor = self._tensors[name]
        first, last = (place // tensor.dtype.itemsize * tensor.held_dtype.itemsize for place in (start, start + count))
        return tensor.values(self._read_held(name, tensor, first, last - first))

    def _read_held(self, name: str, tensor: StoredTensor, start: int, count: int) -> np.ndarray:
        """A part of what the pieces hold, in C order."""
        if tensor.strides is not None:
            return self._gather(name, tensor)[start : start + count]
        parts, position, end = [], 0, start + count
        for piece in tensor.pieces:
            first, last = max(start, position), min(end, position + piece.nbytes)
            if first < last:
                parts.append(_read(piece, first - position, last - first, name))
            position += piece.nbytes
        return parts[0] if len(parts) == 1 else np.concatenate([np.empty(0, np.uint8), *parts])

    def _gather(self, name: str, tensor: StoredTensor) -> np.ndarray:
        """The bytes of a window in C order. The last one is kept, for the chunks of it that follow."""
        if self._gathered is None or self._gathered[0] != name:
            self._gathered = None
            (piece,) = tensor.pieces
            assert tensor.strides is not None
            array = np.empty(tensor.shape, tensor.held_dtype)
            _read_window(array, piece, 0, tensor.strides, max(array.nbytes, WINDOW_BYTES), name)
            self._gathered = name, array.reshape(-1).view(np.uint8)
        return self._gathered[1]


def _read_window(array: np.ndarray, piece: Piece, start: int, strides: tuple[int, ...], limit: int, name: str) -> None:
    """Fill an array from a window that begins `start` elements into a piece, with at most `limit` bytes at a time: a
    column of a large matrix touches all of it.
    """
    width = array.itemsize
    reaches = [(size - 1) * stride for size, stride in zip(array.shape, strides, strict=True)]
    span = (1 + sum(reaches)) * width
    if span <= limit:
        flat = _read(piece, start * width, span, name).view(array.dtype)
        steps = [stride * width for stride in strides]
        array[...] = np.lib.stride_tricks.as_strided(flat, array.shape, steps, writeable=False)
        return
    axis = reaches.index(max(reaches))
    half = array.shape[axis] // 2
    first, second = np.split(array, [half], axis)
    _read_window(first, piece, start, strides, limit, name)
    _read_window(second, piece, start + half * strides[axis], strides, limit, name)


def _read(piece: Piece, start: int, count: int, name: str) -> np.ndarray:
    """Bytes of a piece."""
    if piece.data is not None:
        return np.frombuffer(piece.data, np.uint8, count, piece.offset + start)
    buffer = np.empty(count, np.uint8)
    view, filled = buffer.data, 0
    try:
        with open_regular(piece.path) as file:
            file.seek(piece.offset + start)
            while filled < count:
                got = file.readinto(view[filled:])
                if not got:
                    raise CheckpointError(f"{piece.path}: ends inside tensor {name!r}; copy or download it again")
                filled += got
    except OSError as error:
        raise CheckpointError(f"{piece.path}: tensor {name!r} cannot be read ({error.strerror or error})") from error
    return buffer
