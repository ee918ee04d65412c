"""Reading and writing weights: one safetensors file, or a folder with an index and shards.

Tensors are read one at a time with plain reads into a fresh array (no memory map: pages of a map stay resident beside
the copy a framework makes), and written one at a time, so that a model passes through with the memory of its largest
tensor. Folders are those of diffusers (`diffusion_pytorch_model`) and transformers (`model`).
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from math import prod
from pathlib import Path, PurePosixPath, PureWindowsPath
from types import MappingProxyType
from typing import Any, Protocol, TypeAlias, runtime_checkable

import ml_dtypes
import numpy as np

from ..errors import CheckpointError
from ..printable import short_name
from .files import atomic_write, open_regular, read_text, refuse_existing, sync
from .first_bytes import DISTRIBUTED, why_no_json
from .safetensors_format import (
    CODES,
    LENGTH_BYTES,
    MAX_HEADER_BYTES,
    Entry,
    build_header,
    is_text,
    read_header,
    refuse_tensor,
    unique_keys,
)

Tensors: TypeAlias = "Mapping[str, np.ndarray] | StreamedTensors"

STEMS = ("diffusion_pytorch_model", "model")
SUFFIX = ".safetensors"
INDEX_SUFFIX = ".safetensors.index.json"
FOREIGN_SUFFIXES = (".bin", ".ckpt", ".pt", ".pth")
CONVERT_FIRST = "convert it first (duosora convert FILE --to FOLDER)"

_PART = re.compile(r"-[0-9]{1,9}-of-([0-9]{1,9})\.[a-z]+$")
_FIRST_BYTES = 4096
_MOST_BYTES = 4 << 20
"""Read at a time of a tensor that may be all zeros: in others, few bytes tell."""
_CHUNK = 1 << 20
"""Elements checked at a time; a mask of this many bytes stays in the processor's cache."""
_EXPONENT_BITS = {np.dtype(np.float16): 0x7C00, np.dtype(ml_dtypes.bfloat16): 0x7F80}


@runtime_checkable
class DescribedTensors(Protocol):
    """Tensors whose shape and dtype are known before their values: save_weights asks for each value only once."""

    def shape(self, name: str) -> tuple[int, ...]: ...

    def dtype(self, name: str) -> np.dtype[Any]: ...


class ReadableTensors(DescribedTensors, Protocol):
    """Described tensors of which parts can be read."""

    def read_bytes(self, name: str, start: int, count: int) -> np.ndarray: ...


@runtime_checkable
class StreamedTensors(DescribedTensors, Protocol):
    """Described tensors whose bytes come in parts, so that no tensor has to be in memory as a whole."""

    def __iter__(self) -> Iterator[str]: ...

    def chunks(self, name: str) -> Iterator[np.ndarray]:
        """A tensor's bytes in C order, uint8."""


class WeightsReader(Mapping[str, np.ndarray]):
    """The tensors of a file or folder by name, in the order of the file or index. Each access reads anew."""

    def __init__(self, source: str, entries: Mapping[str, tuple[Path, Entry]], metadata: Mapping[str, str]) -> None:
        self.source = source
        """The file or folder as the user named it, for error messages."""
        self.metadata = MappingProxyType(dict(metadata))
        """Free texts in the header; those of all shards together."""
        self._entries = dict(entries)

    def __getitem__(self, name: str) -> np.ndarray:
        """Read one tensor. Raises CheckpointError when the file has become shorter meanwhile or cannot be read."""
        entry = self._entries[name][1]
        return self.read_bytes(name, 0, entry.nbytes).view(entry.dtype).reshape(entry.shape)

    def read_rows(self, name: str, start: int, stop: int) -> np.ndarray:
        """Some neighbours along a tensor's first axis. Raises: as for the whole; IndexError for others than it has."""
        entry = self._entries[name][1]
        if not 0 <= start <= stop <= entry.shape[0]:
            raise IndexError(f"rows {start} to {stop} of {entry.shape[0]} of tensor '{short_name(name)}'")
        shape = (stop - start, *entry.shape[1:])
        row = prod(entry.shape[1:]) * entry.dtype.itemsize
        return self.read_bytes(name, start * row, (stop - start) * row).view(entry.dtype).reshape(shape)

    def read_bytes(self, name: str, start: int, count: int) -> np.ndarray:
        """A part of a tensor's bytes, uint8. Raises: as for the whole."""
        path, entry = self._entries[name]
        buffer = np.empty(count, np.uint8)  # as bytes: bfloat16 arrays have no buffer interface to read into
        view, filled = buffer.data, 0
        try:
            with open_regular(path) as file:
                file.seek(entry.offset + start)
                while filled < count:
                    got = file.readinto(view[filled:])  # at most 2 GiB at a time on Linux
                    if not got:
                        raise CheckpointError(
                            f"{path}: ends inside tensor '{short_name(name)}'; copy or download it again"
                        )
                    filled += got
        except OSError as error:
            raise CheckpointError(
                f"{path}: tensor '{short_name(name)}' cannot be read ({error.strerror or error})"
            ) from error
        return buffer

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def shape(self, name: str) -> tuple[int, ...]:
        return self._entries[name][1].shape

    def dtype(self, name: str) -> np.dtype[Any]:
        """A numpy dtype, of ml_dtypes for bfloat16 and the 8-bit floats."""
        return self._entries[name][1].dtype

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors together."""
        return sum(entry.nbytes for _, entry in self._entries.values())

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that hold the tensors, each once."""
        return tuple(dict.fromkeys(path for path, _ in self._entries.values()))


