"""Tensors that are computed once and read in every epoch: safetensors shards of bounded size, and an index.

`index.json` says from what the tensors were computed (their identity) and lists the shards. A tensor's name is the
fingerprint of what it was computed from. Shards are written whole or not at all and in a fixed order, so a writer that
was killed at any moment goes on behind its last shard, and the finished folder is the same, byte for byte.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from ..errors import CheckpointError, NumericsError
from ..io.files import MAX_WRITTEN_BYTES, atomic_write, read_text
from ..io.safetensors_format import Entry, Header, read_header, unique_keys
from ..io.weights import WeightsReader, is_finite, save_weights
from ..parallel.agreement import agreed, exchange
from ..seam.group import Alone, Group
from .fingerprints import json_fingerprint

INDEX_NAME = "index.json"
FORMAT = 1
SHARD_BYTES = 256 << 20
SHARD_TENSORS = 16384
"""At most this many in a shard, so that its header stays small."""
MAX_DIMENSIONS = 4
DTYPES: Mapping[str, np.dtype[Any]] = {
    "fp32": np.dtype(np.float32),
    "bf16": np.dtype(ml_dtypes.bfloat16),
    "fp16": np.dtype(np.float16),
}

Identity = Mapping[str, Any]
"""Plain values that say from what a cache's tensors were computed, beside what names each of them."""

Note = Mapping[str, Any]
"""Plain values that are kept beside a tensor."""
NOTES = "notes"
"""In the header of a shard."""

_SHARD = re.compile(r"shard-(\d{5})\.safetensors")
_DIGEST_BYTES = 32


@dataclass(frozen=True)
class Index:
    """The index.json of a cache."""

    identity: Identity
    shards: Mapping[str, int]
    """How many tensors each holds."""
    failed: Mapping[str, str]
    """Files that could not be encoded, and why."""
    is_complete: bool


def read_index(folder: Path) -> Index:
    """Raises: CheckpointError when there is no cache of a known form."""
    path = folder / INDEX_NAME
    try:
        table = json.loads(read_text(path, MAX_WRITTEN_BYTES), object_pairs_hook=unique_keys)
    except FileNotFoundError as error:
        raise CheckpointError(f"{folder}: holds no cache ({INDEX_NAME} is missing); make it: duosora cache") from error
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{path}: cannot be read as JSON ({error}); remove the folder and make it again"
        ) from error
    if not isinstance(table, dict) or table.get("format") != FORMAT:
        raise CheckpointError(f"{path}: is not the index of a cache in format {FORMAT}; make it again: duosora cache")
    try:
        return Index(dict(table["identity"]), dict(table["shards"]), dict(table["failed"]), bool(table["complete"]))
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: lacks {error}; remove the folder and make it again: duosora cache") from error


def check_identity(folder: Path, found: Identity, expected: Identity) -> None:
    """Raises CheckpointError naming what a cache was made with instead of what is expected."""
    for name, value in expected.items():
        if found.get(name) != value:
            raise CheckpointError(
                f"{folder}: was made with {name} = {_shown(found.get(name))}, here it is {_shown(value)}; "
                "name another folder for the cache, or make it again"
            )


class Written(NamedTuple):
    """What one of a cache's writers has written, or found there."""

    shards: Mapping[str, int]
    failed: Mapping[str, str]


