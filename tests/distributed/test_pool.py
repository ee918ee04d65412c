"""The ranks that tests share: they stay for the next program, and no fault of one harms it."""

from collections.abc import Iterator

import psutil
import pytest
import ranks
from pool import Pool

pytestmark = pytest.mark.processes


@pytest.fixture(autouse=True)
def own_ranks() -> Iterator[None]:
    """Neither those of other tests, nor for them."""
    ranks.close()
    yield
    ranks.close()


def tell(world: int = 2) -> list[str]:
    """What each rank finds, the number of its process last."""
    return [said.split(maxsplit=3)[-1] for said in ranks.run("odd.py", "torch", world, "tell", "all")]


def test_ranks_stay_and_find_things_as_they_were() -> None:
    first = tell()
    assert len(set(first)) == 2
    ranks.run("odd.py", "torch", 2, "disturb", "all")
    assert tell() == first
    assert [said.split()[0:2] for said in first] == [["None", "False"]] * 2


@pytest.mark.parametrize(
    ("behaviour", "told"), [("raise", "the reason"), ("leave", "exit code 2"), ("die", "rank 1 is gone")]
)
def test_a_fault_of_one_rank_ends_all_and_the_next_program_gets_new_ones(
    monkeypatch: pytest.MonkeyPatch, behaviour: str, told: str
) -> None:
    monkeypatch.setattr("pool.GRACE_SECONDS", 0.1)
    before = tell()
    with pytest.raises(AssertionError, match=told) as failure:
        ranks.run("odd.py", "torch", 2, behaviour, "1")  # the other one sleeps
    assert "rank 1 said:\nthis is 1" in str(failure.value)
    assert not set(tell()) & set(before)


def test_ranks_that_take_too_long_are_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranks, "SECONDS", 0.5)
    with pytest.raises(AssertionError, match="not ended in time: ranks 0, 1"):
        ranks.run("odd.py", "torch", 2, "raise", "none")


def test_no_process_is_left() -> None:
    pool = Pool("torch", 2, ranks.own_environment())
    found = psutil.Process(pool.launcher.pid).children(recursive=True)
    assert len(found) >= 3  # two ranks, and the guard
    pool.close()
    assert psutil.wait_procs(found, timeout=30)[1] == []
