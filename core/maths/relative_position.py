"""Buckets of relative positions for T5's attention bias."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

WHOLE_STEP_MARGIN = 1e-6
"""A distance that is a whole number of steps belongs to the upper bucket, however its logarithm was rounded."""


@lru_cache(maxsize=16)
def relative_buckets(length: int, num_buckets: int, max_distance: int) -> np.ndarray:
    """The bucket of key position minus query position for an encoder, (length queries, length keys) int64, read-only.

    Half of the buckets are for keys behind the query; in each half, the first half are single distances and the rest
    grow logarithmically up to max_distance. Computed here, in float64 and numpy, because a rounding in the logarithm
    moves whole distances to another bucket (MindSpore's float32 logarithm on the CPU does).
    Source: Raffel et al. 2020, arXiv:1910.10683, section 2.1.
    """
    distance = np.arange(length)[None, :] - np.arange(length)[:, None]
    half = num_buckets // 2
    exact = half // 2
    size = np.abs(distance)
    steps = np.log(np.maximum(size, 1) / exact) / np.log(max_distance / exact) * (half - exact)
    far = np.minimum(exact + np.floor(steps + WHOLE_STEP_MARGIN).astype(np.int64), half - 1)
    buckets = np.where(distance > 0, half, 0) + np.where(size < exact, size, far)
    buckets.flags.writeable = False
    return buckets
