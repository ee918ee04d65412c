"""Ranks that are threads of one process and hand each other tensors: sequence parallelism without processes.

They work in turns, as MindSpore does not take calls of several threads at a time.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier, Lock
from typing import Any

import numpy as np

from duosora.core.seam.backend import Backend
from duosora.core.seam.group import Alone
from duosora.core.seam.models import Array

SECONDS = 60
"""After which a rank no longer waits for others that do not come."""


class Room:
    """Where ranks meet."""

    def __init__(self, size: int) -> None:
        self.said: list[Any] = [None] * size
        self.turn, self.barrier = Lock(), Barrier(size, timeout=SECONDS)

    def wait(self) -> None:
        """Until all are here; others work meanwhile."""
        self.turn.release()
        try:
            self.barrier.wait()
        finally:
            self.turn.acquire()


class Tensors(Alone):
    """A Group as one of its members sees it: only the exchanges that a network call needs."""

    def __init__(self, backend: Backend, index: int, room: Room) -> None:
        self.backend, self.index, self.room = backend, index, room
        self.ranks = tuple(range(len(room.said)))

    @property
    def size(self) -> int:
        return len(self.ranks)

    def all_to_all(self, x: Array, split: int, concat: int) -> Array:
        parts = [np.split(sent, self.size, split)[self.index] for sent in self._exchange(x)]
        return self.backend.asarray(np.concatenate(parts, concat))

    def gather(self, x: Array, axis: int) -> Array:
        return self.backend.asarray(np.concatenate(self._exchange(x), axis))

    def _exchange(self, x: Array) -> list[np.ndarray]:
        """What all ranks hand over."""
        self.room.said[self.index] = self.backend.to_numpy(x)
        self.room.wait()
        said = list(self.room.said)
        self.room.wait()
        return said


def on_ranks(size: int, backend: Backend, work: Callable[[Tensors], Any]) -> list[Any]:
    """What `work` returns on each of `size` ranks; raises what it raises."""
    room = Room(size)

    def in_turn(index: int) -> Any:
        with room.turn:
            return work(Tensors(backend, index, room))

    with ThreadPoolExecutor(size) as pool:
        return list(pool.map(in_turn, range(size)))
