"""What the names in pickles stand for: functions of ours, which take the place of those of torch, numpy and Python.

A function makes plain data or a description of a tensor. Where it is handed something unknown, it gives that back, so
that whoever needs the tensor can say what is in the way.
Source: torch/_utils.py, torch/_tensor.py, torch_npu/utils/storage.py, numpy/core/multiarray.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import accumulate
from math import prod
from typing import Any

import numpy as np

from .torch_types import dtype_of
from .values import Array, Global, Namespace, NumpyType, Opaque, Storage, TensorView

MAX_DIMENSIONS = 32
MAX_ARGUMENTS = 16
_MAX_KEY = 1 << 60
_ENTRY_BYTES = 64
"""What an entry of a table takes at least."""
_MAX_KEY_PARTS = 8
_SCALARS = (str, int, float, bool, bytes, type(None))

_PLAIN_TENSORS = frozenset(
    ["torch.Tensor", "torch._tensor.Tensor", "torch.nn.parameter.Parameter", "torch.nn.parameter.Buffer"]
)


class Allowance:
    """The bytes that all calls of one pickle together may make: small files must not keep a reader busy for hours."""

    def __init__(self, count: int) -> None:
        self._left = count

    def spend(self, count: int) -> None:
        self._left -= count
        if self._left < 0:
            raise ValueError("more than a checkpoint needs")


def fill(table: dict[Any, Any], keys: list[Any], values: list[Any]) -> None:
    """Put keys and values into a table.

    Keys are plain, since hashing a nest of tuples can take for ever, and numbers small: large ones can be chosen so
    that Python gives all of them one place in the table, and searches it a million times.
    """
    for key, value in zip(keys, values, strict=True):
        table[_key(key)] = value


def _key(key: Any) -> Any:
    if isinstance(key, Global | Opaque):
        return Opaque(key.name)
    if isinstance(key, tuple) and len(key) <= _MAX_KEY_PARTS and all(isinstance(part, str | int) for part in key):
        return Opaque("/".join(part[:80] if isinstance(part, str) else str(part) for part in key))
    if not isinstance(key, _SCALARS):
        raise TypeError("a key that is no text or number")
    if isinstance(key, int) and abs(key) >= _MAX_KEY:
        raise ValueError("a key of that size")
    return key


def few(arguments: Any) -> tuple[Any, ...]:
    """Arguments as few as the functions here have; handing on a million again and again would take for ever."""
    if not isinstance(arguments, tuple) or len(arguments) > MAX_ARGUMENTS:
        raise TypeError("not a list of arguments")
    return arguments


def is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**62


def _table(allowance: Allowance, *arguments: Any) -> dict[Any, Any]:
    """A dictionary out of another, or out of pairs, as Python 2 wrote OrderedDict."""
    table: dict[Any, Any] = {}
    if not arguments:
        return table
    (held,) = arguments
    allowance.spend(_ENTRY_BYTES * len(held))
    pairs = list(held.items() if isinstance(held, dict) else held)
    if not isinstance(held, dict | list | tuple) or any(not isinstance(pair, list | tuple) for pair in pairs):
        raise TypeError("not a list of pairs")
    if any(len(pair) != 2 for pair in pairs):
        raise ValueError("not a list of pairs")
    fill(table, [pair[0] for pair in pairs], [pair[1] for pair in pairs])
    return table


def _default_table(allowance: Allowance, *arguments: Any) -> dict[Any, Any]:
    return _table(allowance, *arguments[1:])


def _namespace(allowance: Allowance) -> Namespace:
    del allowance
    return Namespace()


def _encode(allowance: Allowance, text: Any, encoding: Any = "latin1") -> bytes:
    """Bytes, which protocols before 3 write as text."""
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise TypeError("not bytes written as text")
    allowance.spend(len(text))
    return text.encode("latin-1")


def _rebuild_tensor(
    allowance: Allowance,
    storage: Any,
    offset: Any,
    shape: Any,
    strides: Any,
    grad: Any = None,
    hooks: Any = None,
    metadata: Any = None,
) -> Any:
    """torch's, of all versions; metadata say that the numbers are the negatives or conjugates of the stored ones."""
    del allowance, grad, hooks
    if isinstance(storage, Opaque):
        return storage
    if not isinstance(storage, Storage):
        raise TypeError("not a storage")
    return _view(storage, storage.dtype, offset, shape, strides, metadata)


