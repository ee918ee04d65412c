"""Draws of many generators at once are numpy's own."""

import numpy as np

from duosora.core.bucketing.draws import first_draws


def test_they_are_those_of_a_generator_of_each_seed() -> None:
    large = np.random.default_rng(0).integers(0, 2**64, 200, np.uint64)
    seeds = np.concatenate([np.arange(200, dtype=np.uint64), large, np.arange(2**32 - 5, 2**32 + 5, dtype=np.uint64)])
    expected = np.array([np.random.default_rng(int(seed)).random(2) for seed in seeds])
    np.testing.assert_array_equal(first_draws(seeds), expected)
    assert first_draws(seeds[:0]).shape == (0, 2)
