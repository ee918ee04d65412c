"""Each backend knows how its framework says that memory has run out."""

import importlib

import numpy as np
import pytest

from duosora.core.memory import out_of_memory
from duosora.core.seam.backend import Backend

TEXTS = {
    "torch": (
        "CUDA error: out of memory",
        "CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 139.81 GiB",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "Storage size calculation overflowed with sizes=[1000000000000000000, 1000]",
    ),
    "mindspore": (
        "Allocate memory failed\n\n---\n- C++ Call Stack: (For framework developers)",
        "Device(id:0) memory isn't enough and alloc failed, kernel name: Default/Add-op1, alloc size: 17179869184B.",
        "Out of Memory!!! Request memory size: 17179869184B, device free size 1234B",
        "Malloc device memory failed, size[17179869184], ret[207001], Device 0 Available HBM size:65464696832",
        "Memory not enough: current free memory size[1] is smaller than required size[17179869184].",
        "EL0004: Failed to allocate memory.",
    ),
}


def test_an_allocator_that_fails_is_known(backend: Backend) -> None:
    row, column = (backend.asarray(np.ones(shape, np.float32)) for shape in ((1, 3_000_000), (3_000_000, 1)))
    with pytest.raises(RuntimeError) as failed:
        backend.to_numpy(row * column)  # 36 TB
    found = out_of_memory(failed.value)
    assert found is not None
    assert str(found).startswith("out of memory")


def test_texts_of_accelerators_are_known(backend: Backend) -> None:
    module = importlib.import_module(f"duosora.backends.{backend.name}")
    assert [text for text in TEXTS[backend.name] if not module.is_out_of_memory(RuntimeError(text))] == []
    for other in (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), KeyError("out of memory")):
        assert not module.is_out_of_memory(other)