def _rebuild_tensor_v3(
    allowance: Allowance,
    storage: Any,
    offset: Any,
    shape: Any,
    strides: Any,
    grad: Any,
    hooks: Any,
    dtype: Any,
    metadata: Any = None,
) -> Any:
    """torch's, for dtypes that have no storage class."""
    del allowance, grad, hooks
    if isinstance(storage, Opaque) or not isinstance(dtype, Global):
        return storage if isinstance(storage, Opaque) else Opaque("torch.UntypedStorage", [storage])
    found = dtype_of(dtype.name)
    if not isinstance(storage, Storage):
        raise TypeError("not a storage")
    return Opaque(dtype.name, [storage]) if found is None else _view(storage, found, offset, shape, strides, metadata)


def _rebuild_npu_tensor(
    allowance: Allowance,
    storage: Any,
    offset: Any,
    shape: Any,
    strides: Any,
    grad: Any,
    hooks: Any,
    form: Any,
    metadata: Any = None,
) -> Any:
    """torch_npu's. `form` is the layout that the tensor had on the device; what is saved is a plain copy on the CPU."""
    del form
    return _rebuild_tensor(allowance, storage, offset, shape, strides, grad, hooks, metadata)


def _view(
    storage: Storage, dtype: np.dtype[Any], offset: Any, shape: Any, strides: Any, metadata: Any = None
) -> TensorView:
    for sizes in (shape, strides):
        if not isinstance(sizes, tuple) or len(sizes) > MAX_DIMENSIONS or not all(map(is_count, sizes)):
            raise ValueError("not a shape")
    if not is_count(offset) or len(shape) != len(strides):
        raise ValueError("not a shape")
    said = metadata if isinstance(metadata, dict) else {}
    is_negative, is_conjugate = said.get("neg") is True, said.get("conj") is True and dtype.kind == "c"
    if is_negative and dtype.kind not in "fciV":  # bfloat16 is V
        raise ValueError("negative numbers of a type without sign")
    return TensorView(storage, dtype, offset, shape, strides, None, is_negative, is_conjugate)


def _same_tensor(allowance: Allowance, tensor: Any, *rest: Any) -> Any:
    """A parameter or variable around a tensor."""
    del allowance, rest
    if not isinstance(tensor, TensorView | Opaque):
        raise TypeError("not a tensor")
    return tensor


def _tensor_type(allowance: Allowance, *arguments: Any) -> Any:
    """A class of torch as torch before 0.4 calls it; anything else than a wrapped tensor is no weight."""
    if arguments and isinstance(arguments[0], TensorView | Opaque):
        return _same_tensor(allowance, *arguments)
    return Opaque("torch.Tensor", list(arguments))


def _rebuild_from_type(allowance: Allowance, function: Any, kind: Any, arguments: Any, state: Any) -> Any:
    if not isinstance(function, Global) or not isinstance(kind, Global):
        raise TypeError("not a tensor")
    if kind.name not in _PLAIN_TENSORS or function.name not in _TENSOR_FUNCTIONS:
        name = function.name if function.name not in _TENSOR_FUNCTIONS else kind.name
        return Opaque(name, [arguments, state])
    return _TENSOR_FUNCTIONS[function.name](allowance, *few(arguments))


def _from_cpu(allowance: Allowance, tensor: Any, dtype: Any, device: Any, grad: Any = False) -> Any:
    """A tensor of a device whose numbers torch writes as a tensor of the CPU."""
    del allowance, device, grad
    if isinstance(tensor, Opaque) or not isinstance(dtype, Global):
        return tensor if isinstance(tensor, Opaque) else Opaque("torch.dtype", [tensor])
    if not isinstance(tensor, TensorView):
        raise TypeError("not a tensor")
    return _cast(tensor, dtype.name)


