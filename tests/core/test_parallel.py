"""Who does what on how many ranks: plans, dealt ranges, blocks of a sequence, owners of tensors; and by what way."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from duosora.core.errors import ConfigError
from duosora.core.maths.parts import Blocks, even_parts
from duosora.core.parallel import interfaces
from duosora.core.parallel.micro_batches import joined
from duosora.core.parallel.zero import owners, split_axis
from duosora.core.seam.group import Alone
from duosora.core.seam.ranks import ParallelPlan, Ranks, make_plan

WORLDS = range(1, 65)
PLANS = [
    ParallelPlan(world // (cfg * sequence), cfg, sequence)
    for world in WORLDS
    for cfg in (1, 2)
    for sequence in range(1, world + 1)
    if world % (cfg * sequence) == 0
]


def test_places_and_ranks_are_inverse() -> None:
    for plan in PLANS:
        places = [plan.place(rank) for rank in range(plan.world)]
        assert [plan.rank(place) for place in places] == list(range(plan.world))
        assert {place.data for place in places} == set(range(plan.data))
        assert {place.cfg for place in places} == set(range(plan.cfg))
        assert {place.sequence for place in places} == set(range(plan.sequence))


def test_groups_of_each_kind_have_every_rank_once() -> None:
    for plan in PLANS:
        kinds = {"data": plan.data, "cfg": plan.cfg, "sequence": plan.sequence}
        for kind, size in kinds.items():
            groups = getattr(plan, f"{kind}_groups")()
            assert sorted(rank for group in groups for rank in group) == list(range(plan.world))
            for group in groups:
                places = [plan.place(rank) for rank in group]
                assert [getattr(place, kind) for place in places] == list(range(size))
                assert len({place._replace(**{kind: 0}) for place in places}) == 1


def test_a_team_is_all_ranks_with_the_same_samples() -> None:
    for plan in PLANS:
        teams = plan.teams()
        assert [rank for team in teams for rank in team] == list(range(plan.world))
        for data, team in enumerate(teams):
            assert {plan.place(rank).data for rank in team} == {data}


def test_a_plan_uses_all_processes_or_says_what_would() -> None:
    for world in WORLDS:
        for sequence in range(1, 65):
            for has_cfg in (False, True):
                if world % (sequence * (1 + has_cfg)) == 0:
                    plan = make_plan(world, sequence, has_cfg)
                    assert (plan.world, plan.sequence, plan.cfg) == (world, sequence, 1 + has_cfg)
                else:
                    with pytest.raises(ConfigError, match="does not divide"):
                        make_plan(world, sequence, has_cfg)


def test_even_parts_differ_by_one_at_most_and_cover_all() -> None:
    for size in range(301):
        for count in WORLDS:
            parts = even_parts(size, count)
            assert [i for part in parts for i in part] == list(range(size))
            lengths = [len(part) for part in parts]
            assert len(lengths) == count
            assert max(lengths) - min(lengths) <= 1
            assert lengths == sorted(lengths, reverse=True)


def test_blocks_cover_all_in_equal_lengths_with_padding_at_the_end() -> None:
    for size in range(301):
        for count in WORLDS:
            blocks = Blocks(size, count)
            own = [blocks.own(index) for index in range(count)]
            assert [i for part in own for i in part] == list(range(size))
            assert blocks.length * count == size + blocks.padding
            assert 0 <= blocks.padding < count
            assert all(len(part) == blocks.length for part in own if part.stop < size)


SIZES = st.dictionaries(st.text(max_size=4), st.integers(0, 10_000), max_size=40)


@settings(deadline=None)
@given(SIZES, st.integers(1, 64))
def test_every_tensor_has_one_owner_and_no_rank_writes_much_more_than_its_share(
    sizes: dict[str, int], world: int
) -> None:
    owner = owners(sizes, world)
    assert list(owner) == list(sizes)
    loads = [sum(size for name, size in sizes.items() if owner[name] == rank) for rank in range(world)]
    assert sum(loads) == sum(sizes.values())
    assert max(loads) <= sum(loads) / world + max(sizes.values(), default=0)


def test_equal_tensors_are_dealt_evenly_and_always_alike() -> None:
    sizes = {f"weight {i}": 7 for i in range(12)}
    assert owners(sizes, 4) == {f"weight {i}": i % 4 for i in range(12)}


def test_tensors_are_cut_where_the_parts_are_equal() -> None:
    assert split_axis((2304, 9216), 64) == 0
    assert split_axis((6, 2304), 4) == 1
    assert split_axis((32, 2304), 64) == 1
    assert split_axis((5, 7), 4) == 0


class Told(Alone):
    """A group whose ranks have said what is given."""

    def __init__(self, said: list[bytes]) -> None:
        self.said = said

    def share(self, data: bytes) -> list[bytes]:
        return self.said


@pytest.mark.parametrize(
    "plan", [ParallelPlan(), ParallelPlan(data=3), ParallelPlan(data=2, sequence=2), ParallelPlan(sequence=4)]
)
def test_rows_of_micro_batches_are_joined_in_the_order_of_one_process(plan: ParallelPlan) -> None:
    rows = np.arange(6 * 2, dtype=np.float64).reshape(6, 2)  # of 6 micro-batches
    own = [np.ascontiguousarray(rows[plan.place(rank).data :: plan.data]) for rank in range(plan.world)]
    ranks = Ranks(plan, world=Told([each.tobytes() for each in own]))
    np.testing.assert_array_equal(joined(ranks, own[0]), rows)


def test_the_interface_towards_a_host_is_the_one_with_the_address_that_it_is_reached_from(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert interfaces.interface_towards("127.0.0.1") is None  # nothing to name
    assert interfaces.interface_towards("no.such.host.invalid") is None
    monkeypatch.setattr(interfaces, "LOOPBACK", "none is")
    assert interfaces.interface_towards("127.0.0.1") == "lo"
