"""Files that torch.load(weights_only=True) reads: the zip format, with a description written opcode by opcode.

Source: torch/serialization.py; Python's pickletools for the opcodes of protocol 2.
"""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import Any

from ...core.io.weights import StreamedTensors
from ..readers.torch_types import STORAGE_DTYPES, TORCH_DTYPES

ROOT = "archive"
ALIGNMENT = 64
"""torch puts every storage at a multiple of this, so that it can be mapped."""
_CLASSES = {dtype: name for name, dtype in STORAGE_DTYPES.items() if not name.endswith("UntypedStorage")}
DTYPES = {dtype: name for name, dtype in TORCH_DTYPES.items()}
_LOCAL_HEADER = 30
_ZIP64_EXTRA = 20
_PADDING = b"FB"
"""Kind of the extra field that fills the gap, the same as torch's."""


def write_zip(path: Path, tensors: StreamedTensors) -> None:
    """Write a dictionary of all tensors, whose dtypes are in DTYPES."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        _add(archive, "data.pkl", iter([_description(tensors)]))
        _add(archive, "byteorder", iter([b"little"]))
        for number, name in enumerate(tensors):
            _add(archive, f"data/{number}", (chunk.data for chunk in tensors.chunks(name)))
        _add(archive, "version", iter([b"3\n"]))


def _add(archive: zipfile.ZipFile, name: str, chunks: Iterator[Any]) -> None:
    info = zipfile.ZipInfo(f"{ROOT}/{name}")
    assert archive.fp is not None
    start = archive.fp.tell() + _LOCAL_HEADER + len(info.filename) + _ZIP64_EXTRA + 4
    info.extra = _PADDING + struct.pack("<H", -start % ALIGNMENT) + b"Z" * (-start % ALIGNMENT)
    with archive.open(info, "w", force_zip64=True) as member:
        for chunk in chunks:
            member.write(chunk)


def _description(tensors: StreamedTensors) -> bytes:
    parts = [b"\x80\x02}("]
    for number, name in enumerate(tensors):
        shape, dtype = tensors.shape(name), tensors.dtype(name)
        strides = [prod(shape[axis + 1 :]) for axis in range(len(shape))]
        is_typed = dtype in _CLASSES
        kind = f"torch {_CLASSES[dtype]}" if is_typed else "torch.storage UntypedStorage"
        count = prod(shape) * (1 if is_typed else dtype.itemsize)
        storage = b"(" + _text("storage") + _global(kind) + _text(str(number)) + _text("cpu") + _number(count) + b"tQ"
        window = _number(0) + _tuple(shape) + _tuple(strides) + b"\x89" + _global("collections OrderedDict") + b")R"
        if is_typed:
            made = _global("torch._utils _rebuild_tensor_v2") + b"(" + storage + window + b"tR"
        else:
            typed = _global(f"torch {DTYPES[dtype]}")
            made = _global("torch._utils _rebuild_tensor_v3") + b"(" + storage + window + typed + b"tR"
        parts.append(_text(name) + made)
    return b"".join([*parts, b"u."])


def _global(name: str) -> bytes:
    return b"c" + name.replace(" ", "\n").encode() + b"\n"


def _text(text: str) -> bytes:
    raw = text.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(raw)) + raw


def _number(value: int) -> bytes:
    if value < 2**31:
        return b"J" + struct.pack("<i", value)
    return b"\x8a\x08" + struct.pack("<q", value)


def _tuple(values: Any) -> bytes:
    return b"(" + b"".join(map(_number, values)) + b"t"
