"""Causal filters of three taps by shared products, against the filter written out."""

import numpy as np
import pytest

from duosora.core.maths.winograd import FIRST, windows


def filtered(taps: np.ndarray, extended: np.ndarray) -> np.ndarray:
    return np.stack([taps @ extended[i : i + 3] for i in range(len(extended) - 2)])


@pytest.mark.parametrize("largest", [1, 2, 4])
@pytest.mark.parametrize("num_before", [FIRST, 0, 1, 2])
def test_results_are_those_of_the_filter_with_its_bias(num_before: int, largest: int) -> None:
    draw = np.random.default_rng(0)
    for length in range(1, 12):
        taps, inputs = draw.standard_normal(3), draw.standard_normal((length, 5))
        before = draw.standard_normal((max(0, num_before), 5))
        front = [inputs[:1]] * 2 if num_before == FIRST else [np.zeros((2 - num_before, 5)), before]
        results = np.full_like(inputs, np.nan)
        for start, stop, first, mixing, before_mixing, products in windows(length, num_before, largest):
            mixtures = mixing @ inputs[first:stop] + before_mixing @ before
            made = (products.taps @ taps)[:, None] * mixtures + 0.5 * products.bias[:, None]
            results[start:stop] = products.results @ made
        np.testing.assert_allclose(results, filtered(taps, np.concatenate([*front, inputs])) + 0.5, rtol=0, atol=1e-12)


def test_sharing_takes_half_of_the_products() -> None:
    def count(length: int, num_before: int, largest: int = 4) -> int:
        return sum(len(window.inputs) for window in windows(length, num_before, largest))

    assert count(8, 2) == 12  # of 24
    assert count(8, 2, largest=2) == 16
    assert count(9, FIRST) == 13
    assert count(1, FIRST) == 1  # a picture: all taps see the same
    assert count(2, FIRST) == 2
