"""The header of a safetensors file: eight bytes of length, a JSON object, then the bytes of the tensors back to back.

Read and written here without the safetensors library, because its errors do not say which tensor of which file is
wrong and how to mend it, and because its numpy side cannot return bfloat16. Source: the format's description,
github.com/huggingface/safetensors.
"""

from __future__ import annotations

import json
import os
import struct
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from ..errors import CheckpointError
from ..printable import short_name
from .files import open_regular
from .first_bytes import FOREIGN, FOREIGN_STARTS, NUM_BYTES, other_kind

MAX_HEADER_BYTES = 16_000_000
"""Enough for a hundred thousand tensors, more than any real file has; a hostile one takes forty times as much as
Python's objects."""
LENGTH_BYTES = 8
MAX_DIMENSIONS = 32
"""numpy 1 allows no more."""
METADATA = "__metadata__"
"""Of the header's entries the one that is no tensor."""

DTYPES: Mapping[str, np.dtype[Any]] = {
    "BOOL": np.dtype(np.bool_),
    "U8": np.dtype(np.uint8),
    "I8": np.dtype(np.int8),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
    "U16": np.dtype(np.uint16),
    "I16": np.dtype(np.int16),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "U32": np.dtype(np.uint32),
    "I32": np.dtype(np.int32),
    "F32": np.dtype(np.float32),
    "C64": np.dtype(np.complex64),
    "U64": np.dtype(np.uint64),
    "I64": np.dtype(np.int64),
    "F64": np.dtype(np.float64),
}
CODES = {dtype: code for code, dtype in DTYPES.items()}

_SHORT = "the file is cut off or damaged; copy or download it again"


@dataclass(frozen=True)
class Entry:
    """One tensor of a file."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    offset: int
    """Bytes from the start of the file."""

    @property
    def nbytes(self) -> int:
        return prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True)
class Header:
    """What a file holds, without the tensors' values."""

    entries: Mapping[str, Entry]
    metadata: Mapping[str, str]


def read_header(path: Path) -> Header:
    """Read and check the header of one file; nothing of it is trusted.

    Raises: CheckpointError when the file is missing, cut off, or its header does not describe exactly the bytes that
    follow it.
    """
    raw, size = _read_raw(path)
    table = _parse(path, raw)
    start = LENGTH_BYTES + len(raw)
    metadata = _metadata(path, table.pop(METADATA, {}))
    entries = {name: _entry(path, name, described, start) for name, described in table.items()}
    _check_cover(path, entries, start, size)
    return Header(entries, metadata)


def build_header(tensors: Iterable[tuple[str, tuple[int, ...], np.dtype[Any]]], metadata: Mapping[str, str]) -> bytes:
    """Length and header of a file whose tensors follow in this order, padded with blanks to a multiple of eight."""
    table: dict[str, Any] = {METADATA: dict(metadata)} if metadata else {}
    offset = 0
    for name, shape, dtype in tensors:
        end = offset + prod(shape) * dtype.itemsize
        table[name] = {"dtype": CODES[dtype], "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    header = json.dumps(table, separators=(",", ":"), ensure_ascii=False).encode()
    header += b" " * (-len(header) % 8)
    return struct.pack("<Q", len(header)) + header


def refuse_tensor(where: str, name: str, shape: Sequence[int], dtype: np.dtype[Any]) -> None:
    """Raise CheckpointError where a tensor cannot be written so that it is read again; `where` is what errors begin
    with.
    """
    if name == METADATA:
        raise CheckpointError(f"{where}: no tensor can be called {name!r}, which safetensors keeps for itself")
    if not is_text(name):
        raise CheckpointError(f"{where}: the name of tensor '{short_name(name)}' is not valid text; rename it")
    if not is_possible(shape, dtype):
        raise CheckpointError(f"{where}: tensor '{short_name(name)}' has the impossible shape {_shown(list(shape))}")


def is_text(name: str) -> bool:
    """Whether a name can be written in UTF-8: half a surrogate pair, which JSON can hold, cannot."""
    return not any("\ud800" <= character <= "\udfff" for character in name)


def is_possible(shape: Sequence[int], dtype: np.dtype[Any]) -> bool:
    """Whether numpy has arrays of that shape; it limits empty ones by their other axes."""
    return len(shape) <= MAX_DIMENSIONS and prod(size for size in shape if size) * dtype.itemsize < 2**63


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """JSON object hook that refuses a key written twice; json itself would silently keep the last one."""
    table = dict(pairs)
    if len(table) < len(pairs):
        counts = Counter(key for key, _ in pairs)
        twice = next(key for key, count in counts.items() if count > 1)
        raise ValueError(f"'{short_name(twice)}' is written twice")
    return table


def _read_raw(path: Path) -> tuple[bytes, int]:
    """The JSON text of the header and the size of the whole file."""
    try:
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            _refuse_other_kinds(path, file.read(NUM_BYTES))
            file.seek(0)
            length = file.read(LENGTH_BYTES)
            if len(length) < LENGTH_BYTES:
                raise CheckpointError(f"{path}: has {size} bytes, too few for a safetensors file; {_SHORT}")
            (num_bytes,) = struct.unpack("<Q", length)
            if num_bytes > MAX_HEADER_BYTES:
                raise CheckpointError(f"{path}: announces a header of {num_bytes} bytes, so it is no safetensors file")
            if num_bytes > size - LENGTH_BYTES:
                raise CheckpointError(f"{path}: has {size} bytes but announces a header of {num_bytes}; {_SHORT}")
            return file.read(num_bytes), size
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror or error})") from error


