"""Buckets of relative positions."""

import numpy as np
import pytest

from duosora.core.maths.relative_position import relative_buckets


def test_buckets_of_mt5_start_at_these_distances() -> None:
    buckets = relative_buckets(400, 32, 128)
    behind, ahead = buckets[-1, ::-1], buckets[0]  # by distance
    starts = [0, 1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 23, 32, 46, 64, 91]
    assert np.unique(behind, return_index=True)[1].tolist() == starts
    assert behind[-1] == 15
    assert (ahead[1:] == behind[1:] + 16).all()
    assert ahead[0] == 0


@pytest.mark.parametrize(("num_buckets", "max_distance"), [(32, 128), (16, 40), (8, 20), (64, 256), (32, 512)])
def test_far_distances_share_the_last_bucket_and_near_ones_have_their_own(num_buckets: int, max_distance: int) -> None:
    behind = relative_buckets(600, num_buckets, max_distance)[-1, ::-1]
    half = num_buckets // 2
    assert behind[: half // 2].tolist() == list(range(half // 2))
    assert (np.diff(behind) >= 0).all()
    assert (behind[max_distance:] == half - 1).all()
    assert behind.max() == half - 1


def test_a_bucket_depends_on_the_distance_only() -> None:
    buckets = relative_buckets(50, 32, 128)
    np.testing.assert_array_equal(buckets[:-1, :-1], buckets[1:, 1:])
    np.testing.assert_array_equal(relative_buckets(20, 32, 128), buckets[:20, :20])


def test_a_text_of_one_token_has_one_bucket() -> None:
    assert relative_buckets(1, 32, 128).tolist() == [[0]]
