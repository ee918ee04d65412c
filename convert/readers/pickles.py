"""Reading the pickles inside torch files without unpickling: an interpreter of the opcodes that builds plain data.

Nothing named in a file is ever imported or called. A global is a name; the few names that checkpoints need stand for
functions of this module that build dictionaries, texts and descriptions of tensors. Any other name ends the reading.
pickletools, of Python itself, takes the opcodes apart and runs nothing.
Source: the comments in Python's pickletools; torch/serialization.py and torch/_utils.py for what the names mean.
"""

from __future__ import annotations

import pickletools
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import IO, Any, BinaryIO, NoReturn, cast

import ml_dtypes
import numpy as np

from ...core.errors import CheckpointError

MAX_BYTES = 64 << 20
"""Of one pickle. The description of a large training state takes a few megabytes; tensors lie outside."""
MAX_OPCODES = 2_000_000
MAX_DIMENSIONS = 32
MAX_ARGUMENTS = 16
_MAX_LONG_BYTES = 64
_MAX_KEY = 1 << 60

_MARK = object()
_SCALARS = (str, int, float, bool, bytes, type(None))

STORAGE_DTYPES: Mapping[str, np.dtype[Any]] = MappingProxyType(
    {
        "DoubleStorage": np.dtype(np.float64),
        "FloatStorage": np.dtype(np.float32),
        "HalfStorage": np.dtype(np.float16),
        "BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
        "LongStorage": np.dtype(np.int64),
        "IntStorage": np.dtype(np.int32),
        "ShortStorage": np.dtype(np.int16),
        "CharStorage": np.dtype(np.int8),
        "ByteStorage": np.dtype(np.uint8),
        "BoolStorage": np.dtype(np.bool_),
        "ComplexFloatStorage": np.dtype(np.complex64),
        "UntypedStorage": np.dtype(np.uint8),
    }
)
TORCH_DTYPES: Mapping[str, np.dtype[Any]] = MappingProxyType(
    {
        "float64": np.dtype(np.float64),
        "float32": np.dtype(np.float32),
        "float16": np.dtype(np.float16),
        "bfloat16": np.dtype(ml_dtypes.bfloat16),
        "int64": np.dtype(np.int64),
        "int32": np.dtype(np.int32),
        "int16": np.dtype(np.int16),
        "int8": np.dtype(np.int8),
        "uint8": np.dtype(np.uint8),
        "uint16": np.dtype(np.uint16),
        "uint32": np.dtype(np.uint32),
        "uint64": np.dtype(np.uint64),
        "bool": np.dtype(np.bool_),
        "complex64": np.dtype(np.complex64),
        "float8_e4m3fn": np.dtype(ml_dtypes.float8_e4m3fn),
        "float8_e5m2": np.dtype(ml_dtypes.float8_e5m2),
    }
)
INERT = frozenset(
    [
        "torch.device",
        "torch.Size",
        "torch.nn.parameter.Parameter",
        "torch.Tensor",
        "numpy.dtype",
        "numpy.ndarray",
        "numpy.core.multiarray.scalar",
        "numpy.core.multiarray._reconstruct",
        "numpy._core.multiarray.scalar",
        "numpy._core.multiarray._reconstruct",
        "_codecs.encode",
        "pathlib.PosixPath",
        "pathlib.PurePosixPath",
        "pathlib._local.PosixPath",
        "builtins.set",
        "builtins.frozenset",
        "__builtin__.set",
        "collections.defaultdict",
        "collections.Counter",
        "signal.Signals",
        "megatron.core.enums.ModelType",
        "megatron.core.transformer.enums.AttnBackend",
        "megatron.core.rerun_state_machine.RerunDiagnostic",
        "megatron.core.rerun_state_machine.RerunMode",
        "megatron.core.rerun_state_machine.RerunState",
    ]
)
"""Names that training states hold and no weight needs: what is made of them stays a description that nobody opens."""


@dataclass(frozen=True)
class Global:
    """A name that the file mentions."""

    name: str


@dataclass(frozen=True)
class Storage:
    """A run of numbers outside the pickle."""

    key: str
    dtype: np.dtype[Any]
    numel: int
    """As announced; what the file holds is checked where it is read."""
    start: int = 0
    """Where a view of another storage begins, in elements (legacy files)."""


@dataclass(frozen=True)
class TensorView:
    """A tensor as torch describes it: a window on a storage. Offsets and strides count elements."""

    storage: Storage
    dtype: np.dtype[Any]
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