def _refuse_other_kinds(path: Path, start: bytes) -> None:
    """Raise CheckpointError where the first bytes tell that a file is of another kind."""
    if start[LENGTH_BYTES:][:1] == b"{":
        return
    kind = FOREIGN if start.startswith(FOREIGN_STARTS) else other_kind(path, start)
    if kind is not None:
        raise CheckpointError(f"{path}: {kind}")


def _parse(path: Path, raw: bytes) -> dict[str, Any]:
    if not raw.startswith(b"{"):
        raise CheckpointError(f"{path}: its header does not begin with '{{', so it is no safetensors file")
    try:
        table = json.loads(raw.decode("utf-8"), object_pairs_hook=unique_keys)
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{path}: its header is not UTF-8 text at byte {error.start}; {_SHORT}") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: its header is not valid JSON ({error}); {_SHORT}") from error
    for name in table:
        if not is_text(name):
            raise CheckpointError(f"{path}: the name of tensor '{short_name(name)}' is not valid text; {_SHORT}")
    return table


def _metadata(path: Path, described: Any) -> dict[str, str]:
    if not isinstance(described, dict) or not all(isinstance(value, str) for value in described.values()):
        raise CheckpointError(f"{path}: __metadata__ in its header must be an object of texts")
    return described


def _entry(path: Path, name: str, described: Any, start: int) -> Entry:
    """One line of the table, checked by itself."""

    def wrong(why: str) -> CheckpointError:
        return CheckpointError(f"{path}: tensor '{short_name(name)}': {why}")

    if not isinstance(described, dict) or set(described) != {"dtype", "shape", "data_offsets"}:
        raise wrong("its header entry must have dtype, shape and data_offsets and nothing else")
    code, shape, offsets = described["dtype"], described["shape"], described["data_offsets"]
    dtype = DTYPES.get(code) if isinstance(code, str) else None
    if dtype is None:
        raise wrong(f"unknown dtype {_shown(code)}; known are {', '.join(DTYPES)}")
    if not _are_sizes(shape) or not is_possible(shape, dtype):
        raise wrong(f"impossible shape {_shown(shape)}")
    if not _are_sizes(offsets) or len(offsets) != 2:
        raise wrong(f"data_offsets must be two byte counts, not {_shown(offsets)}")
    entry = Entry(tuple(shape), dtype, start + offsets[0])
    if offsets[1] - offsets[0] != entry.nbytes:
        raise wrong(
            f"shape {shape} of {code} takes {entry.nbytes} bytes, but data_offsets {offsets} span "
            f"{offsets[1] - offsets[0]}"
        )
    return entry


def _check_cover(path: Path, entries: Mapping[str, Entry], start: int, size: int) -> None:
    """The tensors must fill the rest of the file without holes, overlaps or a remainder."""
    position, before = start, None
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].offset, item[1].nbytes)):
        if entry.offset != position:
            what = "overlaps with" if entry.offset < position else "leaves a hole after"
            other = "the header" if before is None else f"tensor '{short_name(before)}'"
            raise CheckpointError(
                f"{path}: tensor '{short_name(name)}' {what} {other}; the header is wrong, download or convert "
                "the file again"
            )
        position, before = entry.offset + entry.nbytes, name
    if position > size:
        raise CheckpointError(
            f"{path}: is cut off: {position} bytes are announced, {size} are there; copy or download it again"
        )
    if position < size:
        raise CheckpointError(
            f"{path}: {size - position} bytes at its end belong to no tensor; the file is damaged, download it again"
        )


def _are_sizes(values: Any) -> bool:
    return isinstance(values, list) and all(type(value) is int and 0 <= value < 2**63 for value in values)


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=True)
    return text if len(text) <= 60 else f"{text[:60]}..."
