"""What torch calls its dtypes and storages, and the kinds of tensors that are known and not read."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import ml_dtypes
import numpy as np

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
STORAGE_DTYPES: Mapping[str, np.dtype[Any]] = MappingProxyType(
    {
        "DoubleStorage": TORCH_DTYPES["float64"],
        "FloatStorage": TORCH_DTYPES["float32"],
        "HalfStorage": TORCH_DTYPES["float16"],
        "BFloat16Storage": TORCH_DTYPES["bfloat16"],
        "LongStorage": TORCH_DTYPES["int64"],
        "IntStorage": TORCH_DTYPES["int32"],
        "ShortStorage": TORCH_DTYPES["int16"],
        "CharStorage": TORCH_DTYPES["int8"],
        "ByteStorage": TORCH_DTYPES["uint8"],
        "BoolStorage": TORCH_DTYPES["bool"],
        "ComplexFloatStorage": TORCH_DTYPES["complex64"],
        "UntypedStorage": TORCH_DTYPES["uint8"],
        "_UntypedStorage": TORCH_DTYPES["uint8"],
    }
)
_UNREAD_STORAGES = MappingProxyType(
    {
        "ComplexDoubleStorage": 16,
        "QInt8Storage": 1,
        "QUInt8Storage": 1,
        "QInt32Storage": 4,
        "QUInt4x2Storage": 1,
        "QUInt2x4Storage": 1,
    }
)
"""Storages whose numbers are not read, and their bytes per number, which lead to the storages behind them."""
_AGAIN = "load it where it was made and save plain tensors, as torch.save(model.state_dict(), FILE) does"
_UNREAD: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "torch._utils._rebuild_sparse_tensor": ("sparse", "save tensor.to_dense()"),
        "torch._utils._rebuild_sparse_csr_tensor": ("sparse", "save tensor.to_dense()"),
        "torch._utils._rebuild_qtensor": ("quantised", "save tensor.dequantize()"),
        "torch._utils._rebuild_meta_tensor_no_storage": (
            "on the device meta, without numbers",
            "load the weights into the model before you save it",
        ),
        "torch._utils._rebuild_nested_tensor": ("nested", "save the tensors of tensor.unbind()"),
        "torch._utils._rebuild_wrapper_subclass": (
            "of a class of its own, as distributed training makes them",
            "save tensor.full_tensor() or its plain values",
        ),
        "torch.storage._load_from_bytes": ("written by pickle.dump", "load it and write it with torch.save"),
    }
)


def dtype_of(name: str) -> np.dtype[Any] | None:
    """The dtype that the name of a storage class or of a torch dtype stands for."""
    module, _, last = name.rpartition(".")
    if module == "torch" and last in TORCH_DTYPES:
        return TORCH_DTYPES[last]
    return STORAGE_DTYPES.get(last) if _is_of_torch(module) else None


def unread_width(name: str) -> int | None:
    """Bytes per number of a storage class that is known and not read."""
    module, _, last = name.rpartition(".")
    return _UNREAD_STORAGES.get(last) if _is_of_torch(module) else None


def is_unread_tensor(name: str) -> bool:
    """Whether what was made under this name is a tensor of a kind that is not read."""
    return name in _UNREAD or unread_width(name) is not None


def why_unread(name: str) -> str:
    """What to say of a tensor that hangs on this name."""
    what, advice = _UNREAD.get(name, ("", ""))
    last = name.rpartition(".")[2]
    if not what and name.startswith("torch.") and (name.count(".") == 1 or unread_width(name) is not None):
        what, advice = f"of the type {last}", "save it in another dtype, as float32"
    if what:
        return f"is {what}, which is not supported; {advice}"
    return f"is made by {name}, which is not known here, and nothing in a file is ever called; {_AGAIN}"


def _is_of_torch(module: str) -> bool:
    return module.split(".")[0] in ("torch", "torch_npu")
