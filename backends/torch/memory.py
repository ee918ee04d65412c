"""How torch says that memory has run out."""

from __future__ import annotations

import torch

_TEXTS = (
    "can't allocate memory",  # DefaultCPUAllocator
    "Storage size calculation overflowed",
    "out of memory",  # CUDA's own, and cuDNN's, cuBLAS's and NCCL's for their workspaces
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "std::bad_alloc",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says so."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in _TEXTS)
