"""The order of samples: every sample once an epoch, one bucket a batch, the same from wherever it is begun."""

from collections import Counter

import numpy as np
import pytest

from duosora.core.data.order import EpochDraws, Order, grouped_order, plain_order, upstream_order

BUCKETS = [0] * 13 + [1] * 5 + [2] * 2


@pytest.mark.parametrize("size", [1, 4, 15])
def test_an_epoch_holds_every_sample_and_mega_batches_of_one_bucket(size: int) -> None:
    order = grouped_order(BUCKETS, size, EpochDraws(0, 0))
    assert set(order.reshape(-1).tolist()) == set(range(len(BUCKETS)))
    assert order.shape[1:] == (size,)
    for mega_batch in order:
        assert len({BUCKETS[place] for place in mega_batch}) == 1
    sizes = Counter(BUCKETS)
    assert len(order) == sum(-(-count // size) for count in sizes.values())


def test_the_first_time_round_nothing_comes_twice_where_batches_fill() -> None:
    order = plain_order(12, 6, EpochDraws(3, 0)).reshape(-1)
    assert sorted(order.tolist()) == list(range(12))


def samples(order: Order, steps: int) -> list[list[tuple[int, int, int]]]:
    """Of each step the epoch, place and number of its samples."""
    parts = [[order.micro_batch(step, part) for part in range(order.accumulation)] for step in range(steps)]
    return [[entry for part in step for entry in zip(*part, strict=True)] for step in parts]


@pytest.mark.parametrize("is_grouped", [True, False])
@pytest.mark.parametrize("mega_batch", [12, 6])
def test_how_a_step_is_split_does_not_change_its_samples(is_grouped: bool, mega_batch: int) -> None:
    splits = [(batch, 12 // batch) for batch in (1, 2, 3, 6, 12) if mega_batch % batch == 0]
    orders = [Order(BUCKETS, 7, mega_batch, batch, parts, is_grouped) for batch, parts in splits]
    first, *others = [samples(order, 9) for order in orders]
    assert others
    assert all(other == first for other in others)


def test_samples_of_one_size_come_in_the_same_order_whatever_is_read_at_once() -> None:
    first, *others = [
        [entry for step in samples(Order([0] * 7, 3, 1, batch, 1), 12 // batch) for entry in step]
        for batch in (1, 2, 4)
    ]
    assert all(other == first for other in others)
    assert {epoch for epoch, _, _ in first} == {0, 1}


def test_any_step_is_the_same_whether_or_not_the_steps_before_were_asked_for() -> None:
    make = lambda: Order(BUCKETS, 7, mega_batch=4, batch=2, accumulation=4)  # noqa: E731
    straight, late = make(), make()
    everything = [straight.micro_batch(step, part) for step in range(9) for part in range(4)]
    assert [late.micro_batch(step, part) for step in range(5, 9) for part in range(4)] == everything[20:]
    assert len({epoch for micro_batch in everything for epoch in micro_batch.epochs}) > 2, "the test is to cross epochs"


def test_sample_numbers_rise_over_steps_and_parts_without_a_gap() -> None:
    order = Order(BUCKETS, 7, mega_batch=6, batch=3, accumulation=4)
    numbers = [number for step in range(4) for part in range(4) for number in order.micro_batch(step, part).samples]
    assert numbers == list(range(48))


def test_epochs_and_seeds_differ() -> None:
    orders = [grouped_order(BUCKETS, 2, EpochDraws(seed, epoch)).tolist() for seed, epoch in [(0, 0), (0, 1), (1, 0)]]
    assert orders[0] != orders[1] != orders[2] != orders[0]


def test_micro_batches_of_a_mega_batch_have_one_bucket_and_share_no_sample() -> None:
    order = Order([0] * 16 + [1] * 8, 1, mega_batch=8, batch=4, accumulation=4)
    for step in range(6):
        for part in (0, 2):
            first, second = (order.micro_batch(step, part + i).places for i in range(2))
            assert not set(first) & set(second)
            assert len({place < 16 for place in first + second}) == 1


def test_upstreams_order_mixes_buckets_and_loses_the_minority() -> None:
    order = upstream_order(BUCKETS, 1, 2, EpochDraws(0, 0))
    assert len(order) == len(BUCKETS) // 2
    assert all(len({BUCKETS[place] for place in batch}) == 1 for batch in order.reshape(-1, 2))
    assert len(set(order.reshape(-1).tolist())) < len(BUCKETS)


def test_upstreams_draws_are_torchs() -> None:
    torch = pytest.importorskip("torch")
    from duosora.core.goldens.runners.data import UpstreamDraws

    generator, ours = torch.Generator().manual_seed(42), UpstreamDraws()
    for count in (1, 2, 29, 500):
        assert ours.permutation(count) == torch.randperm(count, generator=generator).tolist()
        assert ours.short() == torch.rand(1, generator=generator).item()


def test_orders_of_many_samples_are_even() -> None:
    order = grouped_order([number % 3 for number in range(3000)], 32, EpochDraws(5, 2)).reshape(-1)
    counts = np.bincount(order, minlength=3000)
    assert counts.min() == 1
    assert counts.sum() - 3000 < 3 * 32
