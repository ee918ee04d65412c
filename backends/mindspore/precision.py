"""Names of the compute dtypes, and numpy arrays to tensors and back without losing bfloat16."""

from __future__ import annotations

from collections.abc import Callable

import mindspore
import ml_dtypes
import numpy as np
from mindspore import Tensor

MINDSPORE_DTYPES = {"fp32": mindspore.float32, "bf16": mindspore.bfloat16, "fp16": mindspore.float16}


def to_tensor(array: np.ndarray) -> Tensor:
    """A tensor with memory of its own; numpy's bfloat16 comes from ml_dtypes, which MindSpore does not know."""
    if array.dtype == ml_dtypes.bfloat16:
        return Tensor(array.astype(np.float32)).astype(mindspore.bfloat16)
    return Tensor(np.require(array, requirements=["C"]))


def to_weight(array: np.ndarray, device: str, dtype: str | None = None) -> Tensor:
    """A tensor that a model or an optimiser keeps, in one of the compute dtypes or as it is."""
    return to_tensor(array).astype(MINDSPORE_DTYPES[dtype]) if dtype else to_tensor(array)


def to_array(tensor: Tensor) -> np.ndarray:
    """A numpy copy on the host; half precision is widened to float32."""
    if tensor.dtype in (mindspore.bfloat16, mindspore.float16):
        tensor = tensor.astype(mindspore.float32)
    return tensor.asnumpy().copy()


def read_late(tensor: Tensor) -> Callable[[], np.ndarray]:
    """Begin to read a tensor; the answer waits until it is there."""
    return lambda: to_array(tensor)
