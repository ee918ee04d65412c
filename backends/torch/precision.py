"""Names of the compute dtypes, and numpy arrays to tensors and back without losing bfloat16."""

from __future__ import annotations

from collections.abc import Callable

import ml_dtypes
import numpy as np
import torch

TORCH_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

_ALIGNMENT = 64
"""Bytes, of torch's own memory. Intel's MKL promises equal bits for equal inputs from there on only, and numpy's arrays
lie anywhere."""


def to_tensor(array: np.ndarray) -> torch.Tensor:
    """A tensor on the host that shares the array's memory; numpy's bfloat16 comes from ml_dtypes, which torch lacks."""
    array = np.require(array, requirements=["C", "W"])
    if array.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(array.view(np.uint16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def to_weight(array: np.ndarray, device: str | torch.device, dtype: str | None = None) -> torch.Tensor:
    """A tensor on the device that a model or an optimiser keeps, in one of the compute dtypes or as it is.

    It lies where torch would have put it.
    """
    tensor = to_tensor(array).to(device, TORCH_DTYPES[dtype] if dtype else None)
    return tensor if tensor.data_ptr() % _ALIGNMENT == 0 else tensor.clone()


def to_array(tensor: torch.Tensor) -> np.ndarray:
    """A numpy copy on the host; half precision is widened to float32."""
    tensor = tensor.detach()
    if tensor.dtype in (torch.bfloat16, torch.float16):
        tensor = tensor.float()
    return tensor.cpu().numpy().copy()


def read_late(tensor: torch.Tensor) -> Callable[[], np.ndarray]:
    """Begin to read a tensor, which stays as it is until it is read; the answer waits for nothing begun after it."""
    if tensor.device.type != "cuda":
        return lambda: to_array(tensor)
    answer = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True).copy_(tensor, non_blocking=True)
    (copied := torch.cuda.Event()).record()

    def wait() -> np.ndarray:
        copied.synchronize()
        return to_array(answer)

    return wait
