"""Seconds and bytes of a call of a model, from its counted work."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

from ..layout import Layout
from ..models.kinds import Spec
from ..models.work import Counted, Product, Work, counted
from .constants import CALLS, FIRST, ITEMSIZE, KEPT, KERNELS, PASSES, REORDERED, WEIGHT_PASSES
from .devices import Device


def layout_of(spec: Spec) -> Layout:
    """Of a spec, made once."""
    held: Any = spec
    return _layout_of(held)


def called(spec: Spec, name: str, *sizes: Any, only: tuple[str, ...] = ()) -> tuple[Work, Counted]:
    """What a spec says of a call (`work`, `encoding`, `decoding`) with sizes, and its count; only: as `counted`."""
    held: Any = spec
    return _called(held, name, sizes, only)


def call_seconds(tally: Counted, device: Device, dtype: str) -> float:
    """Of a call without gradients, what is done once aside."""
    rates = device.of(dtype)
    calls = CALLS[device.kind] * rates.call
    attention = sum(rates.attention(each) + each.times * calls for each in tally.attention)
    return products_seconds(tally.products, device, dtype) + attention


def products_seconds(products: Mapping[Product, int], device: Device, dtype: str) -> float:
    """Of products with what is around them."""
    rates, calls = device.of(dtype), CALLS[device.kind]
    return sum(
        times * (max(rates.product(product), _read(product, device, dtype)) + _around(product, device, dtype))
        + times * calls * rates.call
        for product, times in products.items()
    )


def first_seconds(tally: Counted, device: Device) -> float:
    """Of the first call of its shapes, beyond what later ones take."""
    return FIRST[device.kind] * _num_shapes(tally)


def kernel_bytes(tally: Counted, device: Device, dtype: str) -> int:
    """What stays of the first call."""
    return KERNELS[device.kind].get(dtype, 0) * _num_shapes(tally)


def _num_shapes(tally: Counted) -> int:
    return len(tally.products) + len(tally.once) + len(tally.attention)


def alive_bytes(work: Work, tally: Counted, device: Device, dtype: str) -> int:
    """At the widest moment of a call without gradients, weights aside."""
    products = (*tally.products, *tally.once)
    widest = max((_elements(product, product.together) for product in products), default=0)
    reordered = max((each.together * each.inputs for each in products if each.kernel > 1), default=0)
    elements = work.alive * widest + work.copied * REORDERED[device.kind] * reordered
    return int(elements * ITEMSIZE[dtype])


def once_bytes(tally: Counted, dtype: str) -> int:
    """What stays of the products before the first step."""
    return ITEMSIZE[dtype] * sum(product.places * product.outputs * times for product, times in tally.once.items())


def stream_bytes(products: Iterable[Product], dtype: str) -> int:
    """Frames that convolutions along time keep for the next chunk."""
    return ITEMSIZE[dtype] * sum(product.behind * product.inputs for product in products)


def kept_bytes(tally: Counted, dtype: str) -> int:
    """What a backward pass wants of a call, weights aside."""
    kept = sum(
        times * KEPT[product.kernel > 1] * _elements(product, product.places)
        for product, times in (*tally.products.items(), *tally.once.items())
    )
    return int(ITEMSIZE[dtype] * kept)


def _read(product: Product, device: Device, dtype: str) -> float:
    """Seconds to bring the weights of a product out of memory."""
    size = product.inputs * product.kernel * product.outputs * ITEMSIZE[dtype]
    return WEIGHT_PASSES[device.kind] * size / device.of(dtype).elementwise


def _around(product: Product, device: Device, dtype: str) -> float:
    """Seconds of norms, activations, gates and copies beside a product."""
    passes = PASSES[device.kind][product.kernel > 1]
    return passes * _elements(product, product.places) * ITEMSIZE[dtype] / device.of(dtype).elementwise


def _elements(product: Product, places: int) -> int:
    return places * (product.inputs + product.outputs)


@lru_cache(maxsize=256)
def _layout_of(spec: Any) -> Layout:
    return spec.layout()


@lru_cache(maxsize=1024)
def _called(spec: Any, name: str, sizes: tuple[Any, ...], only: tuple[str, ...]) -> tuple[Work, Counted]:
    work = getattr(spec, name)(*sizes)
    return work, counted(layout_of(spec), work, only)
