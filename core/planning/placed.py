"""Where the weights of a model are while it computes: whole on the device, or block by block; and those of 8 bits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from math import prod
from typing import NamedTuple

from ..layout import Layout
from ..maths.eight_bits import EIGHT_BITS
from ..models.kinds import DenoiserSpec, TextEncoderSpec
from ..models.work import Counted
from ..seam.backend import compute_dtype
from .constants import ITEMSIZE
from .counting import layout_of
from .devices import Device

SCALE_BYTES = 4
"""Of a row in 8 bits."""


class HeldWeights(NamedTuple):
    """Bytes of a model's weights."""

    device: int
    host: int = 0
    """In the host's memory, where the device has its own: what a call copies to the device."""


def whole_bytes(layout: Layout, dtype: str, device: Device) -> int:
    """Of all weights. dtype: of ITEMSIZE, or EIGHT_BITS."""
    return sum(_bytes(weight.shape, dtype, device) for weight in layout.weights.values())


def streamed_bytes(spec: TextEncoderSpec, tokens: int, dtype: str, device: Device) -> int:
    """Of two blocks, of what is in none, and of the rows of the table that so many tokens ask for.

    The last matrix of a block comes when the block before has gone.
    """
    layout, inside = layout_of(spec), _of_blocks(layout_of(spec), spec.blocks(), dtype, device)
    rows, width = layout[spec.token_table].shape
    unread = _bytes((rows, width), dtype, device) - _bytes((min(rows, tokens), width), dtype, device)
    last = [weight.shape for name, weight in layout.weights.items() if name.startswith(f"{spec.blocks()[-1]}.")]
    late = _bytes(next(shape for shape in reversed(last) if len(shape) == 2), dtype, device)
    return whole_bytes(layout, dtype, device) - sum(inside) - unread + sum(sorted(inside)[-2:]) - late


def hosted(spec: DenoiserSpec, dtype: str, device: Device) -> HeldWeights:
    """With two blocks on the device, and all of them on the host."""
    layout = layout_of(spec)
    inside = _of_blocks(layout, spec.blocks(), dtype, device)
    return HeldWeights(whole_bytes(layout, dtype, device) - sum(inside) + 2 * max(inside, default=0), sum(inside))


def widening_seconds(tally: Counted, dtype: str, device: Device) -> float:
    """Of a call, to bring matrices of 8 bits to the dtype that they are multiplied in; 0 of others."""
    if dtype != EIGHT_BITS:
        return 0.0
    computed = compute_dtype(dtype, device.on_host)
    numbers = sum(times * each.inputs * each.kernel * each.outputs for each, times in tally.products.items())
    return numbers * (1 + 2 * ITEMSIZE[computed]) / device.of(computed).elementwise


def widened_bytes(spec: TextEncoderSpec, dtype: str, device: Device) -> int:
    """Of the largest matrix of 8 bits while it is multiplied; 0 of others."""
    if dtype != EIGHT_BITS:
        return 0
    shapes = [weight.shape for name, weight in layout_of(spec).weights.items() if name != spec.token_table]
    return ITEMSIZE[compute_dtype(dtype, device.on_host)] * max(map(prod, shapes))


def _of_blocks(layout: Layout, blocks: Sequence[str], dtype: str, device: Device) -> Sequence[int]:
    """Bytes of the matrices in each block."""
    depth, sizes = blocks[0].count(".") + 1 if blocks else 0, Counter(dict.fromkeys(blocks, 0))
    for name, weight in layout.weights.items():
        block = ".".join(name.split(".")[:depth])
        if block in sizes and len(weight.shape) == 2:
            sizes[block] += _bytes(weight.shape, dtype, device)
    return list(sizes.values())


def _bytes(shape: Sequence[int], dtype: str, device: Device) -> int:
    if dtype == EIGHT_BITS and len(shape) == 2:
        return prod(shape) + SCALE_BYTES * shape[0]
    return ITEMSIZE[compute_dtype(dtype, device.on_host)] * prod(shape)
