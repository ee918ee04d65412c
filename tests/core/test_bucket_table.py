"""Buckets by resolution and length: where samples go, and in which batches they come."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from duosora.core.bucketing.order import batch_order
from duosora.core.bucketing.table import Bucket, BucketTable
from duosora.core.errors import ConfigError
from duosora.core.recipes.opensora_v1_2_sizes import SIZES

TABLE = BucketTable({"144p": {1: (1.0, 4), 51: (1.0, 2)}, "480p": {1: (0.5, 2), 51: ((0.5, 0.8), 1)}}, SIZES)


def test_a_sample_goes_to_the_largest_bucket_that_it_fills() -> None:
    table = BucketTable({"144p": {17: (1, 4), 51: (1, 2)}, "480p": {51: (1, 1)}}, SIZES)
    assert table.assign(60, 480, 854, seed=0) == Bucket("480p", 51, "0.56")
    assert table.assign(51, 480, 854, seed=0) == Bucket("144p", 17, "0.56")
    assert table.assign(60, 200, 200, seed=0) == Bucket("144p", 51, "1.00")
    assert table.assign(60, 480, 854, seed=0, interval=2) == Bucket("144p", 17, "0.56")
    assert table.assign(60, 100, 100, seed=0) is None
    assert table.assign(1, 480, 854, seed=0) is None
    assert table.video(Bucket("144p", 17, "0.56")) == (17, 144, 256)


def test_chance_follows_the_table_and_the_seed_alone() -> None:
    seeds = TABLE.seeds_of(np.arange(2000), 0, 0)
    found = [TABLE.assign(60, 480, 854, seed) for seed in seeds]
    assert found == [TABLE.assign(60, 480, 854, seed) for seed in seeds]
    counts = Counter(bucket.resolution for bucket in found if bucket)
    assert counts["144p"] + counts["480p"] == 2000
    assert abs(counts["480p"] / 2000 - 0.4) < 0.04


@pytest.mark.parametrize(
    ("table", "told"),
    [
        ({"150p": {1: (1, 1)}}, "resolution = '150p'"),
        ({"144p": {"two": (1, 1)}}, "b.144p: expected a number of frames, got 'two'"),
        ({"144p": {1: 1}}, "b.144p.1: expected [probability, batch size], got 1"),
        ({"144p": {1: (1.5, 1)}}, "b.144p.1: expected probabilities from 0 to 1, got 1.5"),
        ({"144p": {1: ((1, -1), 1)}}, "b.144p.1: expected probabilities from 0 to 1"),
        ({"144p": {1: (0.5, None)}}, "b.144p.1: expected a batch size of at least 1, got None"),
        ({"144p": {1: (1, 0)}}, "b.144p.1: expected a batch size of at least 1, got 0"),
    ],
)
def test_a_table_that_cannot_be_is_refused(table: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError) as refused:
        BucketTable(table, SIZES, "b")
    assert told in str(refused.value)


def test_a_bucket_of_probability_zero_needs_no_batch_size() -> None:
    table = BucketTable({"144p": {51: (0.0, None)}}, SIZES)
    assert table.assign(60, 144, 256, seed=0) is None


class Reversing:
    def __call__(self, count: int) -> Sequence[int]:
        return range(count)[::-1]


BUCKETS = ["a", "b", None, "a", "a", "b", "b", "a", "a", "c"]
SIZE = {"a": 2, "b": 3, "c": 4}.__getitem__


@pytest.mark.parametrize("ranks", [1, 2, 3])
@pytest.mark.parametrize("permutation", [None, Reversing()])
def test_whole_batches_come_once_and_no_batch_mixes_buckets(ranks: int, permutation: Any) -> None:
    steps = batch_order(BUCKETS, SIZE, ranks, permutation)
    batches = [batch for step in steps for batch in step]
    assert all(len(step) == ranks for step in steps)
    assert all(len(batch.samples) == SIZE(batch.bucket) for batch in batches)
    assert all(BUCKETS[sample] == batch.bucket for batch in batches for sample in batch.samples)
    assert max(Counter(sample for batch in batches for sample in batch.samples).values()) == 1
    assert len(batches) == 3 // ranks * ranks


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_without_dropping_every_sample_comes_and_no_batch_is_short(ranks: int) -> None:
    steps = batch_order(BUCKETS, SIZE, ranks, drop_last=False)
    batches = [batch for step in steps for batch in step]
    assert all(len(step) == ranks for step in steps)
    assert all(len(batch.samples) == SIZE(batch.bucket) for batch in batches)
    assert {sample for batch in batches for sample in batch.samples} == {0, 1, 3, 4, 5, 6, 7, 8, 9}


def test_upstreams_order_may_end_in_an_empty_batch() -> None:
    steps = batch_order(["a", "a"], SIZE, 2, drop_last=False, is_upstream=True)
    assert [batch.samples for batch in steps[-1]] == [[0, 1], []]
    assert [batch.samples for batch in batch_order(["a", "a"], SIZE, 2, drop_last=False)[-1]] == [[0, 1], [0, 1]]


def test_shuffling_is_the_callers() -> None:
    generator = np.random.default_rng(0)
    shuffled = batch_order(["a"] * 40, SIZE, 1, lambda count: generator.permutation(count).tolist())
    seen = [sample for step in shuffled for batch in step for sample in batch.samples]
    assert sorted(seen) == list(range(40))
    assert seen != list(range(40))
