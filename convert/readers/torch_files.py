"""Files of torch.save without torch: the zip format, and the stream of pickles that torch wrote before 1.6.

Both give the tree that was saved (dictionaries, lists, numbers) with a StoredTensor in the place of every tensor; no
number of a tensor is read.
Source: torch/serialization.py.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

from ...core.errors import CheckpointError
from ...core.io.files import open_regular
from ...core.io.first_bytes import DISTRIBUTED
from ...core.printable import one_line, short_name
from .archive import Member, member_names, read_members
from .pickles import MAX_BYTES, read_pickle
from .stored import MAX_TENSORS, Piece, StoredTensor, view_of
from .torch_types import is_unread_tensor
from .values import Namespace, Opaque, Storage, TensorView, Unread

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_START = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19"
"""That number as the pickle with which such files begin."""
_LEGACY_VERSION = 1001
_COUNT = struct.Struct("<q")
LEGACY_TEXT_START = b"L119547037146038801333356L"
"""The same in protocols 0 and 1."""
_MAGIC_BYTES = LEGACY_START[4:14]
_SMALL_BYTES, _KEYS_BYTES, _LOOKED_AT = 1 << 12, 8 << 20, 1 << 16
MAX_DEPTH = 32
MAX_NODES = 1_000_000

Tree = dict[Any, Any]


def read_zip(path: Path) -> Any:
    """The tree of a zip file. Raises CheckpointError when the file is damaged, dangerous, or another kind of zip."""
    _refuse_others(path, member_names(path))
    members = read_members(path)
    (pickle_name,) = _pickles(path, members)
    folder = pickle_name.removesuffix("data.pkl")
    order = members.get(f"{folder}byteorder")
    if order is not None and _text(path, order) != b"little":
        raise CheckpointError(f"{path}: was saved with big-endian numbers, which are not read")

    def find(storage: Storage) -> Piece:
        member = members.get(f"{folder}data/{storage.key}")
        if member is None:
            raise CheckpointError(
                f"{path}: storage {short_name(storage.key)!r} is missing; copy or download the file again"
            )
        return Piece(path, member.offset, member.nbytes)

    member = members[pickle_name]
    if member.nbytes > MAX_BYTES:
        raise CheckpointError(
            f"{path}: its pickle has {member.nbytes} bytes; no checkpoint needs more than {MAX_BYTES}"
        )
    with _open(path) as file:
        file.seek(member.offset)
        return place_tensors(read_pickle(file, str(path)), find, path)


def read_legacy(path: Path) -> Any:
    """The tree of a stream of pickles. Raises: as read_zip."""
    with _open(path) as file:
        size = os.fstat(file.fileno()).st_size
        _refuse_other_pickles(path, file, size)
        magic, version, system = (read_pickle(file, str(path), _SMALL_BYTES) for _ in range(3))
        if magic != LEGACY_MAGIC or version != _LEGACY_VERSION or not isinstance(system, dict):
            raise CheckpointError(f"{path}: is no file of torch.save; copy or download it again")
        if system.get("little_endian") is not True:
            raise CheckpointError(
                f"{path}: was saved with big-endian numbers; save it again on a little-endian machine"
            )
        widths: dict[str, tuple[str, int]] = {}
        tree = read_pickle(file, str(path), widths=widths)
        keys = read_pickle(file, str(path), _KEYS_BYTES)
        pieces = _legacy_pieces(path, file, size, keys, {key: width for key, (_, width) in widths.items()})

    def find(storage: Storage) -> Piece:
        piece = pieces.get(storage.key)
        if piece is None:
            raise CheckpointError(
                f"{path}: storage {short_name(storage.key)!r} is missing; copy or download the file again"
            )
        skipped = storage.start * storage.dtype.itemsize
        return Piece(path, piece.offset + skipped, max(piece.nbytes - skipped, 0))

    return place_tensors(tree, find, path)


def place_tensors(tree: Any, find: Callable[[Storage], Piece], path: Path) -> Any:
    """The same tree with a StoredTensor for each tensor, Namespaces as dictionaries, and every branch by itself.

    What holds tensors and cannot be looked into becomes an Unread.
    """
    budget = _Budget(str(path))

    def place(node: Any, name: str, depth: int) -> Any:
        budget.spend(depth)
        if isinstance(node, TensorView):
            budget.spend_tensor()
            return _placed(node, f"{path}: tensor {short_name(name)!r}", path, find)
        if isinstance(node, Opaque):
            return Unread(node.name) if _holds_tensors(node, budget) else node
        if isinstance(node, Namespace):
            node = node.values
        if isinstance(node, dict):
            return {key: place(value, _joined(name, key), depth + 1) for key, value in node.items()}
        if isinstance(node, list | tuple):
            return [place(value, _joined(name, number), depth + 1) for number, value in enumerate(node)]
        return node

    return place(tree, "", 0)


def _placed(view: TensorView, where: str, path: Path, find: Callable[[Storage], Piece]) -> StoredTensor:
    storage = view.storage
    piece = find(storage) if storage.data is None else Piece(path, 0, len(storage.data), storage.data)
    tensor = view_of(where, piece, view.shape, view.strides, view.offset, view.dtype)
    if view.becomes is not None:
        tensor = replace(tensor, dtype=view.becomes, held=view.dtype)
    return replace(tensor, is_negative=view.is_negative, is_conjugate=view.is_conjugate)


def _holds_tensors(top: Opaque, budget: _Budget) -> bool:
    """Whether a tensor is among what something unknown was made of; each part is looked at once."""
    waiting: list[Any] = [top]
    seen: set[int] = set()
    while waiting:
        node = waiting.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        budget.spend(0)
        if isinstance(node, TensorView | Storage) or (isinstance(node, Opaque) and is_unread_tensor(node.name)):
            return True
        waiting += _parts(node)
    return False


def _parts(node: Any) -> Iterable[Any]:
    if isinstance(node, Opaque):
        return node.parts
    if isinstance(node, Namespace):
        node = node.values
    if isinstance(node, dict):
        return node.values()
    return node if isinstance(node, list | tuple) else ()


class _Budget:
    """A tree that holds itself, or one branch a million times, is no checkpoint."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.spent = 0
        self.tensors = 0

    def spend(self, depth: int) -> None:
        self.spent += 1
        if depth > MAX_DEPTH or self.spent > MAX_NODES:
            raise CheckpointError(f"{self.source}: its contents are nested too deeply to be a checkpoint")

    def spend_tensor(self) -> None:
        self.tensors += 1
        if self.tensors > MAX_TENSORS:
            raise CheckpointError(f"{self.source}: holds more than {MAX_TENSORS} tensors, no checkpoint does")


