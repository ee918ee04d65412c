"""Everything that has a form of its own on an Ascend against its form for a CPU, for `duosora doctor --npu-check`."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from mindspore import Tensor

from . import operators
from .attention import Kernel, KernelAttend, make_attend, rotate, sdpa
from .layers import Conv2d, Conv3d, set_parameter
from .operators import addcmul, exchange, gelu_tanh, linear
from .precision import to_array, to_tensor, to_weight


def compare_forms(device: str, dtype: str) -> Iterator[tuple[str, float]]:
    """The name of each operation that has a form of its own on the device, and how far that is from the plain form.

    The largest difference in a compute dtype, relative to the largest value.
    """
    if not device.startswith("npu"):
        return
    attend = make_attend("auto", device, dtype)
    assert isinstance(attend, KernelAttend)
    plain, own = _operations(device, dtype, sdpa), _operations(device, dtype, attend.kernel)
    for name in own:
        with operators.plain():
            reference = to_array(plain[name]())
        yield name, float(np.abs(to_array(own[name]()) - reference).max() / np.abs(reference).max())


def _operations(device: str, dtype: str, kernel: Kernel) -> dict[str, Callable[[], Tensor]]:
    draw = np.random.default_rng(0)

    def new(*shape: int) -> Tensor:
        return to_weight(draw.standard_normal(shape, np.float32), device, dtype)

    def convolution(layer: type[Conv2d] | type[Conv3d], shape: tuple[int, ...], stride: int, padding: int) -> Callable:
        x, weight, bias = new(*shape), new(8, shape[1], *(3,) * (len(shape) - 2)), new(8)

        def convolve() -> Tensor:
            made = layer(shape[1], 8, 3, stride, padding)
            set_parameter(made, "weight", weight)
            set_parameter(made, "bias", bias)
            return made(x)

        return convolve

    rows, weight, bias, gate = new(2, 40, 32), new(64, 32), new(64), new(2, 1, 32)
    q, k, v = new(2, 20, 3, 48), new(2, 12, 3, 48), new(2, 12, 3, 48)
    angles = new(20, 48)
    texts = to_tensor(np.arange(12) < np.array([[12], [5]]))[:, None, None]  # (B, 1, 1, M)

    return {
        "conv2d": convolution(Conv2d, (2, 4, 10, 12), 1, 1),
        "conv2d, stride 2": convolution(Conv2d, (2, 4, 11, 13), 2, 0),
        "conv3d": convolution(Conv3d, (1, 4, 5, 10, 12), 1, 1),
        "conv3d, stride 2": convolution(Conv3d, (1, 4, 5, 11, 13), 2, 0),
        "linear": lambda: linear(rows, weight, bias),
        "addcmul": lambda: addcmul(rows, gate, rows),
        "gelu_tanh": lambda: gelu_tanh(rows),
        "exchange": lambda: exchange(q),
        "rotate": lambda: rotate(q, angles, angles),
        "attention": lambda: kernel(q, k, v, None),
        "attention, texts of unequal length": lambda: kernel(q, k, v, texts),
    }
