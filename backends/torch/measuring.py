"""Single operations on numbers of their own, which `duosora plan --calibrate` times."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from duosora.core import random

from .attention import KernelAttend, TextKeys, make_attend
from .operators import addcmul, convolution, linear
from .precision import to_weight
from .video import channels_innermost


def make_operation(name: str, sizes: tuple[int, ...], device: str, dtype: str) -> Callable[[], None]:
    """An operation of core.planning.operations, made ready; each call does it once and waits for its end."""

    def tensor(*shape: int) -> Tensor:
        return to_weight(random.normal(shape, 0, name), device, dtype)

    run = _OPERATIONS[name](tensor, sizes, make_attend("auto", device, dtype))
    is_on_host = torch.device(device).type == "cpu"

    def call() -> None:
        with torch.inference_mode():
            run()
        if not is_on_host:
            torch.accelerator.synchronize()

    return call


def _product(tensor: Any, sizes: tuple[int, ...], attend: Any) -> Callable[[], Any]:
    rows, inputs, outputs = sizes
    x, weight, bias = tensor(1, rows, inputs), tensor(outputs, inputs), tensor(outputs)
    return lambda: linear(x, weight, bias)


def _attention(tensor: Any, sizes: tuple[int, ...], attend: KernelAttend) -> Callable[[], Any]:
    groups, tokens, heads, head_dim = sizes
    q, k, v = (tensor(groups, tokens, heads, head_dim) for _ in range(3))
    return lambda: attend.cross_attention(q, k, v, TextKeys(None, None))


def _convolution_2d(tensor: Any, sizes: tuple[int, ...], attend: Any) -> Callable[[], Any]:
    inputs, outputs, frames, side = sizes
    x, weight, bias = tensor(frames, inputs, side, side), tensor(outputs, inputs, 3, 3), tensor(outputs)
    return lambda: convolution(x, weight, bias, 1, 1)


def _convolution_3d(tensor: Any, sizes: tuple[int, ...], attend: Any) -> Callable[[], Any]:
    inputs, outputs, frames, side = sizes
    x = channels_innermost(tensor(1, inputs, frames, side, side))
    weight, bias = tensor(outputs, inputs, 3, 3, 3), tensor(outputs)
    return lambda: convolution(x, weight, bias, 1, 1)


def _elementwise(tensor: Any, sizes: tuple[int, ...], attend: Any) -> Callable[[], Any]:
    x, one, other = (tensor(*sizes) for _ in range(3))
    return lambda: addcmul(x, one, other)


_OPERATIONS = {
    "product": _product,
    "attention": _attention,
    "convolution_2d": _convolution_2d,
    "convolution_3d": _convolution_3d,
    "elementwise": _elementwise,
}