def open_weights(path: str | os.PathLike[str]) -> WeightsReader:
    """Open a `.safetensors` file, an index file, or a folder; only headers are read.

    A file that is not there may have been written in shards: then its index is opened. In a folder the names of STEMS
    come first, a whole file before an index; otherwise there must be exactly one index or file.
    Raises: CheckpointError when nothing usable is there, a file is damaged, or index and shards do not agree.
    """
    try:
        found = _find(Path(path))
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror or error})") from error
    if found.name.endswith(".index.json"):
        return _open_sharded(found, str(path))
    return open_file(found, str(path))


def open_file(path: Path, source: str | None = None) -> WeightsReader:
    """Open one file of this format, whatever its name is; `source` is what errors call it, None its path."""
    header = read_header(path)
    entries = {name: (path, entry) for name, entry in header.entries.items()}
    return WeightsReader(source or str(path), entries, header.metadata)


def open_joined_weights(folder: str | os.PathLike[str]) -> WeightsReader:
    """Open all `.safetensors` files of a folder as the parts of one model; only headers are read.

    A folder without any gives a reader without tensors. Raises: CheckpointError when there is no such folder, a file is
    damaged, or two files hold a tensor of the same name.
    """
    place = Path(folder)
    try:
        files = sorted(entry for entry in place.iterdir() if entry.suffix == SUFFIX and not entry.name.startswith("."))
    except OSError as error:
        raise CheckpointError(f"{place}: cannot be read as a folder ({error.strerror or error})") from error
    entries: dict[str, tuple[Path, Entry]] = {}
    metadata: dict[str, str] = {}
    for path in files:
        header = read_header(path)
        for name, entry in header.entries.items():
            if name in entries:
                other = entries[name][0].name
                raise CheckpointError(
                    f"{place}: {other} and {path.name} both hold tensor '{short_name(name)}'; keep one of them"
                )
            entries[name] = (path, entry)
        metadata |= header.metadata
    return WeightsReader(str(place), entries, metadata)


def save_weights(
    path: str | os.PathLike[str],
    tensors: Tensors,
    metadata: Mapping[str, str] | None = None,
    shard_size: int | None = None,
    overwrite: bool = False,
    stem: str = STEMS[0],
) -> None:
    """Write tensors to a `.safetensors` file, or into a folder as `<stem>.safetensors` or as shards with an index.

    A path that ends in `.safetensors` is a file; any other is a folder, which may exist and hold other things.
    `shard_size` is the number of bytes at which a new shard begins (a larger tensor has a shard of its own); None
    writes one file. Values are asked for one at a time and may be made on the way; a mapping that has shape(name) and
    dtype(name) is asked for each value once, any other mapping twice; what has chunks(name) gives each in parts.
    Everything is written under temporary names first and the index is renamed last.
    Raises: CheckpointError when weights of that name exist and `overwrite` is off, the disk is full, or a dtype
    cannot be stored.
    """
    target = Path(path)
    described = _described(target, tensors)
    if target.suffix == SUFFIX:
        with atomic_write(target, overwrite, CheckpointError) as temporary:
            _write_file(temporary, target, tensors, described, metadata or {})
        return
    shards = _split(described, shard_size)
    names = [f"{stem}{SUFFIX}"]
    if len(shards) > 1:
        names = [Shard(index, len(shards)).file(stem) for index in range(len(shards))]
    _save_folder(target, stem, dict(zip(names, shards, strict=True)), tensors, metadata or {}, overwrite)


