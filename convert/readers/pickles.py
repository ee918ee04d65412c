"""Reading the pickles inside torch files without unpickling: an interpreter of the opcodes that builds plain data.

Nothing named in a file is ever imported or called. A global is a name; the few names that checkpoints need stand for
functions of ours (rebuilding.py). What any other name makes is noted by that name; names known from files that run code
end the reading. pickletools, of Python itself, takes the opcodes apart and runs nothing.
Source: the comments in Python's pickletools; torch/serialization.py for what stands outside of the pickle.
"""

from __future__ import annotations

import pickletools
import struct
from collections.abc import Callable, Mapping
from typing import IO, Any, BinaryIO, NoReturn, cast

from ...core.errors import CheckpointError
from ...core.printable import short_name
from .dangerous import is_dangerous
from .rebuilding import FUNCTIONS, Allowance, few, fill, is_count, set_array, set_numpy_type
from .torch_types import dtype_of, unread_width
from .values import Array, Global, Namespace, NumpyType, Opaque, Storage, TensorView

MAX_BYTES = 64 << 20
"""Of one pickle. The description of a large training state takes a few megabytes; tensors lie outside."""
MAX_OPCODES = 2_000_000
_MAX_LONG_BYTES = 64
_MAX_GLOBAL = 1000
"""Letters; texts of megabytes would be looked through a million times."""
_MAX_KEY = 1 << 60

_MARK = object()


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


def read_pickle(
    file: BinaryIO, source: str, limit: int = MAX_BYTES, widths: dict[str, tuple[str, int]] | None = None
) -> Any:
    """Build what one pickle of at most `limit` bytes describes and leave the file behind it.

    Dictionaries, lists, tuples, texts and numbers become themselves, everything else one of values.py. `widths` is
    filled with the type and the bytes per number of every storage that is mentioned.
    Raises: CheckpointError when the pickle is damaged or too large, names what runs code, or reads a storage in two
    ways.
    """
    try:
        return _Machine(source, {} if widths is None else widths).run(Window(file, source, limit))
    except CheckpointError:
        raise
    except (ValueError, IndexError, KeyError, TypeError, OverflowError, EOFError, struct.error) as error:
        raise CheckpointError(
            f"{source}: its pickle is damaged ({type(error).__name__}); copy or download the file again"
        ) from error


