"""Ranks that are threads of one process, for tests of what ranks say to each other."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from duosora.core.seam.group import Alone, Group
from duosora.core.seam.ranks import ParallelPlan, Ranks

SECONDS = 20
"""After which a rank no longer waits for others that do not come."""


class Room:
    """Where the members of a group meet."""

    def __init__(self, ranks: tuple[int, ...]) -> None:
        self.ranks = ranks
        self.said: list[bytes] = [b""] * len(ranks)
        self.barrier = threading.Barrier(len(ranks), timeout=SECONDS)


class ThreadGroup(Alone):
    """A Group as one of its members sees it: the exchanges through the host's memory, and of arrays `gather`."""

    def __init__(self, room: Room, rank: int) -> None:
        self.room, self.ranks, self.index = room, room.ranks, room.ranks.index(rank)
        self.num_exchanges = 0

    @property
    def size(self) -> int:
        return len(self.ranks)

    def share(self, data: bytes) -> list[bytes]:
        self.num_exchanges += 1
        self.room.said[self.index] = data
        self.room.barrier.wait()
        said = list(self.room.said)
        self.room.barrier.wait()
        return said

    def gather(self, x: np.ndarray, axis: int) -> np.ndarray:
        parts = self.share(x.tobytes())
        return np.concatenate([np.frombuffer(part, x.dtype).reshape(x.shape) for part in parts], axis)

    def any(self, flag: bool) -> bool:
        return b"1" in self.share(b"1" if flag else b"0")


def run(plan: ParallelPlan, work: Callable[[Ranks], Any], hosts: list[str] | None = None) -> list[Any]:
    """What `work` returns, or the error that it raises, on each rank."""
    kinds: dict[str, tuple[tuple[int, ...], ...]] = {
        "world": (tuple(range(plan.world)),),
        "data": plan.data_groups(),
        "sequence": plan.sequence_groups(),
        "team": plan.teams(),
        "leaders": plan.leaders(hosts or ["here"] * plan.world),
    }
    rooms = {kind: [Room(ranks) for ranks in groups] for kind, groups in kinds.items()}

    def own(kind: str, rank: int) -> Group:
        room = next((room for room in rooms[kind] if rank in room.ranks and len(room.ranks) > 1), None)
        return Alone() if room is None else ThreadGroup(room, rank)

    def on(rank: int) -> Any:
        try:
            return work(Ranks(plan, rank, **{kind: own(kind, rank) for kind in kinds}))
        except Exception as error:
            return error

    with ThreadPoolExecutor(plan.world) as pool:
        return list(pool.map(on, range(plan.world)))