@dataclass(frozen=True)
class Shard:
    """Of a model that is written by several, one's part."""

    index: int = 0
    count: int = 1

    def file(self, stem: str) -> str:
        """The name of its file, in the hub's form."""
        return f"{stem}{SUFFIX}" if self.count == 1 else f"{stem}-{self.index + 1:05d}-of-{self.count:05d}{SUFFIX}"


def save_shard(
    folder: Path,
    tensors: Mapping[str, np.ndarray],
    shard: Shard,
    stem: str = STEMS[0],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write one's tensors of a model whose other shards others write; `index_shards` then makes it whole.

    A shard without tensors has no file, but for the first. Files that exist are replaced.
    Raises: as save_weights.
    """
    if len(tensors) or shard.index == 0:
        save_weights(folder / shard.file(stem), tensors, metadata, overwrite=True)


def index_shards(folder: Path, count: int, stem: str = STEMS[0]) -> None:
    """Write the index of all shards that `save_shard` wrote, from their headers.

    Raises: CheckpointError when one is damaged, two hold the same tensor, or the disk is full.
    """
    shards: dict[str, dict[str, Description]] = {}
    holders: dict[str, str] = {}
    for index in range(count):
        name = Shard(index, count).file(stem)
        if not (folder / name).is_file():
            continue
        entries = read_header(folder / name).entries
        for tensor in entries:
            if tensor in holders:
                raise CheckpointError(f"{folder}: {holders[tensor]} and {name} both hold tensor '{short_name(tensor)}'")
        holders |= dict.fromkeys(entries, name)
        shards[name] = {tensor: (entry.shape, entry.dtype) for tensor, entry in entries.items()}
    with atomic_write(folder / f"{stem}{INDEX_SUFFIX}", overwrite=True, error=CheckpointError) as temporary:
        temporary.write_text(_index_text(shards), encoding="utf-8")


def join_shards(folder: Path, count: int, stem: str) -> None:
    """Make one file of all shards that `save_shard` wrote, for readers that know no index. Raises: as index_shards."""
    files = [file for index in range(count) if (file := folder / Shard(index, count).file(stem)).is_file()]
    readers = [open_file(file) for file in files]
    held = {name: reader[name] for reader in readers for name in reader}
    save_weights(folder / f"{stem}{SUFFIX}", held, readers[0].metadata, overwrite=True)
    for file in files:
        file.unlink()


def is_finite(array: np.ndarray) -> bool:
    """Whether no element is NaN or infinite; integers always are finite. Needs a megabyte besides the array."""
    bits = _EXPONENT_BITS.get(array.dtype)
    if bits is not None:  # numpy and ml_dtypes would widen each element: several times slower
        return _every_chunk(array.view(np.uint16), lambda chunk: bool(((chunk & bits) != bits).all()))
    if array.dtype.kind in "biu":
        return True
    return _every_chunk(array, lambda chunk: bool(np.isfinite(chunk).all()))


def is_all_zero(array: np.ndarray) -> bool:
    """Whether there are elements and every one is zero. Needs a megabyte besides the array."""
    return array.size > 0 and _every_chunk(array, lambda chunk: not (chunk != 0).any())


def holds_only_zeros(tensors: ReadableTensors, name: str) -> bool:
    """The same of a tensor in a file, of which no more is read than up to the first part that is not zero."""
    dtype = tensors.dtype(name)
    total, start, count = prod(tensors.shape(name)) * dtype.itemsize, 0, _FIRST_BYTES
    while start < total:
        part = tensors.read_bytes(name, start, min(count, total - start))
        if part.any() and not is_all_zero(part.view(dtype)):  # zeros may have a sign, but those of a hole have none
            return False
        start, count = start + part.size, min(4 * count, _MOST_BYTES)
    return total > 0


def is_float(dtype: np.dtype[Any]) -> bool:
    """Whether a dtype has floating-point numbers, bfloat16 and those of 8 bits among them."""
    return dtype.kind == "f" or dtype.name == "bfloat16" or dtype.name.startswith("float8")


def _every_chunk(array: np.ndarray, holds: Callable[[np.ndarray], bool]) -> bool:
    flat = array.reshape(-1)
    return all(holds(flat[start : start + _CHUNK]) for start in range(0, flat.size, _CHUNK))


def _find(place: Path) -> Path:
    """The file or index to read for what the user named."""
    if place.is_dir():
        return _find_in_folder(place)
    if not place.exists():
        index = place.with_name(f"{place.stem}{INDEX_SUFFIX}")
        if place.suffix == SUFFIX and index.exists():
            return index
        raise CheckpointError(f"{place}: there is no such file or folder")
    if place.suffix in FOREIGN_SUFFIXES:
        raise CheckpointError(f"{place}: only safetensors are read; {CONVERT_FIRST}")
    return place


def _find_in_folder(folder: Path) -> Path:
    """The file or index to read in a folder."""
    for stem in STEMS:
        for name in (f"{stem}{SUFFIX}", f"{stem}{INDEX_SUFFIX}"):
            if (folder / name).exists():
                return folder / name
    names = sorted(entry.name for entry in folder.iterdir() if entry.is_file() and not entry.name.startswith("."))
    for suffix in (INDEX_SUFFIX, SUFFIX):
        candidates = [name for name in names if name.endswith(suffix)]
        if len(candidates) == 1:
            refuse_part(folder, candidates[0])
            return folder / candidates[0]
        if candidates:
            raise CheckpointError(
                f"{folder}: holds {len(candidates)} weight files ({_some(candidates)}) and no index that joins them; "
                "name the file to read"
            )
    foreign = [name for name in names if name.endswith(FOREIGN_SUFFIXES)]
    if foreign:
        raise CheckpointError(f"{folder}: only safetensors are read; found {_some(foreign)}; {CONVERT_FIRST}")
    if any(entry.suffix == ".distcp" for entry in folder.iterdir()):
        raise CheckpointError(f"{folder}: {DISTRIBUTED}")
    raise CheckpointError(
        f"{folder}: holds no weights, expected {STEMS[0]}{SUFFIX}, {STEMS[1]}{SUFFIX} or an index with shards"
    )


def refuse_part(folder: Path, name: str) -> None:
    """Raise CheckpointError where the only file of a folder says that it is one of several."""
    found = _PART.search(name)
    if found and int(found[1]) > 1:
        raise CheckpointError(
            f"{folder}: holds {name} alone, one of {int(found[1])} files, without the index that joins them; "
            "download or convert again, or name the file"
        )


def _open_sharded(index: Path, source: str) -> WeightsReader:
    weight_map = _read_index(index)
    shards = {name: _shard(index, name) for name in dict.fromkeys(weight_map.values())}
    headers = {name: read_header(path) for name, path in shards.items()}
    for name, header in headers.items():
        for tensor in header.entries:
            if weight_map.get(tensor) != name:
                where = (
                    f"the index puts it in {short_name(weight_map[tensor])}"
                    if tensor in weight_map
                    else "the index does not list it"
                )
                raise CheckpointError(
                    f"{index}: tensor '{short_name(tensor)}' is in shard {short_name(name)} but {where}; download the "
                    "folder again"
                )
    entries: dict[str, tuple[Path, Entry]] = {}
    for tensor, name in weight_map.items():
        if tensor not in headers[name].entries:
            raise CheckpointError(
                f"{index}: shard {short_name(name)} does not hold tensor '{short_name(tensor)}'; download the "
                "folder again"
            )
        entries[tensor] = (shards[name], headers[name].entries[tensor])
    metadata = {key: value for header in headers.values() for key, value in header.metadata.items()}
    return WeightsReader(source, entries, metadata)


def _read_index(index: Path) -> dict[str, str]:
    """The index's weight_map: tensor name -> shard name."""
    try:
        table = json.loads(read_text(index), object_pairs_hook=unique_keys)
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{index}: {why_no_json(index, error)}") from error
    weight_map = table.get("weight_map") if isinstance(table, dict) else None
    if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
        raise CheckpointError(f"{index}: has no weight_map from tensor names to shard names; download it again")
    for name in (*weight_map, *weight_map.values()):
        if not is_text(name):
            raise CheckpointError(f"{index}: the name '{short_name(name)}' is not valid text; download it again")
    return weight_map


def _shard(index: Path, name: str) -> Path:
    """The path of a shard. Its name is judged as text: in hub caches links rightly lead out of the folder."""
    posix, windows = PurePosixPath(name), PureWindowsPath(name)
    if posix.is_absolute() or windows.anchor or ".." in windows.parts or not name or "\0" in name:
        raise CheckpointError(
            f"{index}: shard '{short_name(name)}' lies outside the folder; shards must be beside their index"
        )
    if posix.suffix != SUFFIX:
        raise CheckpointError(f"{index}: shard '{short_name(name)}' is no {SUFFIX} file; only safetensors are read")
    path = index.parent / name
    if not os.path.exists(path):  # unlike Path.exists, no error for a name that is too long
        raise CheckpointError(f"{index}: shard {short_name(name)} is not there; download it")
    return path


Description = tuple[tuple[int, ...], np.dtype[Any]]


def _described(target: Path, tensors: Tensors) -> dict[str, Description]:
    """Shape and dtype of every tensor."""
    described: dict[str, Description] = {}
    for name in tensors:
        if isinstance(tensors, DescribedTensors):
            description = (tuple(tensors.shape(name)), np.dtype(tensors.dtype(name)))
        else:
            value = tensors[name]
            description = (value.shape, value.dtype)
        refuse_tensor(str(target), name, *description)
        if description[1] not in CODES:
            raise CheckpointError(
                f"{target}: tensor '{short_name(name)}' has dtype {description[1]}, which safetensors cannot hold"
            )
        described[name] = description
    return described


def _nbytes(description: Description) -> int:
    shape, dtype = description
    return Entry(shape, dtype, 0).nbytes


def _split(described: Mapping[str, Description], shard_size: int | None) -> list[dict[str, Description]]:
    """Tensors in their order, cut where a shard would grow beyond shard_size bytes."""
    shards: list[dict[str, Description]] = [{}]
    filled = 0
    for name, description in described.items():
        if shard_size is not None and shards[-1] and filled + _nbytes(description) > shard_size:
            shards.append({})
            filled = 0
        shards[-1][name] = description
        filled += _nbytes(description)
    return shards


def _write_file(
    path: Path, target: Path, tensors: Tensors, described: Mapping[str, Description], metadata: Mapping[str, str]
) -> None:
    """Write the tensors that `described` names, wide dtypes first, so that each begins at a multiple of its width.

    `target` is what errors call the file.
    """
    ordered = sorted(described.items(), key=lambda item: -item[1][1].itemsize)
    header = build_header(((name, shape, dtype) for name, (shape, dtype) in ordered), metadata)
    if len(header) > LENGTH_BYTES + MAX_HEADER_BYTES:
        raise CheckpointError(
            f"{target}: {len(described)} tensors need a header of {len(header)} bytes, more than is read again; "
            "write shards, or shorter names"
        )
    with path.open("wb") as file:
        file.write(header)
        for name, description in ordered:
            if isinstance(tensors, StreamedTensors):
                written = sum(file.write(chunk.data) for chunk in tensors.chunks(name))
                assert written == _nbytes(description), f"{name} is not what it was described as"
                continue
            value = tensors[name]
            assert (value.shape, value.dtype) == description, f"{name} is not what it was described as"
            file.write(np.ascontiguousarray(value).reshape(-1).view(np.uint8).data)


def _save_folder(
    folder: Path,
    stem: str,
    shards: Mapping[str, Mapping[str, Description]],
    tensors: Tensors,
    metadata: Mapping[str, str],
    overwrite: bool,
) -> None:
    index = folder / f"{stem}{INDEX_SUFFIX}"
    old = _files_of(folder, stem)
    for path in old:
        refuse_existing(path, overwrite, CheckpointError)
    targets = [folder / name for name in shards]
    if len(shards) > 1:
        targets.insert(0, index)
    # The stack renames in reverse order, so the index, entered first, appears last.
    with ExitStack() as stack:
        temporaries = {path: stack.enter_context(atomic_write(path, overwrite, CheckpointError)) for path in targets}
        for name, described in shards.items():
            _write_file(temporaries[folder / name], folder / name, tensors, described, metadata)
        if index in temporaries:
            temporaries[index].write_text(_index_text(shards), encoding="utf-8")
            for temporary in temporaries.values():
                sync(temporary)
            # An old index must not join new shards with old ones, even if we are killed now.
            index.unlink(missing_ok=True)
    for path in old:
        if path not in targets:
            path.unlink(missing_ok=True)


def _files_of(folder: Path, stem: str) -> list[Path]:
    """The files of earlier weights with that stem."""
    if not os.path.isdir(folder):
        return []
    shard = re.compile(re.escape(stem) + r"-\d+-of-\d+" + re.escape(SUFFIX))
    whole = {f"{stem}{SUFFIX}", f"{stem}{INDEX_SUFFIX}"}
    return [path for path in sorted(folder.iterdir()) if path.name in whole or shard.fullmatch(path.name)]


def _index_text(shards: Mapping[str, Mapping[str, Description]]) -> str:
    total = sum(_nbytes(description) for described in shards.values() for description in described.values())
    weight_map = {tensor: name for name, described in shards.items() for tensor in described}
    return (
        json.dumps({"metadata": {"total_size": total}, "weight_map": weight_map}, indent=2, ensure_ascii=False) + "\n"
    )


def _some(names: list[str], limit: int = 3) -> str:
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")
