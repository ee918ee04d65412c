"""Files of torch.save without torch: the zip format, and the stream of pickles that torch wrote before 1.6.

Both give the tree that was saved (dictionaries, lists, numbers) with a StoredTensor in the place of every tensor; no
number of a tensor is read.
Source: torch/serialization.py.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from ...core.errors import CheckpointError
from .archive import Member, read_members
from .pickles import MAX_BYTES, Namespace, Storage, TensorView, read_pickle
from .stored import MAX_TENSORS, Piece, view_of

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_START = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19"
"""That number as the pickle with which such files begin."""
_LEGACY_VERSION = 1001
_COUNT = struct.Struct("<q")
_SMALL_BYTES, _KEYS_BYTES = 1 << 12, 8 << 20
MAX_DEPTH = 32
MAX_NODES = 1_000_000

Tree = dict[Any, Any]


def read_zip(path: Path) -> Any:
    """The tree of a zip file. Raises CheckpointError when the file is damaged or holds more than plain data."""
    members = read_members(path)
    (pickle_name,) = _pickles(path, members)
    folder = pickle_name.removesuffix("data.pkl")
    order = members.get(f"{folder}byteorder")
    if order is not None and _text(path, order) != b"little":
        raise CheckpointError(f"{path}: was saved with big-endian numbers, which are not read")
    if any(name.startswith(f"{folder}code/") for name in members):
        raise CheckpointError(f"{path}: is a TorchScript program, not a checkpoint; save the state_dict of the model")

    def find(storage: Storage) -> Piece:
        member = members.get(f"{folder}data/{storage.key}")
        if member is None:
            raise CheckpointError(f"{path}: storage {storage.key!r} is missing; copy or download the file again")
        return Piece(path, member.offset, member.nbytes)

    member = members[pickle_name]
    if member.nbytes > MAX_BYTES:
        raise CheckpointError(
            f"{path}: its pickle has {member.nbytes} bytes; no checkpoint needs more than {MAX_BYTES}"
        )
    with _open(path) as file:
        file.seek(member.offset)
        return place_tensors(read_pickle(file, str(path)), find, str(path))


def read_legacy(path: Path) -> Any:
    """The tree of a stream of pickles. Raises: as read_zip."""
    with _open(path) as file:
        size = os.fstat(file.fileno()).st_size
        magic, version, system = (read_pickle(file, str(path), _SMALL_BYTES) for _ in range(3))
        if magic != LEGACY_MAGIC or version != _LEGACY_VERSION or not isinstance(system, dict):
            raise CheckpointError(f"{path}: is no file of torch.save; copy or download it again")
        if system.get("little_endian") is not True:
            raise CheckpointError(
                f"{path}: was saved with big-endian numbers; save it again on a little-endian machine"
            )
        tree = read_pickle(file, str(path))
        keys = read_pickle(file, str(path), _KEYS_BYTES)
        pieces = _legacy_pieces(path, file, size, keys, _widths(tree, str(path)))

    def find(storage: Storage) -> Piece:
        piece = pieces.get(storage.key)
        if piece is None:
            raise CheckpointError(f"{path}: storage {storage.key!r} is missing; copy or download the file again")
        skipped = storage.start * storage.dtype.itemsize
        return Piece(path, piece.offset + skipped, max(piece.nbytes - skipped, 0))

    return place_tensors(tree, find, str(path))


def place_tensors(tree: Any, find: Callable[[Storage], Piece], source: str) -> Any:
    """The same tree with a StoredTensor for each tensor, Namespaces as dictionaries, and every branch by itself."""
    budget = _Budget(source)

    def place(node: Any, name: str, depth: int) -> Any:
        budget.spend(depth)
        if isinstance(node, TensorView):
            budget.spend_tensor()
            where = f"{source}: tensor {name!r}"
            return view_of(where, find(node.storage), node.shape, node.strides, node.offset, node.dtype)
        if isinstance(node, Namespace):
            node = node.values
        if isinstance(node, dict):
            return {key: place(value, _joined(name, key), depth + 1) for key, value in node.items()}
        if isinstance(node, list | tuple):
            return [place(value, _joined(name, number), depth + 1) for number, value in enumerate(node)]
        return node

    return place(tree, "", 0)


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


def _widths(tree: Any, source: str) -> dict[str, int]:
    """Bytes per number of every storage that the tree names."""
    widths: dict[str, int] = {}
    budget = _Budget(source)

    def walk(node: Any, depth: int) -> None:
        budget.spend(depth)
        if isinstance(node, TensorView | Storage):
            storage = node.storage if isinstance(node, TensorView) else node
            if widths.setdefault(storage.key, storage.dtype.itemsize) != storage.dtype.itemsize:
                raise CheckpointError(f"{source}: storage {storage.key!r} has two types; the file is damaged")
        children = node.values if isinstance(node, Namespace) else node
        if isinstance(children, dict):
            children = list(children.values())
        if isinstance(children, list | tuple):
            for child in children:
                walk(child, depth + 1)

    walk(tree, 0)
    return widths


def _legacy_pieces(path: Path, file: BinaryIO, size: int, keys: Any, widths: Mapping[str, int]) -> dict[str, Piece]:
    """Where each storage lies, in the order of `keys`: a count of numbers, then the numbers."""
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise CheckpointError(f"{path}: its list of storages is damaged; copy or download it again")
    pieces: dict[str, Piece] = {}
    for key in keys:
        head = file.read(_COUNT.size)
        if key not in widths or len(head) < _COUNT.size or key in pieces:
            raise CheckpointError(f"{path}: is cut off or damaged at storage {key[:40]!r}; copy or download it again")
        (count,) = _COUNT.unpack(head)
        start = file.tell()
        if not 0 <= count * widths[key] <= size - start:
            raise CheckpointError(f"{path}: is cut off in storage {key[:40]!r}; copy or download it again")
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


def _text(path: Path, member: Member) -> bytes:
    with _open(path) as file:
        file.seek(member.offset)
        return file.read(min(member.nbytes, 16))


def _open(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror or error})") from error
