"""Linear maps of the same tokens, packed so that one product does them."""

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import nn

from duosora.backends.torch import layers
from duosora.backends.torch.adapters import AdaptedLinear
from duosora.backends.torch.layers import Linear, Together, pack
from duosora.core.layout import FreshWeights
from duosora.core.models import opensora_t2v
from duosora.core.seam.backend import get

NAMES = ("one", "two", "three")


class Maps(Together):
    together = NAMES

    def __init__(self, bias: bool) -> None:
        super().__init__()
        for name in NAMES:
            setattr(self, name, Linear(6, 4, bias).requires_grad_(False))


@pytest.fixture
def products(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The outputs of each product that is done."""
    made: list[int] = []
    done = layers.linear

    def noted(x: Any, weight: Any, *others: Any) -> Any:
        made.append(len(weight))
        return done(x, weight, *others)

    monkeypatch.setattr(layers, "linear", noted)
    return made


@pytest.mark.parametrize("bias", [True, False])
def test_packed_maps_are_one_product_and_keep_their_weights(bias: bool, products: list[int]) -> None:
    model, x = Maps(bias), torch.randn(2, 5, 6)
    expected, weights = list(model.products(x)), {name: each.clone() for name, each in model.state_dict().items()}
    products.clear()
    pack(model)
    got = list(model.products(x))
    assert products == [12]
    torch.testing.assert_close(got, expected)
    torch.testing.assert_close(model.state_dict(), weights, rtol=0, atol=0)
    assert model.one.weight.untyped_storage().data_ptr() == model.three.weight.untyped_storage().data_ptr()


def test_maps_that_learn_or_are_adapted_compute_by_themselves(products: list[int]) -> None:
    model, x = Maps(bias=True), torch.randn(2, 5, 6)
    pack(model)
    model.two.weight.requires_grad_()
    list(model.products(x))
    assert products == [4, 4, 4]
    adapted = Maps(bias=True)
    adapted.two.__class__ = AdaptedLinear
    pack(adapted)
    assert adapted._packed is None


class Beside(nn.Module):
    """As peft puts itself around a layer."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.layer = layer

    @property
    def weight(self) -> Any:
        return self.layer.weight

    def forward(self, x: Any) -> Any:
        return self.layer(x) + 1


def wrapped(model: Maps) -> Maps:
    model.two = Beside(model.two)
    return model


def reloaded(model: Maps) -> Maps:
    model = deepcopy(model)
    model.load_state_dict({name: 2 * each for name, each in model.state_dict().items()})
    return model


def assigned(model: Maps) -> Maps:
    model.load_state_dict({name: 2 * each for name, each in model.state_dict().items()}, assign=True)
    return model.requires_grad_(False)


@pytest.mark.parametrize("change", [wrapped, reloaded, assigned, lambda model: model.double(), lambda model: model])
def test_a_model_that_someone_has_changed_computes_with_what_it_has(change: Callable[[Maps], Maps]) -> None:
    model = Maps(bias=True)
    pack(model)
    model = change(model)
    x = torch.randn(2, 5, 6, dtype=model.one.weight.dtype)
    torch.testing.assert_close(list(model.products(x)), [getattr(model, name)(x) for name in NAMES])


def test_a_cpu_holds_no_more_than_one_result_of_many_tokens(products: list[int]) -> None:
    model = Maps(bias=True)
    pack(model)
    made = model.products(torch.zeros(1, layers._FEW_NUMBERS // 6 + 1, 6))
    assert products == []
    next(made)
    assert products == [4]


def test_a_model_is_built_with_its_maps_packed() -> None:
    spec = opensora_t2v.TINY
    block = next(iter(get("torch", "cpu").build(spec, FreshWeights(spec.layout(), 0)).blocks()))
    assert block.attn1._packed[0].shape == (3 * spec.hidden_size, spec.hidden_size)
    assert block.attn2._packed[0].shape == (2 * spec.hidden_size, spec.hidden_size)