def _from_numpy(allowance: Allowance, array: Any, dtype: Any, device: Any, grad: Any = False) -> Any:
    """A tensor of a device whose numbers torch writes as an array of numpy."""
    if isinstance(array, Opaque):
        return array
    if not isinstance(array, Array) or array.dtype is None or array.data is None:
        raise TypeError("not an array of numbers")
    if len(array.data) != prod(array.shape) * array.dtype.itemsize:
        raise ValueError("an array of another size")
    sizes = array.shape if array.is_fortran else array.shape[::-1]
    steps = tuple(accumulate((1, *sizes), lambda step, size: step * size))[: len(sizes)]
    strides = steps if array.is_fortran else steps[::-1]
    storage = Storage("", array.dtype, prod(array.shape), 0, array.data)
    return _from_cpu(allowance, _view(storage, array.dtype, 0, array.shape, strides), dtype, device, grad)


def _cast(tensor: TensorView, name: str) -> Any:
    found = dtype_of(name)
    if found is None:
        return Opaque(name, [tensor])
    return replace(tensor, becomes=found) if found != tensor.dtype else tensor


def _numpy_type(allowance: Allowance, code: Any, *rest: Any) -> Any:
    del allowance, rest
    return NumpyType(code) if isinstance(code, str) else Opaque("numpy.dtype", [code])


def _empty_array(allowance: Allowance, *rest: Any) -> Array:
    del allowance, rest
    return Array()


def _array_of_buffer(allowance: Allowance, data: Any, kind: Any, shape: Any, order: Any = "C") -> Array:
    """An array as protocol 5 writes it."""
    array = Array()
    set_array(allowance, array, (1, shape, kind, order == "F", data))
    return array


def set_array(allowance: Allowance, array: Array, state: Any) -> None:
    """What numpy's own __setstate__ is handed: version, shape, dtype, order of axes, bytes."""
    if not isinstance(state, tuple) or len(state) not in (4, 5):
        raise TypeError("not an array")
    shape, kind, is_fortran, data = state[-4:]
    if not isinstance(shape, tuple) or len(shape) > MAX_DIMENSIONS or not all(map(is_count, shape)):
        raise ValueError("not a shape")
    array.shape, array.is_fortran = shape, is_fortran is True
    array.dtype = kind.dtype() if isinstance(kind, NumpyType) else None
    array.data = data if isinstance(data, bytes) else None
    if isinstance(data, str | bytearray):
        allowance.spend(len(data))
        array.data = data.encode("latin-1") if isinstance(data, str) else bytes(data)


def set_numpy_type(kind: NumpyType, state: Any) -> None:
    if isinstance(state, tuple) and len(state) > 1 and state[1] in ("<", ">", "|", "="):
        kind.order = state[1]


_TENSOR_FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    "torch._utils._rebuild_tensor": _rebuild_tensor,
    "torch._utils._rebuild_tensor_v2": _rebuild_tensor,
    "torch._utils._rebuild_tensor_v3": _rebuild_tensor_v3,
    "torch._utils._rebuild_parameter": _same_tensor,
    "torch._utils._rebuild_parameter_with_state": _same_tensor,
    "torch._utils._rebuild_device_tensor_from_cpu_tensor": _from_cpu,
    "torch._utils._rebuild_device_tensor_from_numpy": _from_numpy,
    "torch._utils._rebuild_xla_tensor": _from_numpy,
    "torch_npu.utils.storage._rebuild_npu_tensor": _rebuild_npu_tensor,
    "torch_npu.utils.tensor_methods._rebuild_npu_tensor": _rebuild_npu_tensor,
}
_ARRAYS = ("numpy.core", "numpy._core")
FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    **_TENSOR_FUNCTIONS,
    **dict.fromkeys(
        ["torch._tensor._rebuild_from_type_v2", "torch._tensor._rebuild_from_type", "torch.tensor._rebuild_from_type"],
        _rebuild_from_type,
    ),
    **dict.fromkeys(
        ["torch.nn.parameter.Parameter", "torch.Tensor", "torch.autograd.variable.Variable"],
        _tensor_type,
    ),
    **dict.fromkeys(["collections.OrderedDict", "builtins.dict", "__builtin__.dict"], _table),
    "collections.defaultdict": _default_table,
    "argparse.Namespace": _namespace,
    "_codecs.encode": _encode,
    "numpy.dtype": _numpy_type,
    **{f"{module}.multiarray._reconstruct": _empty_array for module in _ARRAYS},
    **{f"{module}.numeric._frombuffer": _array_of_buffer for module in _ARRAYS},
}
"""Names that may be called, and what is done instead of calling them."""