def _joined(name: str, part: Any) -> str:
    joined = f"{name}.{str(part)[:200]}" if name else str(part)[:200]
    return joined[-1000:]


def _legacy_pieces(path: Path, file: BinaryIO, size: int, keys: Any, widths: Mapping[str, int]) -> dict[str, Piece]:
    """Where each storage lies, in the order of `keys`: a count of numbers, then the numbers."""
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise CheckpointError(f"{path}: its list of storages is damaged; copy or download it again")
    pieces: dict[str, Piece] = {}
    for key in keys:
        head = file.read(_COUNT.size)
        if key not in widths or len(head) < _COUNT.size or key in pieces:
            raise CheckpointError(
                f"{path}: is cut off or damaged at storage {short_name(key)!r}; copy or download it again"
            )
        (count,) = _COUNT.unpack(head)
        start = file.tell()
        if not 0 <= count * widths[key] <= size - start:
            raise CheckpointError(f"{path}: is cut off in storage {short_name(key)!r}; copy or download it again")
        pieces[key] = Piece(path, start, count * widths[key])
        file.seek(start + count * widths[key])
    if file.tell() != size:
        raise CheckpointError(f"{path}: {size - file.tell()} bytes at its end belong to no tensor; download it again")
    return pieces


def _pickles(path: Path, members: Mapping[str, Member]) -> list[str]:
    found = [name for name in members if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(found) != 1:
        raise CheckpointError(f"{path}: is a zip file but none of torch.save, which holds one data.pkl")
    return found


def _refuse_others(path: Path, names: list[str]) -> None:
    """Raise CheckpointError for the kinds of zip files that people have besides those of torch.save."""
    inner = {name.partition("/")[2] for name in names}
    if any(name.startswith("code/") for name in inner) or "constants.pkl" in inner:
        what = (
            "is a TorchScript program (torch.jit.save), not a checkpoint; load it with torch.jit.load and save the "
            "state_dict of the module with torch.save"
        )
    elif names and all(name.endswith(".npy") for name in names):
        what = "is an archive of numpy arrays (.npz); save the arrays as tensors with torch.save or as safetensors"
    elif "data.pkl" not in inner and names:
        what = f"is a zip file but none of torch.save ({one_line(', '.join(names[:3]), 200)}, ...); unpack it first"
    else:
        return
    raise CheckpointError(f"{path}: {what}")


def _refuse_other_pickles(path: Path, file: BinaryIO, size: int) -> None:
    """Raise CheckpointError for a pickle with which no file of torch.save begins; leaves the file at its beginning."""
    head = file.read(_LOOKED_AT)
    if _MAGIC_BYTES in head[:40] or head.startswith(LEGACY_TEXT_START):
        file.seek(0)
        return
    file.seek(max(size - _LOOKED_AT, 0))
    if b"StructuredToParameterName@@" in head + file.read(_LOOKED_AT):
        what = "is a checkpoint of PaddlePaddle; save its arrays as tensors with torch.save or as safetensors"
    elif b"torch.distributed.checkpoint" in head:
        what = DISTRIBUTED
    else:
        file.seek(0)
        read_pickle(file, str(path))  # one that can run code, or is damaged, is named as such
        what = "is a pickle but no file of torch.save; load it where it was made and write it with torch.save"
    raise CheckpointError(f"{path}: {what}")


def _text(path: Path, member: Member) -> bytes:
    with _open(path) as file:
        file.seek(member.offset)
        return file.read(min(member.nbytes, 16))


def _open(path: Path) -> BinaryIO:
    try:
        return open_regular(path)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror or error})") from error
