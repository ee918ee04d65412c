"""Checkpoints that mindspore.load_checkpoint reads; the format is described beside the reader."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from pathlib import Path

import numpy as np

from ...core.io.weights import StreamedTensors
from ..readers.mindspore_files import TYPES

SLICE_BYTES = 512 << 20
"""Where MindSpore cuts a tensor into several values."""
KINDS = {dtype: kind for kind, dtype in TYPES.items()}
_VALUE, _TAG, _TENSOR = b"\x0a", b"\x0a", b"\x12"
_DIM, _KIND, _CONTENT = b"\x08", b"\x12", b"\x1a"


def write_ckpt(path: Path, tensors: StreamedTensors) -> None:
    """Write all tensors, whose dtypes are in KINDS, in their order."""
    with path.open("wb") as file:
        for name in tensors:
            shape, dtype = tensors.shape(name), tensors.dtype(name)
            left = prod(shape) * dtype.itemsize
            chunks = _Joined(tensors.chunks(name))
            while True:
                size = min(left, SLICE_BYTES)
                file.write(_head(name, shape, KINDS[dtype], size))
                for part in chunks.take(size):
                    file.write(part.data)
                left -= size
                if not left:
                    break
            assert chunks.is_empty(), f"{name} is not what it was described as"


def _head(name: str, shape: tuple[int, ...], kind: str, size: int) -> bytes:
    """Everything of a value before its content of `size` bytes."""
    head = b"".join(_DIM + _varint(axis) for axis in shape) + _sized(_KIND, kind.encode())
    head += _CONTENT + _varint(size)
    tag = _sized(_TAG, name.encode())
    tensor = _TENSOR + _varint(len(head) + size) + head
    return _VALUE + _varint(len(tag) + len(tensor) + size) + tag + tensor


def _sized(key: bytes, payload: bytes) -> bytes:
    return key + _varint(len(payload)) + payload


def _varint(value: int) -> bytes:
    coded = bytearray()
    while value > 127:
        coded.append(value & 127 | 128)
        value >>= 7
    coded.append(value)
    return bytes(coded)


class _Joined:
    """Chunks as one run of bytes, taken by count."""

    def __init__(self, chunks: Iterator[np.ndarray]) -> None:
        self._chunks = chunks
        self._rest = np.empty(0, np.uint8)

    def take(self, count: int) -> Iterator[np.ndarray]:
        while count:
            if not self._rest.size:
                self._rest = next(self._chunks)
            part, self._rest = self._rest[:count], self._rest[count:]
            count -= part.size
            yield part

    def is_empty(self) -> bool:
        """Whether nothing is left; this also lets the chunks' maker finish."""
        return not self._rest.size and next(self._chunks, None) is None
