"""Sums of what was written, tensor by tensor, kept beside the weights; and the check of weights against them."""

from __future__ import annotations

import hashlib
import json
import queue
import threading
from collections.abc import Callable, Iterator, Mapping
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from ..core.errors import CheckpointError
from ..core.io.files import atomic_write, read_text
from .begun import Begun
from .lora import Merged
from .naming import Named
from .readers.stored import CHUNK_BYTES, TensorSource
from .writers import is_file_name

SUMS_SUFFIX = ".sums.json"
_WAITING_CHUNKS = 4
_SMALL_BYTES = 1 << 18
"""A thread for less would cost more than it saves."""
_ENTRY_BYTES = 2048
"""More than a tensor of 32 axes takes in the table, without its name."""


class Summed:
    """Named tensors that are hashed by a second thread while they are written."""

    def __init__(self, tensors: Named | Begun | Merged, tell: Callable[[int], object]) -> None:
        self._tensors, self._tell = tensors, tell
        self.sums: dict[str, str] = {}

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        return self._tensors.shape(name)

    def dtype(self, name: str) -> np.dtype[Any]:
        return self._tensors.dtype(name)

    def chunks(self, name: str) -> Iterator[np.ndarray]:
        with _Hashing(self._tensors.nbytes_of(name)) as hashing:
            for chunk in self._tensors.chunks(name):
                hashing.add(chunk)
                yield chunk
                self._tell(chunk.size)
        self.sums[name] = hashing.hexdigest()


class _Hashing:
    """sha256 in a thread of its own, unless there is little to do; hashlib lets go of the interpreter as it works."""

    def __init__(self, nbytes: int) -> None:
        self._hash = hashlib.sha256()
        self._thread: threading.Thread | None = None
        if nbytes >= _SMALL_BYTES:
            self._chunks: queue.Queue[np.ndarray | None] = queue.Queue(_WAITING_CHUNKS)
            self._thread = threading.Thread(target=self._work, daemon=True)

    def __enter__(self) -> _Hashing:
        if self._thread is not None:
            self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._thread is not None:
            self._chunks.put(None)
            self._thread.join()

    def add(self, chunk: np.ndarray) -> None:
        if self._thread is not None:
            self._chunks.put(chunk)
        else:
            self._hash.update(chunk.data)

    def hexdigest(self) -> str:
        return self._hash.hexdigest()

    def _work(self) -> None:
        while (chunk := self._chunks.get()) is not None:
            self._hash.update(chunk.data)


def sums_file(target: Path, stem: str) -> Path:
    """Where the sums of a file, or of the folder of that stem, lie."""
    return Path(f"{target}{SUMS_SUFFIX}") if is_file_name(target) else target / f"{stem}{SUMS_SUFFIX}"


def save_sums(path: Path, tensors: Named | Begun | Merged, sums: Mapping[str, str]) -> None:
    """Write sums beside weights that are complete."""
    table = {
        name: {"dtype": str(tensors.dtype(name)), "shape": list(tensors.shape(name)), "sha256": sums[name]}
        for name in tensors
    }
    with atomic_write(path, overwrite=True, error=CheckpointError) as temporary:
        temporary.write_text(json.dumps(table, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def read_sums(path: Path, source: TensorSource) -> dict[str, dict[str, Any]]:
    """The table of save_sums. Raises CheckpointError when it is missing, damaged, or too large for these tensors."""
    try:
        table = json.loads(read_text(path, sum(_ENTRY_BYTES + 12 * len(name) for name in ("", *source))))
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: is not there; only what duosora convert wrote can be verified") from error
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: cannot be read as JSON ({error}); convert again") from error
    if not isinstance(table, dict) or not all(isinstance(entry, dict) for entry in table.values()):
        raise CheckpointError(f"{path}: is no table of sums; convert again")
    return table


def check_sums(source: TensorSource, table: Mapping[str, Mapping[str, Any]], tell: Callable[[int], object]) -> None:
    """Read every tensor again. Raises CheckpointError naming what is missing, additional or different."""
    if missing := sorted(table.keys() ^ set(source)):
        raise CheckpointError(f"{source.source}: {missing[0]!r} is in only one of the file and its sums; convert again")
    for name, entry in table.items():
        total = prod(source.shape(name)) * source.dtype(name).itemsize
        with _Hashing(total) as hashing:
            for start in range(0, total, CHUNK_BYTES):
                hashing.add(source.read_bytes(name, start, min(CHUNK_BYTES, total - start)))
                tell(min(CHUNK_BYTES, total - start))
        described = {"dtype": str(source.dtype(name)), "shape": list(source.shape(name)), "sha256": hashing.hexdigest()}
        if described != entry:
            raise CheckpointError(f"{source.source}: tensor {name!r} is not what was written; convert again")
