"""Opening whatever the user names: what it is shows in its first bytes, not in its name."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from ...core.errors import CheckpointError
from ...core.io.files import open_regular, read_text
from ...core.io.first_bytes import DISTRIBUTED, NUM_BYTES, other_kind, why_no_json
from ...core.io.safetensors_format import LENGTH_BYTES, unique_keys
from ...core.io.weights import FOREIGN_SUFFIXES, INDEX_SUFFIX, SUFFIX, open_file, open_weights, refuse_part
from .archive import LOCAL_MAGIC
from .mindspore_files import FIRST_BYTE, read_ckpt
from .stored import MAX_TENSORS, Stored, StoredTensor, TensorSource, check_repeats
from .torch_files import LEGACY_START, LEGACY_TEXT_START, read_legacy, read_zip
from .unwrapping import unwrap

TORCH_INDEX_SUFFIX = ".bin.index.json"


@dataclass(frozen=True)
class Checkpoint:
    """Opened weights of any format."""

    path: Path
    """The file or folder that was opened."""
    format: str
    wrapper: tuple[str, ...]
    """Keys that lead to the weights inside the file."""
    has_average: bool
    weights: TensorSource
    tree: Any
    """All that was saved, tensors as StoredTensor; None for formats that hold tensors only."""
    aside: tuple[str, ...] = ()
    """What of it is not among the weights, in words."""


def is_foreign(path: Path) -> bool:
    """Whether duosora reads this only through here: no safetensors. Raises CheckpointError when nothing is there."""
    found = _find(path)
    return not found.name.endswith((SUFFIX, INDEX_SUFFIX)) or _is_of_torch(found)


def open_checkpoint(path: Path, ema: bool | None = None, key: str | None = None) -> Checkpoint:
    """Open weights; headers and descriptions are read, tensors are not. `ema` and `key` as in unwrap.

    Raises: CheckpointError when nothing usable is there or a file is damaged.
    """
    found = _find(path)
    is_index = found.name.endswith((INDEX_SUFFIX, TORCH_INDEX_SUFFIX))
    if is_index or _is_safetensors(found):
        if ema:
            raise CheckpointError(f"{path}: such files hold no moving average beside the weights; leave out --ema")
        if key:
            raise CheckpointError(f"{path}: has no branches; leave out --key, or name a prefix with --strip")
        if found.name.endswith(TORCH_INDEX_SUFFIX):
            return _open_shards(found)
        is_named = found.name.endswith((SUFFIX, INDEX_SUFFIX))
        weights = open_weights(path) if is_named else open_file(found)
        if not 0 < len(weights) <= MAX_TENSORS:
            raise CheckpointError(f"{path}: holds {len(weights)} tensors, expected 1 to {MAX_TENSORS}")
        return Checkpoint(found, "safetensors", (), False, weights, None)
    form, tree = _read(found)
    unwrapped = unwrap(tree, str(path), ema, key)
    stored = _stored(str(path), unwrapped.tensors)
    return Checkpoint(found, form, unwrapped.wrapper, unwrapped.has_average, stored, tree, unwrapped.aside)


def _stored(source: str, tensors: Mapping[str, StoredTensor]) -> Stored:
    check_repeats(source, tensors.values())
    return Stored(source, tensors)


def _find(path: Path) -> Path:
    try:
        return _find_file(path)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror or error})") from error


def _find_file(path: Path) -> Path:
    if not path.is_dir():
        if not path.exists():
            raise CheckpointError(f"{path}: there is no such file or folder")
        return path
    names = sorted(entry.name for entry in path.iterdir() if entry.is_file() and not entry.name.startswith("."))
    if any(name.endswith((SUFFIX, INDEX_SUFFIX)) for name in names):
        return path / next(name for name in names if name.endswith((SUFFIX, INDEX_SUFFIX)))  # open_weights chooses
    for suffixes in ((TORCH_INDEX_SUFFIX,), FOREIGN_SUFFIXES):
        candidates = [name for name in names if name.endswith(suffixes)]
        if len(candidates) == 1:
            refuse_part(path, candidates[0])
            return path / candidates[0]
        if candidates:
            raise CheckpointError(
                f"{path}: holds {len(candidates)} checkpoints ({', '.join(candidates[:4])}); name one"
            )
    held = [entry for entry in path.iterdir() if entry.name == ".metadata" or entry.suffix == ".distcp"]
    if held:
        raise CheckpointError(f"{path}: {DISTRIBUTED}")
    raise CheckpointError(f"{path}: holds no weights, expected one of {SUFFIX}, {', '.join(FOREIGN_SUFFIXES)}")


def _start(path: Path) -> bytes:
    try:
        with open_regular(path) as file:
            return file.read(NUM_BYTES)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror or error})") from error


def _is_of_torch(path: Path) -> bool:
    return _start(path).startswith((LOCAL_MAGIC, LEGACY_START, LEGACY_TEXT_START))


def _is_safetensors(path: Path) -> bool:
    """By its content; a damaged file is what its name says."""
    return _start(path)[LENGTH_BYTES:][:1] == b"{" or (path.name.endswith(SUFFIX) and not _is_of_torch(path))


def _read(path: Path) -> tuple[str, Any]:
    start = _start(path)
    if path.suffix == ".distcp":  # such a file begins as one of torch, and holds many
        raise CheckpointError(f"{path}: {DISTRIBUTED}")
    if start.startswith(LOCAL_MAGIC):
        return "torch", read_zip(path)
    if start.startswith((b"\x80", LEGACY_TEXT_START)):
        return "torch (before 1.6)", read_legacy(path)
    kind = other_kind(path, start)
    if kind is not None:
        raise CheckpointError(f"{path}: {kind}")
    if start[:1] == bytes([FIRST_BYTE]):
        return "MindSpore", read_ckpt(path)
    raise CheckpointError(
        f"{path}: is no checkpoint of torch, MindSpore or safetensors; it begins with {start[:14].hex(' ')}"
    )


def _open_shards(index: Path) -> Checkpoint:
    """Shards of torch files, joined by their index."""
    try:
        table = json.loads(read_text(index), object_pairs_hook=unique_keys)
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{index}: {why_no_json(index, error)}") from error
    weight_map = table.get("weight_map") if isinstance(table, dict) else None
    if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
        raise CheckpointError(f"{index}: has no weight_map from tensor names to shard names; download it again")
    wanted: dict[str, set[str]] = {}
    for name, shard in weight_map.items():
        wanted.setdefault(shard, set()).add(name)
    tensors: dict[str, StoredTensor] = {}
    for shard in sorted(wanted):
        if not shard or PurePosixPath(shard).name != shard or "\\" in shard:
            raise CheckpointError(f"{index}: shard {shard!r} must be a file beside its index")
        held = unwrap(_read(_find(index.parent / shard))[1], str(index.parent / shard)).tensors
        differing = wanted[shard] ^ held.keys()
        if differing:
            raise CheckpointError(f"{index}: shard {shard} and the index differ at {min(differing)!r}; download again")
        tensors |= held
    return Checkpoint(index, "torch, in shards", (), False, _stored(str(index), tensors), None)