class _Machine:
    """The stack and memo of one pickle."""

    def __init__(self, source: str, widths: dict[str, tuple[str, int]]) -> None:
        self.source = source
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.widths = widths
        self.allowance = Allowance(MAX_BYTES)

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
        self.push({})
        self.set_items(values)

    def set_items(self, values: list[Any]) -> None:
        if len(values) % 2:
            raise ValueError("a key without value")
        target = self.top((dict, Opaque))
        if isinstance(target, dict):
            fill(target, values[::2], values[1::2])
        else:
            target.parts.extend(values)

    def append(self, values: list[Any]) -> None:
        target = self.top((list, Opaque))
        (target if isinstance(target, list) else target.parts).extend(values)

    def push_global(self, module: Any, name: Any) -> None:
        if not isinstance(module, str) or not isinstance(name, str):
            raise TypeError("a global without a name")
        if len(module) + len(name) > _MAX_GLOBAL:
            raise ValueError("a global of that length")
        full = f"{module}.{name}"
        if is_dangerous(full):
            self.refuse(f"the name {short_name(full)!r}")
        self.push(Global(full))

    def push_short_global(self) -> None:
        name, module = self.pop(), self.pop()
        self.push_global(module, name)

    def reduce(self) -> None:
        arguments, function = self.pop(), self.pop()
        self.push(self.made(function, arguments))

    def new_with_names(self) -> None:
        names, arguments, function = self.pop(), self.pop(), self.pop()
        if not isinstance(names, dict):
            raise TypeError("not arguments with names")
        made = self.made(function, (*few(arguments), *([names] if names else [])))
        self.push(made)

    def instance(self, module_and_name: str) -> None:
        """What protocol 0 makes of a class, and arguments since a mark."""
        arguments = tuple(self.pop_to_mark())
        self.push_global(*module_and_name.split(" ", 1))
        self.push(self.made(self.pop(), arguments))

    def instance_of_first(self) -> None:
        function, *arguments = self.pop_to_mark()
        self.push(self.made(function, tuple(arguments)))

    def made(self, function: Any, arguments: Any) -> Any:
        """What a call stands for: plain data, a tensor, or a note of its name."""
        if not isinstance(arguments, tuple):
            raise TypeError("arguments that are no tuple")
        if isinstance(function, Opaque):
            return Opaque(function.name, [function, arguments])
        if not isinstance(function, Global):
            self.refuse("a call of something that is not a name")
        if function.name in _GETTERS:
            return self.attribute(*few(arguments))
        make = FUNCTIONS.get(function.name)
        if make is not None:
            return make(self.allowance, *few(arguments))
        if dtype_of(function.name) is not None:
            raise TypeError("a call of a dtype")
        return Opaque(function.name, [arguments])

    def attribute(self, holder: Any, name: Any) -> Opaque:
        """A member of a class, as enumerations are written."""
        if (
            not isinstance(holder, Global | Opaque)
            or not isinstance(name, str)
            or not self.is_member(holder.name, name)
        ):
            self.refuse("a call of getattr")
        if len(holder.name) + len(name) > _MAX_GLOBAL:
            raise ValueError("a global of that length")
        return Opaque(f"{holder.name}.{name}", [holder] if isinstance(holder, Opaque) else [])

    def is_member(self, holder: str, name: str) -> bool:
        """Whether a name is one of a class's own, or what protocols before 4 make an object with."""
        return name == "__new__" or (name[:1] not in ("", "_") and not is_dangerous(f"{holder}.{name[:_MAX_GLOBAL]}"))

    def build(self) -> None:
        """Hand a state to what was made. What a dictionary or a tensor carries beside its values is not wanted."""
        state = self.pop()
        target = self.top((Namespace, dict, Opaque, TensorView, Array, NumpyType))
        if isinstance(target, Namespace):
            if not isinstance(state, dict):  # its keys are not looked at: it may be built from a million times
                raise TypeError("a namespace without names")
            target.values = state
        elif isinstance(target, Array):
            set_array(self.allowance, target, state)
        elif isinstance(target, NumpyType):
            set_numpy_type(target, state)
        elif isinstance(target, Opaque):
            target.parts.append(state)

    def push_outside(self) -> None:
        """What a persistent id stands for: a storage, or, in old files, a class with its source."""
        kind, *rest = few(self.pop())
        if kind == "module" and rest and isinstance(rest[0], Global):
            self.push(rest[0])
        elif kind == "storage":
            self.push(self.storage(*rest))
        else:
            raise TypeError("not a storage")

    def storage(self, kind: Any, key: Any, location: Any, numel: Any, view: Any = None) -> Storage | Opaque:
        """`view` is (key, offset, numel) of a part of it in legacy files."""
        del location  # where it lay: cpu, cuda:0, npu:0
        if not isinstance(kind, Global) or not isinstance(key, str) or not is_count(numel):
            raise TypeError("not a storage")
        dtype, width = dtype_of(kind.name), unread_width(kind.name)
        if dtype is None and width is None:
            raise TypeError("not a storage")
        described = (str(dtype or kind.name), dtype.itemsize if dtype else width or 0)
        if self.widths.setdefault(key, described) != described:
            raise CheckpointError(
                f"{self.source}: storage {short_name(key)!r} has two types ({self.widths[key][0]} and {described[0]}), "
                "so its numbers can be read in two ways; save the tensors again, each with a storage of its own"
            )
        if dtype is None:
            return Opaque(kind.name)
        if view is None:
            return Storage(key, dtype, numel)
        _, offset, part = view
        if not is_count(offset) or not is_count(part) or offset + part > numel:
            raise ValueError("a view outside its storage")
        return Storage(key, dtype, numel, offset)

    def remember(self, number: int | None) -> None:
        if number is not None and not 0 <= number < _MAX_KEY:
            raise ValueError("a memo of that number")
        self.memo[len(self.memo) if number is None else number] = self.stack[-1]

    def recall(self, number: int) -> None:
        self.push(self.memo[number])

    def pop_one(self) -> None:
        self.stack.pop()

    def push_noted(self, name: str) -> None:
        self.push(Opaque(name))

    def push_frozen(self) -> None:
        self.push(Opaque("builtins.frozenset", self.pop_to_mark()))

    def double(self) -> None:
        value = self.pop()
        self.stack += [value, value]


_GETTERS = ("builtins.getattr", "__builtin__.getattr")
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
    "EMPTY_SET": lambda machine, argument: machine.push_noted("builtins.set"),
    "FROZENSET": lambda machine, argument: machine.push_frozen(),
    "ADDITEMS": lambda machine, argument: machine.append(machine.pop_to_mark()),
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
    "NEWOBJ_EX": lambda machine, argument: machine.new_with_names(),
    "INST": lambda machine, argument: machine.instance(argument),
    "OBJ": lambda machine, argument: machine.instance_of_first(),
    "BUILD": lambda machine, argument: machine.build(),
    "BINPERSID": lambda machine, argument: machine.push_outside(),
    "PUT": lambda machine, argument: machine.remember(argument),
    "BINPUT": lambda machine, argument: machine.remember(argument),
    "LONG_BINPUT": lambda machine, argument: machine.remember(argument),
    "MEMOIZE": lambda machine, argument: machine.remember(None),
    "GET": lambda machine, argument: machine.recall(argument),
    "BINGET": lambda machine, argument: machine.recall(argument),
    "LONG_BINGET": lambda machine, argument: machine.recall(argument),
    "DUP": lambda machine, argument: machine.double(),
    "POP": lambda machine, argument: machine.pop_one(),
    "POP_MARK": lambda machine, argument: machine.pop_to_mark(),
}
"""All opcodes that are read. EXT, PERSID and buffers point to what lies in no file."""