@dataclass
class Namespace:
    """What an argparse.Namespace holds."""

    values: dict[str, Any] = field(default_factory=dict)


@dataclass
class Opaque:
    """Something that is not looked into."""

    name: str


class Window:
    """The next bytes of a file, for pickletools: no single read is larger than what a pickle may have."""

    def __init__(self, file: BinaryIO, source: str, limit: int) -> None:
        self._file = file
        self._source = source
        self._limit = self._left = limit

    def read(self, count: int) -> bytes:
        self._spend(count)
        return self._file.read(count)

    def readline(self) -> bytes:
        line = self._file.readline(self._left)
        self._spend(len(line))
        return line

    def tell(self) -> int:
        return self._file.tell()

    def _spend(self, count: int) -> None:
        if count < 0 or count > self._left:
            raise CheckpointError(
                f"{self._source}: its pickle has more than {self._limit} bytes; no checkpoint needs it"
            )
        self._left -= count


def read_pickle(file: BinaryIO, source: str, limit: int = MAX_BYTES) -> Any:
    """Build what one pickle of at most `limit` bytes describes and leave the file behind it.

    Dictionaries, lists, tuples, texts and numbers become themselves, tensors a TensorView, storages a Storage.
    Raises: CheckpointError when the pickle is damaged, too large, or names anything that is not allowed.
    """
    try:
        return _Machine(source).run(Window(file, source, limit))
    except CheckpointError:
        raise
    except (ValueError, IndexError, KeyError, TypeError, OverflowError, EOFError, struct.error) as error:
        raise CheckpointError(
            f"{source}: its pickle is damaged ({type(error).__name__}); copy or download the file again"
        ) from error