class CacheWriter:
    """Adds tensors to a cache, one after the other; nothing that was added counts before its shard is full or closed.

    Making one writes nothing. Several may fill a folder together: each writes shards of its own, the first the index.
    Raises (when made): CheckpointError when the folder holds a cache of another identity or a damaged one.
    """

    def __init__(
        self,
        folder: Path,
        identity: Identity,
        dtype: str = "fp32",
        shard_bytes: int = SHARD_BYTES,
        shard_tensors: int = SHARD_TENSORS,
        writer: int = 0,
        writers: int = 1,
    ) -> None:
        """writer: this one's number among the writers, which are made before any of them begins."""
        # Through JSON, as an earlier run's identity has been.
        self.folder, self.identity = folder, json.loads(json.dumps(dict(identity) | {"stored as": dtype}))
        self._dtype, self._limits = DTYPES[dtype], (shard_bytes, shard_tensors)
        self._writers, self._next = writers, writer
        self._is_first = writer == 0
        self._pending: dict[str, np.ndarray] = {}
        self._notes: dict[str, Note] = {}
        self._pending_bytes = 0
        self._failed: dict[str, str] = {}
        self._shards: dict[str, int] = {}
        self._keys: set[bytes] = set()
        self._has_begun = False
        if (folder / INDEX_NAME).exists():
            check_identity(folder, read_index(folder).identity, self.identity)
            self._adopt()

    def begin(self) -> None:
        """Make the folder the cache's; adding does so too, but this tells before long work that it cannot be written.

        Of several writers the first does so before the others add. Raises: CheckpointError when it cannot.
        """
        if self._has_begun or not self._is_first:
            return
        for leftover in self.folder.glob(".duosora-*"):  # half written by a run that was killed
            leftover.unlink(missing_ok=True)
        if not (self.folder / INDEX_NAME).exists():
            self._write_index(is_complete=False)
        self._has_begun = True

    def __contains__(self, key: str) -> bool:
        return bytes.fromhex(key) in self._keys or key in self._pending

    def __len__(self) -> int:
        """Tensors on the disk."""
        return len(self._keys)

    def add(self, key: str, value: np.ndarray, source: str, note: Note | None = None) -> bool:
        """Store a float32 tensor; source: for messages. note: kept beside it. Returns whether a shard was finished.

        Raises: NumericsError when the value is not finite in the cache's dtype.
        """
        self.begin()
        with np.errstate(over="ignore"):  # told below, with the name of the source
            stored = value.astype(self._dtype)
        if not is_finite(stored):
            raise NumericsError(
                f"{source}: gives NaN or infinity as {stored.dtype}; encode or store it in another dtype"
            )
        self._pending[key] = stored
        if note is not None:
            self._notes[key] = note
        self._pending_bytes += stored.nbytes
        is_full = self._pending_bytes >= self._limits[0] or len(self._pending) >= self._limits[1]
        if is_full:
            self._write_shard()
        return is_full

    def fail(self, source: str, reason: str) -> None:
        """Note a file that could not be encoded."""
        self._failed[source] = reason

    def finish(self) -> Written:
        """Write what is left; returns what this writer has written, to complete the cache with."""
        self.begin()
        if self._pending:
            self._write_shard()
        return Written(self._shards, self._failed)

    def complete(self, parts: Iterable[Written]) -> None:
        """Note that all writers have finished, with what each has written: the first does for all."""
        for shards, failed in parts:
            self._shards |= shards
            self._failed |= failed
        self._write_index(is_complete=True)

    def close(self) -> None:
        """Write what is left, and that the cache is complete, where no other writer is at work."""
        self.complete([self.finish()])

    def _adopt(self) -> None:
        """Take over the shards of an earlier run."""
        for path in sorted(path for path in self.folder.iterdir() if _SHARD.fullmatch(path.name)):
            header = _read_shard(path, self.identity)
            self._shards[path.name] = len(header.entries)
            self._keys.update(map(bytes.fromhex, header.entries))
        self._next += max((_number(name) + 1 for name in self._shards), default=0)

    def _write_shard(self) -> None:
        name = f"shard-{self._next:05d}.safetensors"
        notes = {NOTES: json.dumps(self._notes, ensure_ascii=False)} if self._notes else {}
        save_weights(self.folder / name, self._pending, {"identity": json_fingerprint(self.identity)} | notes)
        self._next += self._writers
        self._shards[name] = len(self._pending)
        self._keys.update(map(bytes.fromhex, self._pending))
        self._pending.clear()
        self._notes.clear()
        self._pending_bytes = 0
        self._write_index(is_complete=False)

    def _write_index(self, is_complete: bool) -> None:
        if not self._is_first:
            return
        table = {
            "format": FORMAT,
            "identity": self.identity,
            "complete": is_complete,
            "shards": dict(sorted(self._shards.items())),
            "failed": self._failed,
        }
        with atomic_write(self.folder / INDEX_NAME, overwrite=True, error=CheckpointError) as temporary:
            temporary.write_text(json.dumps(table, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def fill(writer: CacheWriter, add_all: Callable[[], None], world: Group | None = None) -> None:
    """Fill a cache, which ranks with a writer each may do together. add_all: adds this rank's share.

    Raises: on all ranks, what it raises on one.
    """
    group = world or Alone()
    agreed(group, writer.begin)

    def finished() -> Written:
        add_all()
        return writer.finish()

    parts = exchange(group, finished)
    agreed(group, lambda: writer.complete(Written(*part) for part in parts))


class CacheReader:
    """Reads single tensors of a finished cache, by plain reads: any number of threads and processes may do so.

    It pickles as its folder's name. What stays in memory is about 80 bytes for each tensor.
    """

    def __init__(self, folder: Path) -> None:
        """Raises: CheckpointError when the cache is missing, damaged or not finished."""
        self.folder = folder
        self.index = read_index(folder)
        if not self.index.is_complete:
            raise CheckpointError(f"{folder}: the cache is not finished; run the same `duosora cache` command again")
        self._paths: list[Path] = []
        digests, places = [], []
        for number, (name, count) in enumerate(self.index.shards.items()):
            path = folder / name
            header = _read_shard(path, self.index.identity)
            if len(header.entries) != count:
                raise CheckpointError(f"{path}: holds {len(header.entries)} tensors, the index says {count}")
            self._paths.append(path)
            digests += [bytes.fromhex(key) for key in header.entries]
            places += [(number, entry.offset, *_padded(entry.shape)) for entry in header.entries.values()]
        self._dtype = DTYPES[self.index.identity["stored as"]]
        keys = np.frombuffer(b"".join(digests), np.uint8).reshape(-1, _DIGEST_BYTES)
        order = np.lexsort(keys.T[::-1])
        self._keys = keys[order]
        self._starts = self._keys[:, :8].copy().view(">u8")[:, 0].astype(np.uint64)
        self._places = np.array(places, np.int64).reshape(-1, 2 + MAX_DIMENSIONS)[order]

    def __reduce__(self) -> tuple[type[CacheReader], tuple[Path]]:
        return type(self), (self.folder,)

    def __len__(self) -> int:
        return len(self._keys)

    @property
    def nbytes(self) -> int:
        """On the disk."""
        return sum(path.stat().st_size for path in self._paths)

    def notes(self) -> Iterator[tuple[str, Note]]:
        """The notes beside tensors, by their keys. Raises: CheckpointError when a shard's cannot be read."""
        for path in self._paths:
            try:
                notes = json.loads(_read_shard(path, self.index.identity).metadata.get(NOTES, "{}"))
                yield from notes.items()
            except (ValueError, RecursionError, AttributeError) as error:
                raise CheckpointError(f"{path}: its notes are damaged ({error}); make the cache again") from error

    def find(self, key: str) -> np.ndarray | None:
        """The tensor as float32, or None. Raises: CheckpointError when its shard cannot be read any more."""
        digest = np.frombuffer(bytes.fromhex(key), np.uint8)
        start = np.uint64(int.from_bytes(digest[:8].tobytes(), "big"))
        row = int(np.searchsorted(self._starts, start))
        while row < len(self._keys) and self._starts[row] == start:
            if (self._keys[row] == digest).all():
                return self._read(key, row)
            row += 1
        return None

    def _read(self, key: str, row: int) -> np.ndarray:
        number, offset, *sizes = self._places[row].tolist()
        entry = Entry(tuple(size for size in sizes if size >= 0), self._dtype, offset)
        path = self._paths[number]
        return WeightsReader(str(path), {key: (path, entry)}, {})[key].astype(np.float32, copy=False)


def _read_shard(path: Path, identity: Identity) -> Header:
    """Raises: CheckpointError when a shard is damaged or was put there from another cache."""
    header = read_header(path)
    if header.metadata.get("identity") != json_fingerprint(dict(identity)):
        raise CheckpointError(f"{path}: belongs to another cache; remove it, or make the cache again in another folder")
    return header


def _number(name: str) -> int:
    """Of a shard."""
    match = _SHARD.fullmatch(name)
    assert match is not None
    return int(match[1])


def _padded(shape: tuple[int, ...]) -> Iterator[int]:
    """MAX_DIMENSIONS sizes; -1 where a tensor has fewer."""
    yield from shape
    yield from [-1] * (MAX_DIMENSIONS - len(shape))


def _shown(value: Any) -> str:
    """A value short enough for one line: fingerprints by their beginning."""
    text = "nothing" if value is None else str(value)
    return text if len(text) <= 60 else f"{text[:12]}..."
