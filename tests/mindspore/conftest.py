"""Stand-ins for operators that MindSpore has for Ascend only: what their documentation asks for is asserted, and the
result is computed with operators of a CPU. Layouts, masks, dtypes and limits are tried so, speed and rounding are not.

Source: the docstrings of MindSpore 2.10.
"""

from collections.abc import Iterator
from typing import Any

import mindspore
import pytest
from mindspore import Tensor, mint, ops

from duosora.backends.mindspore import operators
from duosora.core.seam.backend import get

HALVES = (mindspore.float16, mindspore.bfloat16)


def flash_attention_score(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    head_num: int,
    attn_mask: Tensor | None = None,
    scalar_value: float = 1.0,
    input_layout: str = "BSH",
) -> Tensor:
    """Attention of (B, S, N, D), the layout BSND, in which a mask's True leaves out."""
    assert input_layout == "BSND"
    assert query.dtype in HALVES
    assert query.dtype == key.dtype == value.dtype
    batch, queries, heads, width = query.shape
    assert heads == head_num <= 256
    assert batch <= 2048
    assert width % 16 == 0
    assert width <= 512
    assert key.shape == value.shape == (batch, key.shape[1], heads, width)
    assert isinstance(scalar_value, float)
    q, k, v = (x.astype(mindspore.float32).swapaxes(1, 2) for x in (query, key, value))
    scores = mint.matmul(q, k.swapaxes(2, 3)) * scalar_value
    if attn_mask is not None:
        assert attn_mask.dtype == mindspore.bool_
        assert tuple(attn_mask.shape) in {
            (batch, heads, queries, key.shape[1]),
            (batch, 1, queries, key.shape[1]),
            (queries, key.shape[1]),
        }
        scores = scores.masked_fill(attn_mask, -3e38)
    return mint.matmul(mint.nn.functional.softmax(scores, -1), v).swapaxes(1, 2).astype(query.dtype)


def conv2d(x: Tensor, weight: Tensor, bias: Tensor | None, stride: Any = 1, padding: Any = 0) -> Tensor:
    return _convolution(x, weight, bias, stride, padding)


def conv3d(x: Tensor, weight: Tensor, bias: Tensor | None, stride: Any = 1, padding: Any = 0) -> Tensor:
    kernel, strides, paddings = weight.shape[2:], _each(stride, 3), _each(padding, 3)
    assert strides[0] <= kernel[0]
    for axis in (0, 1):
        rest = (x.shape[2 + axis] + 2 * paddings[axis] - kernel[axis]) % strides[axis]
        assert rest <= paddings[axis], f"axis {axis}: crop the input, {rest} of it would be left over"
    return _convolution(x, weight, bias, stride, padding)


@pytest.fixture
def ascend(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """MindSpore as it looks on an Ascend, with the stand-ins in place of its operators."""
    get("mindspore", "cpu")  # settles MindSpore's own device
    monkeypatch.setattr(ops, "flash_attention_score", flash_attention_score)
    monkeypatch.setattr(mint.nn.functional, "conv2d", conv2d)
    monkeypatch.setattr(mint.nn.functional, "conv3d", conv3d)
    operators.settle("npu")
    chosen = operators._forms
    yield
    kept = operators._forms is chosen
    operators.settle("cpu")
    assert kept, "the test has settled on the forms for a CPU"


def _convolution(x: Tensor, weight: Tensor, bias: Tensor | None, stride: Any, padding: Any) -> Tensor:
    assert x.dtype == weight.dtype
    kernel = weight.shape[2:]
    strides, paddings = _each(stride, len(kernel)), _each(padding, len(kernel))
    assert all(width < size for width, size in zip(paddings, kernel, strict=True))
    return operators._ON_HOST.convolution(x, weight, bias, strides, paddings)


def _each(value: Any, count: int) -> tuple[int, ...]:
    return (value,) * count if isinstance(value, int) else tuple(value)