class _Machine:
    """The stack and memo of one pickle."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def run(self, window: Window) -> Any:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(cast("IO[bytes]", window))):
            if count > MAX_OPCODES:
                raise CheckpointError(f"{self.source}: its pickle has more than {MAX_OPCODES} opcodes")
            if opcode.name == "STOP":
                break
            if opcode.name in _PUSHED_AS_THEY_ARE:
                self.push(argument)
                continue
            action = _ACTIONS.get(opcode.name)
            if action is None:
                self.refuse(f"the opcode {opcode.name}")
            action(self, argument)
        (result,) = self.stack
        if result is _MARK:
            raise ValueError("a mark is left")
        return result

    def refuse(self, what: str) -> NoReturn:
        raise CheckpointError(
            f"{self.source}: its pickle holds {what}, which no checkpoint needs; it is not opened, "
            "since files like this can run code. Save plain tensors and numbers only"
        )

    def push(self, value: Any) -> None:
        if isinstance(value, int) and value.bit_length() > 8 * _MAX_LONG_BYTES:
            raise ValueError("a number of that size")
        self.stack.append(value)

    def pop(self) -> Any:
        value = self.stack.pop()
        if value is _MARK:
            raise ValueError("a mark where a value should be")
        return value

    def top(self, kind: type | tuple[type, ...]) -> Any:
        value = self.stack[-1]
        if not isinstance(value, kind):
            raise TypeError(f"not a {kind}")
        return value

    def pop_to_mark(self) -> list[Any]:
        place = len(self.stack) - 1
        while self.stack[place] is not _MARK:
            place -= 1
            if place < 0:
                raise ValueError("no mark")
        values = self.stack[place + 1 :]
        del self.stack[place:]
        return values

    def push_tuple(self, count: int) -> None:
        values = [self.pop() for _ in range(count)]
        self.push(tuple(reversed(values)))

    def push_dict(self) -> None:
        values = self.pop_to_mark()
        table: dict[Any, Any] = {}
        _fill(table, values)
        self.push(table)

    def push_frozenset(self) -> None:
        self.pop_to_mark()
        self.push(Opaque("builtins.frozenset"))

    def set_items(self, values: list[Any]) -> None:
        target = self.top((dict, Opaque))
        if isinstance(target, dict):
            _fill(target, values)

    def append(self, values: list[Any]) -> None:
        target = self.top((list, Opaque))
        if isinstance(target, list):
            target.extend(values)

    def push_global(self, module: Any, name: Any) -> None:
        if not isinstance(module, str) or not isinstance(name, str):
            raise TypeError("a global without a name")
        full = f"{module}.{name}"
        if full not in _FUNCTIONS and full not in INERT and _dtype_of(full) is None:
            self.refuse(f"the name {full[:120]!r}")
        self.push(Global(full))

    def push_short_global(self) -> None:
        name, module = self.pop(), self.pop()
        self.push_global(module, name)

    def reduce(self) -> None:
        arguments, function = self.pop(), self.pop()
        if not isinstance(function, Global) or not isinstance(arguments, tuple):
            self.refuse("a call of something that is not a name")
        if function.name in INERT:
            self.push(Opaque(function.name))
            return
        make = _FUNCTIONS.get(function.name)
        if make is None:
            self.refuse(f"a call of {function.name}")
        self.push(make(*_few(arguments)))

    def build(self) -> None:
        state = self.pop()
        target = self.top((Namespace, dict, Opaque, TensorView))
        if isinstance(target, Namespace):
            if not isinstance(state, dict):  # its keys are not looked at: it may be built from a million times
                raise TypeError("a namespace without names")
            target.values = state
        # What an OrderedDict or a tensor carries beside its values (versions, attributes) is not wanted.

    def push_storage(self) -> None:
        self.push(_storage(*_few(self.pop())))

    def remember(self, number: int | None) -> None:
        if number is not None and not 0 <= number < _MAX_KEY:
            raise ValueError("a memo of that number")
        self.memo[len(self.memo) if number is None else number] = self.stack[-1]

    def recall(self, number: int) -> None:
        self.push(self.memo[number])

    def pop_one(self) -> None:
        self.stack.pop()


def _fill(table: dict[Any, Any], values: list[Any]) -> None:
    """Put keys and values in turn into a table.

    Keys are plain, since hashing a nest of tuples can take for ever, and numbers small: large ones can be chosen so
    that Python gives all of them one place in the table, and searches it a million times.
    """
    if len(values) % 2:
        raise ValueError("a key without value")
    for key, value in zip(values[::2], values[1::2], strict=True):
        if not isinstance(key, _SCALARS):
            raise TypeError("a key that is no text or number")
        if isinstance(key, int) and abs(key) >= _MAX_KEY:
            raise ValueError("a key of that size")
        table[key] = value


def _dtype_of(name: str) -> np.dtype[Any] | None:
    """The dtype that the name of a storage class or a torch dtype stands for."""
    for prefix in ("torch.storage.", "torch.cuda.", "torch."):
        if name.startswith(prefix):
            last = name.removeprefix(prefix)
            return STORAGE_DTYPES.get(last, TORCH_DTYPES.get(last) if prefix == "torch." else None)
    return None


def _storage(kind: Any, storage_class: Any, key: Any, location: Any, numel: Any, view: Any = None) -> Storage:
    """What a persistent id stands for; `view` is (key, offset, numel) of a part of it in legacy files."""
    del location
    dtype = _dtype_of(storage_class.name) if isinstance(storage_class, Global) else None
    if kind != "storage" or dtype is None or not isinstance(key, str) or not _is_count(numel):
        raise TypeError("not a storage")
    if view is None:
        return Storage(key, dtype, numel)
    _, offset, part = view
    if not _is_count(offset) or not _is_count(part) or offset + part > numel:
        raise ValueError("a view outside its storage")
    return Storage(key, dtype, numel, offset)


def _rebuild_tensor(storage: Any, offset: Any, shape: Any, strides: Any, *rest: Any) -> TensorView:
    del rest  # requires_grad, hooks, metadata
    if not isinstance(storage, Storage):
        raise TypeError("not a storage")
    return _view(storage, storage.dtype, offset, shape, strides)


def _rebuild_tensor_v3(
    storage: Any, offset: Any, shape: Any, strides: Any, grad: Any, hooks: Any, dtype: Any, *rest: Any
) -> TensorView:
    del grad, hooks, rest
    found = _dtype_of(dtype.name) if isinstance(dtype, Global) else None
    if not isinstance(storage, Storage) or found is None:
        raise TypeError("not a storage")
    return _view(storage, found, offset, shape, strides)


def _view(storage: Storage, dtype: np.dtype[Any], offset: Any, shape: Any, strides: Any) -> TensorView:
    for sizes in (shape, strides):
        if not isinstance(sizes, tuple) or len(sizes) > MAX_DIMENSIONS or not all(map(_is_count, sizes)):
            raise ValueError("not a shape")
    if not _is_count(offset) or len(shape) != len(strides):
        raise ValueError("not a shape")
    return TensorView(storage, dtype, offset, shape, strides)


def _rebuild_parameter(tensor: Any, *rest: Any) -> TensorView:
    del rest
    if not isinstance(tensor, TensorView):
        raise TypeError("not a tensor")
    return tensor


def _rebuild_from_type(function: Any, kind: Any, arguments: Any, state: Any) -> TensorView:
    del kind, state
    if not isinstance(function, Global) or not isinstance(arguments, tuple):
        raise TypeError("not a tensor")
    make = _TENSOR_FUNCTIONS[function.name]
    return make(*_few(arguments))


def _ordered_dict() -> dict[Any, Any]:
    return {}


def _namespace() -> Namespace:
    return Namespace()


def _few(arguments: Any) -> tuple[Any, ...]:
    """Arguments as few as the functions here have; handing on a million again and again would take for ever."""
    if not isinstance(arguments, tuple) or len(arguments) > MAX_ARGUMENTS:
        raise TypeError("not a list of arguments")
    return arguments


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**62


_TENSOR_FUNCTIONS: Mapping[str, Callable[..., TensorView]] = {
    "torch._utils._rebuild_tensor": _rebuild_tensor,
    "torch._utils._rebuild_tensor_v2": _rebuild_tensor,
    "torch._utils._rebuild_tensor_v3": _rebuild_tensor_v3,
    "torch._utils._rebuild_parameter": _rebuild_parameter,
    "torch._utils._rebuild_parameter_with_state": _rebuild_parameter,
}
_FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    **_TENSOR_FUNCTIONS,
    "torch._tensor._rebuild_from_type_v2": _rebuild_from_type,
    "collections.OrderedDict": _ordered_dict,
    "argparse.Namespace": _namespace,
}
"""Names that may be called, and what is done instead of calling them."""

_PUSHED_AS_THEY_ARE = frozenset(
    {"INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"}
    | {"STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"}
    | {"UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"}
)
_ACTIONS: Mapping[str, Callable[[_Machine, Any], Any]] = {
    "PROTO": lambda machine, argument: None,
    "FRAME": lambda machine, argument: None,
    "NONE": lambda machine, argument: machine.push(None),
    "NEWTRUE": lambda machine, argument: machine.push(True),
    "NEWFALSE": lambda machine, argument: machine.push(False),
    "MARK": lambda machine, argument: machine.stack.append(_MARK),
    "EMPTY_DICT": lambda machine, argument: machine.push({}),
    "EMPTY_LIST": lambda machine, argument: machine.push([]),
    "EMPTY_TUPLE": lambda machine, argument: machine.push(()),
    "EMPTY_SET": lambda machine, argument: machine.push(Opaque("builtins.set")),
    "FROZENSET": lambda machine, argument: machine.push_frozenset(),
    "ADDITEMS": lambda machine, argument: machine.pop_to_mark(),
    "DICT": lambda machine, argument: machine.push_dict(),
    "LIST": lambda machine, argument: machine.push(machine.pop_to_mark()),
    "TUPLE": lambda machine, argument: machine.push(tuple(machine.pop_to_mark())),
    "TUPLE1": lambda machine, argument: machine.push_tuple(1),
    "TUPLE2": lambda machine, argument: machine.push_tuple(2),
    "TUPLE3": lambda machine, argument: machine.push_tuple(3),
    "SETITEM": lambda machine, argument: machine.set_items([machine.pop(), machine.pop()][::-1]),
    "SETITEMS": lambda machine, argument: machine.set_items(machine.pop_to_mark()),
    "APPEND": lambda machine, argument: machine.append([machine.pop()]),
    "APPENDS": lambda machine, argument: machine.append(machine.pop_to_mark()),
    "GLOBAL": lambda machine, argument: machine.push_global(*argument.split(" ", 1)),
    "STACK_GLOBAL": lambda machine, argument: machine.push_short_global(),
    "REDUCE": lambda machine, argument: machine.reduce(),
    "NEWOBJ": lambda machine, argument: machine.reduce(),
    "BUILD": lambda machine, argument: machine.build(),
    "BINPERSID": lambda machine, argument: machine.push_storage(),
    "PUT": lambda machine, argument: machine.remember(argument),
    "BINPUT": lambda machine, argument: machine.remember(argument),
    "LONG_BINPUT": lambda machine, argument: machine.remember(argument),
    "MEMOIZE": lambda machine, argument: machine.remember(None),
    "GET": lambda machine, argument: machine.recall(argument),
    "BINGET": lambda machine, argument: machine.recall(argument),
    "LONG_BINGET": lambda machine, argument: machine.recall(argument),
    "POP": lambda machine, argument: machine.pop_one(),
    "POP_MARK": lambda machine, argument: machine.pop_to_mark(),
}
"""All opcodes that are read. EXT, INST, OBJ, NEWOBJ_EX, PERSID, DUP and buffers are none that torch writes."""
