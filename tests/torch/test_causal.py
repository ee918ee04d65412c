"""Causal convolutions by shared products, against the plain form."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from duosora.backends.torch import causal, operators
from duosora.backends.torch.layers import Conv3d
from duosora.core import random
from duosora.core.layout import FreshWeights
from duosora.core.models import wfvae
from duosora.core.seam.backend import get

CALLS = list[tuple[int, ...]]
CHANNELS, WIDTH = 3, 5


@pytest.fixture
def products(monkeypatch: pytest.MonkeyPatch) -> Iterator[CALLS]:
    """The convolutions that are called, by the shape of their kernels. All are shared, whatever is gained."""
    called: CALLS = []

    def noting(own: Any) -> Any:
        def noted(x: Tensor, weight: Tensor, *rest: Any) -> Tensor:
            called.append(tuple(weight.shape[2:]))
            return own(x, weight, *rest)

        return noted

    monkeypatch.setattr(torch, "mkldnn_convolution", noting(torch.mkldnn_convolution))
    monkeypatch.setattr(causal, "_convolved", noting(causal._convolved))
    monkeypatch.setattr(causal, "_LEAST_POSITIONS", 0)
    monkeypatch.setattr(causal, "_LEAST_CHANNELS", 1)
    yield called
    causal._groups.cache_clear()


def draw(*shape: int, name: str = "frames") -> Tensor:
    return torch.from_numpy(random.normal(shape, 0, name))


def convolution(bias: bool = True) -> Conv3d:
    conv = Conv3d(CHANNELS, 4, 3, padding=(0, 1, 1), bias=bias)
    conv.weight.data = draw(4, CHANNELS, 3, 3, 3, name="weight")
    return conv.requires_grad_(False)


@pytest.mark.parametrize("positions", [2048, 20, 1], ids=["whole", "bands", "rows"])
@pytest.mark.parametrize("num_before", [None, 0, 1, 2])
@pytest.mark.parametrize("length", [1, 2, 3, 4, 9, 14])
def test_frames_are_those_of_the_plain_form(
    length: int, num_before: int | None, positions: int, products: CALLS, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(causal, "_POSITIONS_AT_A_TIME", positions)
    conv = convolution(bias=length != 3)
    frames, onto = draw(2, CHANNELS, length, 7, WIDTH), draw(2, 4, length, 7, WIDTH, name="onto")
    before = None if num_before is None else draw(2, CHANNELS, num_before, 7, WIDTH, name="before")
    front = [frames[:, :, :1]] * 2 if before is None else [functional.pad(before, (0,) * 4 + (2 - before.shape[2], 0))]
    expected = functional.conv3d(torch.cat([*front, frames], 2).double(), conv.weight.double(), padding=(0, 1, 1))
    if conv.bias is not None:
        expected += conv.bias.double()[:, None, None, None]
    found = causal.convolve_causally(conv, frames, before)
    assert products
    assert set(products) == {(3, 3)}
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-4)  # of numbers up to 30
    torch.testing.assert_close(causal.convolve_causally(conv, frames, before, onto), found + onto, rtol=0, atol=1e-4)
    lent = onto.contiguous(memory_format=torch.channels_last_3d)
    in_place = causal.convolve_causally(conv, frames, before, lent)
    assert in_place.data_ptr() == lent.data_ptr()
    torch.testing.assert_close(in_place, found + onto, rtol=0, atol=1e-4)


@pytest.mark.parametrize("num_before", [None, 0, 1, 2])
def test_an_activation_goes_before_it_and_leaves_zeros_outside(num_before: int | None, products: CALLS) -> None:
    conv, frames = convolution(), draw(2, CHANNELS, 5, 7, WIDTH)
    before = None if num_before is None else draw(2, CHANNELS, num_before, 7, WIDTH, name="before")
    found = causal.convolve_causally(conv, frames, before, activation=torch.exp)
    expected = causal.convolve_causally(conv, frames.exp(), None if before is None else before.exp())
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
    with operators.plain():
        plain = causal.convolve_causally(conv, frames, before, activation=torch.exp)
    torch.testing.assert_close(plain, expected, rtol=0, atol=1e-4)


@pytest.mark.skipif(not torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason="needs a processor with bfloat16")
def test_in_bfloat16_they_are_as_near_as_those_of_the_plain_form(products: CALLS) -> None:
    conv, frames = convolution().bfloat16(), draw(1, CHANNELS, 13, 9, 9).bfloat16()
    with operators.plain():
        plain = causal.convolve_causally(conv, frames, None)
    assert not products
    found = causal.convolve_causally(conv, frames, None)
    assert set(products) == {(3, 3)}
    exact = causal.convolve_causally(conv.float(), frames.float(), None)
    error, plain_error = (float((x.float() - exact).square().mean().sqrt()) for x in (found, plain))
    assert error < 2.5 * plain_error


def test_where_gradients_are_kept_the_plain_form_is_taken(products: CALLS) -> None:
    conv, frames = convolution(), draw(1, CHANNELS, 5, 7, WIDTH)
    frames.requires_grad_()
    causal.convolve_causally(conv, frames, None).sum().backward()
    assert set(products) == {(3, 3, 3)}


@pytest.mark.parametrize("chunks", [[5], [2, 2, 1], [1, 4]])
def test_an_autoencoder_by_shared_products_is_the_plain_one(chunks: list[int], products: CALLS) -> None:
    backend, spec = get("torch", "cpu"), wfvae.TINY
    model = backend.build(spec, FreshWeights(spec.layout(), 0))
    latents, video = draw(1, spec.latent_dim, 5, 4, 6), draw(1, 3, 17, 32, 48)
    with backend.inference():
        with operators.plain():
            moments, pixels = model.encode(video).moments["latent"], model.decode(latents)
        assert not products
        stream, parts = model.stream(), []
        for number, part in enumerate(latents.split(chunks, 2)):
            stream.advance(is_last=number == len(chunks) - 1)
            parts.append(model.decode(part, stream=stream))
        assert (3, 3) in products
        torch.testing.assert_close(torch.cat(parts, 2), pixels, rtol=0, atol=2e-5 * float(pixels.abs().max()))
        found = model.encode(video).moments["latent"]
        torch.testing.assert_close(found, moments, rtol=0, atol=2e-5 * float(moments.abs().max()))
