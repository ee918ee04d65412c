"""Numpy arrays as tensors."""

import numpy as np
import pytest

from duosora.backends.torch.precision import to_weight

ALIGNMENT = 64


@pytest.mark.parametrize("offset", [0, 4, 16, 60])
def test_tensors_lie_where_torch_would_put_them(offset: int) -> None:
    memory = np.zeros(256, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT + offset
    array = memory[start : start + 40].view(np.float32)
    array[:] = np.arange(10)
    tensor = to_weight(array, "cpu")
    assert tensor.data_ptr() % ALIGNMENT == 0
    np.testing.assert_array_equal(tensor.numpy(), array)
