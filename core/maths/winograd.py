"""Winograd's way to filter with three taps: neighbouring results share products, so fewer are needed.

Two results need four products instead of six, four results six instead of twelve. Inputs are mixed (a few additions),
each mixture is multiplied by a mixture of the taps, and the products are mixed into results. In exact arithmetic the
results are the filter's; in float32 they are as far from them as those of the plain way, or up to some five times.
Source: Winograd 1980; Lavin & Gray 2016, arXiv:1509.09308. The points are scaled so that numbers stay small.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np

NUM_TAPS = 3
FIRST = -1
"""In place of a number of inputs in front: there are none, and copies of the first input stand for them."""
_POINTS = {1: (0.0, 1.0), 2: (0.0, 1.0, -1.0), 4: (0.0, 0.75, -0.75, 1.5, -1.5)}
"""By the number of results, where the polynomials are evaluated; beside infinity. Exact in binary."""


@dataclass(frozen=True, eq=False)
class Products:
    """How P products come of taps, and R results of products."""

    taps: np.ndarray
    """(P, 3): mixtures of the taps."""
    results: np.ndarray
    """(R, P): mixtures of the products."""
    bias: np.ndarray
    """(P,): how much of a bias each product is given, so that each result has it once."""


class FilterWindow(NamedTuple):
    """Results start .. stop - 1 and what they are made of."""

    start: int
    stop: int
    first: int
    """The inputs first .. stop - 1 are in it."""
    inputs: np.ndarray
    """(P, stop - first): mixtures of these inputs."""
    before: np.ndarray
    """(P, number in front): mixtures of the inputs in front."""
    products: Products


@lru_cache(maxsize=256)
def windows(length: int, num_before: int, largest: int) -> tuple[FilterWindow, ...]:
    """What a causal filter's results for `length` inputs are made of.

    num_before: inputs that are known in front of them, zeros in front of those; FIRST: copies of the first input.
    largest: the most results that are made together, 1, 2 or 4: the more, the fewer products and the larger the error.
    """
    planned, start = [], 0
    for size in _sizes(length, num_before, largest):
        planned.append(_window(start, size, num_before))
        start += size
    return tuple(planned)


def _sizes(length: int, num_before: int, largest: int) -> list[int]:
    """Of copies alone one result takes one product, and two results take two, so an odd one comes first there."""
    sizes = [2 - length % 2] if num_before == FIRST else []
    while (left := length - sum(sizes)) > 0:
        sizes.append(max(size for size in _POINTS if size <= min(left, largest)))
    return sizes


def _window(start: int, size: int, num_before: int) -> FilterWindow:
    of_inputs, products = mixing(size)
    front = max(0, num_before)
    first = max(0, start - NUM_TAPS + 1)
    inputs, before = np.zeros((len(of_inputs), start + size - first)), np.zeros((len(of_inputs), front))
    for column, place in zip(of_inputs.T, range(start - NUM_TAPS + 1, start + size), strict=True):
        if place >= 0 or num_before == FIRST:
            inputs[:, max(place, 0) - first] += column
        elif place >= -front:
            before[:, place] += column
    if num_before == FIRST and start + size == 1:
        once = Products(np.ones((1, NUM_TAPS)), np.ones((1, 1)), np.ones(1))
        return FilterWindow(0, 1, 0, np.ones((1, 1)), before[:1], once)
    used = inputs.any(1) | before.any(1)
    kept = Products(products.taps[used], products.results[:, used], _shares(products.results[:, used]))
    return FilterWindow(start, start + size, first, inputs[used], before[used], products if used.all() else kept)


@lru_cache
def mixing(size: int) -> tuple[np.ndarray, Products]:
    """The mixtures (P, size + 2) of `size` + 2 inputs, and what becomes of them."""
    if size == 1:
        return np.eye(NUM_TAPS), Products(np.eye(NUM_TAPS), np.ones((1, NUM_TAPS)), np.full(NUM_TAPS, 1 / NUM_TAPS))
    points = np.array(_POINTS[size])
    num_products = size + NUM_TAPS - 1
    inputs, taps = np.zeros((num_products, num_products)), np.zeros((num_products, NUM_TAPS))
    for i, point in enumerate(points):
        others = np.delete(points, i)
        inputs[i, :-1] = np.poly(others)[::-1]
        taps[i] = point ** np.arange(NUM_TAPS) / np.prod(point - others)
    inputs[-1] = np.poly(points)[::-1]
    taps[-1, -1] = 1
    results = np.concatenate([points[None] ** np.arange(size)[:, None], np.eye(size)[:, -1:]], 1)
    # By powers of two, so that nothing is rounded: mixtures of inputs stay as large as inputs.
    scale = 2.0 ** np.round(np.log2(np.abs(inputs).max(1)))[:, None]
    return inputs / scale, Products(taps * scale, results, _shares(results))


def _shares(results: np.ndarray) -> np.ndarray:
    return np.linalg.pinv(results) @ np.ones(len(results))
