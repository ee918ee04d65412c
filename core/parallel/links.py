"""What the links between ranks carry: every collective checked for right numbers and measured, slow ranks found."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from ..seam.backend import Backend
from ..seam.group import Group
from ..seam.models import Array
from ..seam.ranks import Ranks

KINDS = ("world", "data", "cfg", "sequence", "team")
HOST_SIZES = (2**12, 2**16, 2**20)
"""Bytes of a rank's tensor, between CPUs."""
DEVICE_SIZES = (2**12, 2**20, 2**26)
REPEATS = 3
WORK_ELEMENTS = 2**20
WORK_ROUNDS = 20
PERIOD = 251
"""Of the numbers sent: whole, and their sums exact in float32."""
SLOW = 1.5
"""Times the median, from which on a rank is named."""


class Measured(NamedTuple):
    """One collective in all groups of a kind at a time."""

    kind: str
    size: int
    """Ranks of a group."""
    operation: str
    num_bytes: int
    """Of a rank's tensor."""
    seconds: float
    """Of the slowest rank, in the best of some tries."""
    sent: int
    """Bytes that a rank sends."""
    wrong: tuple[int, ...]
    """Ranks that got wrong numbers."""

    @property
    def gigabytes_per_second(self) -> float:
        return self.sent / self.seconds / 1e9


class Collective(NamedTuple):
    """What is called, and what must come of it on a rank: both are given the group; base is what all ranks share."""

    name: str
    call: Callable[[Group, Array], Array]
    expected: Callable[[Group, np.ndarray], np.ndarray]


def _own(group: Group, whole: np.ndarray) -> np.ndarray:
    """A rank's part of a whole."""
    return np.split(whole, group.size)[group.index]


def _sum(group: Group, base: np.ndarray) -> np.ndarray:
    return group.size * base + sum(range(group.size))


COLLECTIVES = (
    Collective("all-reduce", lambda group, x: group.reduce(x), _sum),
    Collective(
        "all-to-all",
        lambda group, x: group.all_to_all(x, 0, 0),
        lambda group, base: np.concatenate([_own(group, base + i) for i in range(group.size)]),
    ),
    Collective(
        "all-gather",
        lambda group, x: group.gather(x, 0),
        lambda group, base: np.concatenate([base + i for i in range(group.size)]),
    ),
    Collective(
        "reduce-scatter", lambda group, x: group.reduce_scatter(x), lambda group, base: _own(group, _sum(group, base))
    ),
    Collective("shift", lambda group, x: group.shift(x), lambda group, base: base + (group.index - 1) % group.size),
)


def measure(backend: Backend, ranks: Ranks) -> Iterator[Measured]:
    """Every collective on every kind of group that is there, in some sizes; the same on all ranks."""
    measured = set()
    for kind in KINDS:
        group: Group = getattr(ranks, kind)
        if group.size == 1 or group.ranks in measured:
            continue
        measured.add(group.ranks)
        for collective in COLLECTIVES:
            for num_bytes in HOST_SIZES if backend.on_host else DEVICE_SIZES:
                yield _measure(backend, ranks.world, kind, group, collective, num_bytes)


def _measure(
    backend: Backend, world: Group, kind: str, group: Group, collective: Collective, num_bytes: int
) -> Measured:
    length = max(1, num_bytes // 4 // group.size) * group.size
    base = np.arange(length, dtype=np.float32) % PERIOD
    x = backend.asarray(base + np.float32(group.index))
    before = group.bytes_sent
    result = backend.to_numpy(collective.call(group, x))  # the first call makes connections, so it is not timed
    sent = group.bytes_sent - before
    is_right = np.array_equal(result, collective.expected(group, base))
    seconds = min(_timed(backend, world, lambda: collective.call(group, x)) for _ in range(REPEATS))
    told = [json.loads(each) for each in world.share(json.dumps([seconds, is_right]).encode())]
    wrong = tuple(rank for rank, (_, right) in enumerate(told) if not right)
    return Measured(kind, group.size, collective.name, base.nbytes, max(each[0] for each in told), sent, wrong)


def _timed(backend: Backend, world: Group, work: Callable[[], Array]) -> float:
    world.barrier()
    began = time.perf_counter()
    backend.to_numpy(work()[:1])  # devices work behind the program's back until a number is read
    return time.perf_counter() - began


class Pace(NamedTuple):
    """Seconds of each rank."""

    work: tuple[float, ...]
    """For a fixed piece of arithmetic of its own."""
    link: tuple[float, ...]
    """For sending to the next rank, and getting from the one before."""


def pace(backend: Backend, ranks: Ranks) -> Pace:
    """How fast each rank is by itself, and with its neighbours; the same on all ranks."""
    world = ranks.world
    x = backend.asarray(np.ones(WORK_ELEMENTS, np.float32))

    def work() -> Array:
        y = x
        for _ in range(WORK_ROUNDS):
            y = y * 0.5 + x
        return y

    def best(what: Callable[[], Array]) -> float:
        return min(_timed(backend, world, what) for _ in range(1 + REPEATS))

    own = best(work), best(lambda: world.shift(x))
    told = [json.loads(each) for each in world.share(json.dumps(own).encode())]
    return Pace(tuple(each[0] for each in told), tuple(each[1] for each in told))


def slow(seconds: tuple[float, ...]) -> tuple[int, ...]:
    """Ranks that take much longer than most."""
    usual = statistics.median_low(seconds)
    return tuple(rank for rank, each in enumerate(seconds) if each > SLOW * usual)
