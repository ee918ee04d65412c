"""Convolutions as products of gathered patches or of mixtures, and norms, against torch's and the plain form."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import mindspore
import numpy as np
import pytest
import torch
from mindspore import Tensor, ops

from duosora.backends.mindspore import layers, operators
from duosora.backends.mindspore.layers import LayerNorm
from duosora.core import random
from duosora.core.layout import FreshWeights
from duosora.core.models import wfvae
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


SHARED = [
    ((2, 4, 5, 6, 7), (3, 4, 3, 3, 3), (0, 1, 1)),
    ((1, 4, 11, 5, 4), (6, 4, 3, 3, 3), (1, 1, 1)),
    ((1, 4, 3, 6, 6), (3, 4, 3, 3, 3), (0, 1, 1)),
    ((1, 4, 1, 2, 3), (3, 4, 3, 3, 3), (1, 1, 1)),
    ((3, 4, 6, 7), (5, 4, 3, 3), (1, 1)),
    ((1, 4, 1, 1), (5, 4, 3, 3), (1, 1)),
]  # fmt: skip
"""Shapes of input and weight, padding."""


@pytest.fixture
def sharing(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Convolutions share products however few channels there are; how many frames or pictures each has."""
    called: list[int] = []
    own = operators._by_shared_products

    def noted(x: Tensor, *rest: Any) -> Tensor:
        called.append(x.shape[0])
        return own(x, *rest)

    monkeypatch.setattr(operators, "_by_shared_products", noted)
    monkeypatch.setattr(operators, "_LEAST_CHANNELS", 1)
    operators._groups.cache_clear()
    yield called
    operators._groups.cache_clear()


@pytest.mark.parametrize("has_channels_inside", [False, True])
@pytest.mark.parametrize("at_a_time", [operators._MOST_MIXTURES, 200])
@pytest.mark.parametrize("case", SHARED, ids=str)
def test_a_convolution_by_shared_products_is_torchs(
    case: Any, at_a_time: int, has_channels_inside: bool, sharing: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = get("mindspore", "cpu")
    monkeypatch.setattr(operators, "_MOST_MIXTURES", at_a_time)
    monkeypatch.setattr(operators, "_MOST_PATCHES", at_a_time)
    shape, kernel, padding = case
    draw = np.random.default_rng(0)
    x, weight, bias = (draw.standard_normal(size, np.float32) for size in (shape, kernel, kernel[:1]))
    given = Tensor(x)
    if has_channels_inside:
        last = len(shape) - 1
        given = Tensor(np.moveaxis(x, 1, -1).copy()).permute(0, last, *range(1, last))
    with backend.inference():
        found = operators.convolution(given, Tensor(weight), Tensor(bias), 1, padding)
    assert sharing
    assert found.is_contiguous() == given.is_contiguous()
    plain = torch.nn.functional.conv3d if len(shape) == 5 else torch.nn.functional.conv2d
    expected = plain(*(torch.tensor(each).double() for each in (x, weight, bias)), 1, padding)
    np.testing.assert_allclose(found.asnumpy(), expected.numpy(), rtol=0, atol=1e-4)  # of numbers up to 30


@pytest.mark.slow
def test_an_autoencoder_by_shared_products_is_the_plain_one(sharing: list[int]) -> None:
    backend, spec = get("mindspore", "cpu"), wfvae.TINY
    model = backend.build(spec, FreshWeights(spec.layout(), 0))
    latents = Tensor(random.normal((2, spec.latent_dim, 5, 4, 6), 0, "latents"))
    video = Tensor(random.normal((2, 3, 17, 32, 48), 0, "video"))
    moments, pixels = model.encode(video).moments["latent"].asnumpy(), model.decode(latents).asnumpy()
    assert not sharing
    with backend.inference():
        found = model.encode(video).moments["latent"].asnumpy()
        stream, parts = model.stream(), []
        for number, part in enumerate((latents[:, :, :2], latents[:, :, 2:3], latents[:, :, 3:])):
            stream.advance(is_last=number == 2)
            parts.append(model.decode(part, stream=stream).asnumpy())
    assert sharing
    np.testing.assert_allclose(found, moments, rtol=0, atol=2e-5 * np.abs(moments).max())
    np.testing.assert_allclose(np.concatenate(parts, 2), pixels, rtol=0, atol=2e-5 * np.abs(pixels).max())


def test_threads_that_ask_for_no_gradients_leave_those_of_others_alone(sharing: list[int]) -> None:
    """One begins before the other and ends before it, as ranks that are threads do."""
    backend = get("mindspore", "cpu")
    first, second = backend.inference(), backend.inference()
    x, weight = Tensor(np.ones((1, 16, 3, 4, 4), np.float32)), Tensor(np.ones((16, 16, 3, 3, 3), np.float32))
    with ThreadPoolExecutor(1) as one, ThreadPoolExecutor(1) as other:
        for thread, step in ((one, first.__enter__), (other, second.__enter__)):
            thread.submit(step).result()
        for thread, context in ((one, first), (other, second)):
            thread.submit(context.__exit__, None, None, None).result()
        for thread in (one, other):
            thread.submit(operators.convolution, x, weight, None, 1, (0, 1, 1)).result()
    assert not sharing


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


@pytest.mark.parametrize("batch", [1, 2])
def test_a_modulated_norm_is_the_plain_one(batch: int) -> None:
    backend = get("mindspore", "cpu")
    draw = np.random.default_rng(0)
    x, shift, scale = (Tensor(draw.standard_normal((batch, n, 24), np.float32)) for n in (5, 1, 1))
    norm = LayerNorm(24, eps=1e-6, elementwise_affine=False)
    expected = (norm(x) * (1 + scale) + shift).asnumpy()
    np.testing.assert_allclose(norm(x, shift, scale).asnumpy(), expected, rtol=0, atol=2e-6)
    with backend.inference():
        np.testing.assert_allclose(norm(x, shift, scale).asnumpy(), expected, rtol=0, atol=2e-6)


def test_on_every_device_a_norm_is_modulated_inside_only_where_no_gradients_are_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    backend, after = get("mindspore", "cpu"), []
    monkeypatch.setattr(layers, "addcmul", lambda *given: after.append(given) or operators.addcmul(*given))
    monkeypatch.setattr(operators, "_forms", replace(operators._ON_HOST))  # as where the forms are an Ascend's
    norm, x, one = LayerNorm(24, eps=1e-6, elementwise_affine=False), ops.ones((1, 5, 24)), ops.ones((1, 1, 24))
    with backend.inference():
        norm(x, one, one)
    assert not after
    norm(x, one, one)
    assert len(after) == 1
