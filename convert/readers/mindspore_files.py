"""Checkpoints of MindSpore without MindSpore or protobuf.

The format is one protobuf message: Checkpoint {repeated Value value = 1}, Value {string tag = 1; TensorProto
tensor = 2}, TensorProto {repeated int64 dims = 1; string tensor_type = 2; bytes tensor_content = 3}. A tensor of more
than 512 MiB comes as several Values of one tag, whose contents are joined. A scalar has no dims. At the end there may
be "crc_num" and ten bytes. Source: mindspore/train/serialization.py and checkpoint.proto.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np

from ...core.errors import CheckpointError
from ...core.io.files import open_regular
from .stored import MAX_TENSORS, Piece, StoredTensor

TYPES: Mapping[str, np.dtype[Any]] = MappingProxyType(
    {
        "Float64": np.dtype(np.float64),
        "Float32": np.dtype(np.float32),
        "Float16": np.dtype(np.float16),
        "BFloat16": np.dtype(ml_dtypes.bfloat16),
        "Int64": np.dtype(np.int64),
        "Int32": np.dtype(np.int32),
        "Int16": np.dtype(np.int16),
        "Int8": np.dtype(np.int8),
        "UInt64": np.dtype(np.uint64),
        "UInt32": np.dtype(np.uint32),
        "UInt16": np.dtype(np.uint16),
        "UInt8": np.dtype(np.uint8),
        "Bool": np.dtype(np.bool_),
        "Complex64": np.dtype(np.complex64),
    }
)
FIRST_BYTE = 0x0A
"""Of the field `value`."""
CRC_MARK = b"crc_num"
CRC_BYTES = len(CRC_MARK) + 10

_MAX_TEXT = 4096
_MAX_TEXTS = 64 << 20
_MAX_DIMENSIONS = 32
_MAX_FIELDS = 64
_VARINT, _BYTES = 0, 2


@dataclass
class _Value:
    dims: list[int] = field(default_factory=list)
    kind: str = ""
    content: tuple[int, int] | None = None


def read_ckpt(path: Path) -> dict[str, Any]:
    """Names to StoredTensors, or to texts where somebody saved a text; no number of a tensor is read.

    Raises: CheckpointError when the file is damaged, encrypted, or holds something else than tensors.
    """
    try:
        with open_regular(path) as file:
            return _Reader(path, file, os.fstat(file.fileno()).st_size).read()
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror or error})") from error


@dataclass
class _Reader:
    path: Path
    file: BinaryIO
    size: int
    texts: int = 0
    """Bytes of all names so far."""

    def fail(self, what: str) -> CheckpointError:
        return CheckpointError(f"{self.path}: {what}; copy or download the file again")

    def read(self) -> dict[str, Any]:
        values: dict[str, list[_Value]] = {}
        for number, wire, start, end in self.fields(0, self.message_end(), MAX_TENSORS, "tensors"):
            if number != 1 or wire != _BYTES:
                raise self.fail("is no checkpoint of MindSpore, or an encrypted one")
            tag, value = self.value(start, end)
            values.setdefault(tag, []).append(value)
        return {tag: self.joined(tag, parts) for tag, parts in values.items()}

    def message_end(self) -> int:
        self.file.seek(max(self.size - CRC_BYTES, 0))
        return self.size - CRC_BYTES if self.file.read(len(CRC_MARK)) == CRC_MARK else self.size

    def value(self, start: int, end: int) -> tuple[str, _Value]:
        tag, value = None, None
        for number, wire, first, last in self.fields(start, end, _MAX_FIELDS, "fields of a tensor"):
            if number == 1 and wire == _BYTES:
                tag = self.text(first, last)
            elif number == 2 and wire == _BYTES:
                value = self.tensor(first, last)
            else:
                raise self.fail(f"{tag or 'a value'} is no tensor (field {number}); only tensors are read")
        if tag is None or value is None:
            raise self.fail(f"{tag or 'a value'} has no tensor; only tensors are read")
        return tag, value

    def tensor(self, start: int, end: int) -> _Value:
        value = _Value()
        for number, wire, first, last in self.fields(start, end, _MAX_FIELDS, "fields of a tensor"):
            if number == 1 and wire == _VARINT:
                value.dims.append(first)
            elif number == 1 and wire == _BYTES:
                place = first
                while place < last and len(value.dims) <= _MAX_DIMENSIONS:
                    size, place = self.varint(place, last)
                    value.dims.append(size)
            elif number == 2 and wire == _BYTES:
                value.kind = self.text(first, last)
            elif number == 3 and wire == _BYTES:
                value.content = (first, last)
            else:
                raise self.fail("is no checkpoint of MindSpore")
            if len(value.dims) > _MAX_DIMENSIONS:
                raise self.fail("holds a tensor of too many axes")
        return value

    def joined(self, tag: str, parts: list[_Value]) -> Any:
        """The values of one name as one tensor."""
        first = parts[0]
        spans = [part.content for part in parts if part.content is not None]
        if first.kind == "str":
            return self.text(*spans[0]) if spans else ""
        dtype = TYPES.get(first.kind)
        if dtype is None:
            raise self.fail(f"tensor {tag!r} has the unknown type {first.kind!r}")
        if any((part.dims, part.kind) != (first.dims, first.kind) for part in parts):
            raise self.fail(f"the slices of tensor {tag!r} do not agree")
        pieces = tuple(Piece(self.path, start, end - start) for start, end in spans)
        held = sum(piece.nbytes for piece in pieces)
        shape = tuple(first.dims)
        if shape == (0,) and held == dtype.itemsize:  # a scalar, as older versions wrote it
            shape = ()
        if prod(shape) * dtype.itemsize != held:
            raise self.fail(f"tensor {tag!r} of shape {list(shape)} {first.kind} has {held} bytes")
        return StoredTensor(shape, dtype, pieces)

    def fields(self, start: int, end: int, limit: int, what: str) -> Iterator[tuple[int, int, int, int]]:
        """Field number, wire type, and the value of a number or the span of bytes."""
        for count in itertools.count(1):
            if start >= end:
                return
            if count > limit:
                raise self.fail(f"holds more than {limit} {what}, no checkpoint does")
            key, start = self.varint(start, end)
            number, wire = key >> 3, key & 7
            first, start = self.varint(start, end)
            if wire == _VARINT:
                yield number, wire, first, start
            elif wire == _BYTES:
                if first > end - start:
                    raise self.fail("is cut off")
                yield number, wire, start, start + first
                start += first
            else:
                raise self.fail("is no checkpoint of MindSpore, or an encrypted one")

    def varint(self, start: int, end: int) -> tuple[int, int]:
        self.file.seek(start)
        raw = self.file.read(min(10, end - start))
        value = 0
        for index, byte in enumerate(raw):
            value |= (byte & 127) << (7 * index)
            if byte < 128:
                if value >= 2**63:
                    break
                return value, start + index + 1
        raise self.fail("is cut off or no checkpoint of MindSpore")

    def text(self, start: int, end: int) -> str:
        self.texts += end - start
        if end - start > _MAX_TEXT or self.texts > _MAX_TEXTS:
            raise self.fail(f"holds a name of {end - start} bytes, and names of {self.texts} bytes before its end")
        self.file.seek(start)
        try:
            return self.file.read(end - start).decode("utf-8")
        except UnicodeDecodeError as error:
            raise self.fail("holds a name that is no UTF-8") from error
