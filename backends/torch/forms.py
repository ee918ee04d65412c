"""Everything that has a form of its own on a device against its plain form, for `duosora doctor --npu-check`."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from torch import Tensor

from . import attention, operators
from .layers import Conv3d, Linear
from .precision import to_array, to_tensor, to_weight


def compare_forms(device: str, dtype: str) -> Iterator[tuple[str, float]]:
    """The name of each operation that has a form of its own on the device, and how far that is from the plain form.

    The largest difference in a compute dtype, relative to the largest value.
    """
    for name, (own, plain) in _operations(device, dtype).items():
        with operators.plain():
            reference = to_array(plain())
        yield name, float(np.abs(to_array(own()) - reference).max() / np.abs(reference).max())


def _operations(device: str, dtype: str) -> dict[str, tuple[Callable[[], Tensor], Callable[[], Tensor]]]:
    draw = np.random.default_rng(0)

    def new(*shape: int) -> Tensor:
        return to_weight(draw.standard_normal(shape, np.float32), device, dtype)

    clip, convolution = new(1, 4, 5, 10, 12), Conv3d(4, 8, 3, padding=1).to(new(1))
    q, k, v = new(2, 20, 3, 48), new(2, 12, 3, 48), new(2, 12, 3, 48)
    texts = to_tensor(np.arange(12) < np.array([[12], [5]])).to(device)[:, None, None]  # (B, 1, 1, M)
    text = attention.TextKeys((12, 5), texts)

    def convolve() -> Tensor:
        return convolution(clip)

    def attend(kernel: str, keys: attention.TextKeys) -> Callable[[], Tensor]:
        return lambda: attention.make_attend(kernel, device, dtype).cross_attention(q, k, v, keys)

    rows, mapped = new(1, 512, 64), Linear(64, 64).to(new(1))

    def widen() -> Tensor:
        return mapped(rows, "gelu_tanh")

    operations = {"conv3d": (convolve, convolve), "linear with GELU": (widen, widen)}
    for kernel in attention.kernels(device):
        if kernel == "math" or (kernel == "flash" and dtype == "fp32"):
            continue
        whole = attention.TextKeys(None, None)
        operations[f"attention {kernel}"] = (attend(kernel, whole), attend("math", whole))
        operations[f"attention {kernel}, texts of unequal length"] = (attend(kernel, text), attend("math", text))
    return operations
