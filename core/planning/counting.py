"""Seconds and bytes of a call of a model, from its counted work."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ..layout import Layout
from ..models.work import Counted, Product, Work
from .constants import ALIVE, CALLS, ITEMSIZE, KEPT, PASSES
from .devices import Device


def call_seconds(counted: Counted, device: Device, dtype: str) -> float:
    """Of a call without gradients, what is done once aside."""
    rates = device.of(dtype)
    calls = CALLS[device.backend] * rates.call
    attention = sum(rates.attention(each) + each.times * calls for each in counted.attention)
    return products_seconds(counted.products, device, dtype) + attention


def products_seconds(products: Mapping[Product, int], device: Device, dtype: str) -> float:
    """Of products with what is around them."""
    rates, calls = device.of(dtype), CALLS[device.backend]
    return sum(
        times * (rates.product(product) + _around(product, device, dtype) + calls * rates.call)
        for product, times in products.items()
    )


def alive_bytes(work: Work, counted: Counted, device: Device, dtype: str) -> int:
    """At the widest moment of a call without gradients, weights aside."""
    widest = max((_elements(product, product.together) for product in (*counted.products, *counted.once)), default=0)
    return int(work.alive * ALIVE[device.backend] * widest * ITEMSIZE[dtype])


def once_bytes(counted: Counted, dtype: str) -> int:
    """What stays of the products before the first step."""
    return ITEMSIZE[dtype] * sum(product.places * product.outputs * times for product, times in counted.once.items())


def stream_bytes(products: Iterable[Product], dtype: str) -> int:
    """Frames that convolutions along time keep for the next chunk."""
    return ITEMSIZE[dtype] * sum(product.behind * product.inputs for product in products)


def kept_bytes(counted: Counted, dtype: str) -> int:
    """What a backward pass wants of a call, weights aside."""
    kept = sum(
        times * KEPT[product.kernel > 1] * _elements(product, product.places)
        for product, times in (*counted.products.items(), *counted.once.items())
    )
    return int(ITEMSIZE[dtype] * kept)


def weight_bytes(layout: Layout, dtype: str) -> int:
    """Of a model that is loaded."""
    return layout.num_parameters * ITEMSIZE[dtype]


def _around(product: Product, device: Device, dtype: str) -> float:
    """Seconds of norms, activations, gates and copies beside a product."""
    passes = PASSES[device.backend][product.kernel > 1]
    return passes * _elements(product, product.places) * ITEMSIZE[dtype] / device.of(dtype).elementwise


def _elements(product: Product, places: int) -> int:
    return places * (product.inputs + product.outputs)
