"""Convolutions as products of gathered patches, and norms of channels, against torch's, with their gradients."""

from collections.abc import Callable
from typing import Any

import mindspore
import numpy as np
import pytest
import torch
from mindspore import Tensor

from duosora.backends.mindspore import operators
from duosora.core.seam.backend import get

CASES = [
    ((1, 4, 5, 6, 7), (3, 4, 3, 3, 3), 1, (0, 1, 1)),
    ((2, 4, 5, 6, 7), (130, 4, 3, 3, 3), 1, 1),
    ((2, 4, 7, 9, 9), (5, 4, 3, 3, 3), 2, 0),
    ((1, 4, 8, 8, 8), (5, 4, 3, 3, 3), (2, 1, 1), 1),
    ((2, 4, 5, 6, 7), (3, 4, 1, 3, 3), 1, (0, 1, 1)),
    ((2, 4, 5, 6, 7), (3, 4, 1, 1, 1), 1, 0),
    ((3, 4, 9, 8), (5, 4, 3, 3), 2, 0),
    ((3, 4, 6, 7), (130, 4, 4, 4), 2, 1),
    ((3, 4, 6, 6), (5, 4, 1, 1), 1, 0),
]  # fmt: skip
"""Shapes of input and weight, stride, padding; more outputs than few, and less."""


@pytest.mark.parametrize("at_a_time", [operators._MOST_PATCHES, 300])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_convolution_is_torchs(case: Any, at_a_time: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operators, "_MOST_PATCHES", at_a_time)
    shape, kernel, stride, padding = case
    plain = torch.nn.functional.conv3d if len(shape) == 5 else torch.nn.functional.conv2d

    def ours(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return operators.convolution(x, weight, bias, stride, padding)

    agree(ours, lambda x, weight, bias: plain(x, weight, bias, stride, padding), shape, kernel, kernel[:1])


@pytest.mark.parametrize("shape", [(1, 8, 3, 4, 5), (3, 8, 4, 5)])
def test_a_norm_of_channels_is_torchs(shape: tuple[int, ...]) -> None:
    def plain(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.layer_norm(x.movedim(1, -1), (8,), weight, bias, 1e-6).movedim(-1, 1)

    agree(lambda x, weight, bias: operators.channel_norm(x, weight, bias, 1e-6), plain, shape, (8,), (8,))


def agree(ours: Callable[..., Tensor], plain: Callable[..., torch.Tensor], *shapes: tuple[int, ...]) -> None:
    """Results and all gradients."""
    get("mindspore", "cpu")
    draw = np.random.default_rng(0)
    arrays = [draw.standard_normal(shape, np.float32) for shape in shapes]
    inputs = [torch.tensor(array, requires_grad=True) for array in arrays]
    expected = plain(*inputs)
    slope = draw.standard_normal(tuple(expected.shape), np.float32)
    expected.backward(torch.tensor(slope))
    tensors = [Tensor(array) for array in arrays]
    np.testing.assert_allclose(ours(*tensors).asnumpy(), expected.detach().numpy(), rtol=0, atol=3e-5)
    gradients = mindspore.grad(lambda *given: (ours(*given) * Tensor(slope)).sum(), (0, 1, 2))(*tensors)
    for gradient, tensor in zip(gradients, inputs, strict=True):
        assert tensor.grad is not None
        wanted = tensor.grad.numpy()
        np.testing.assert_allclose(gradient.asnumpy(), wanted, rtol=0, atol=2e-6 * np.abs(wanted).max() + 3e-5)
