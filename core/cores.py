"""The one core that a process keeps where it was asked for one thread.

MindSpore's threads hand work to each other and wait by giving their core away (`sched_yield`, tens of thousands of
times a step). Where other programs want the cores, each of these waits for them: on one core of its own a step is 2.5
to 7 times as fast, on a quiet machine as fast. Only Linux says which cores a process may have.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

SWITCH = "DUOSORA_KEEP_CORE"
"""Set to 0 the variable leaves the cores alone."""
THREADS = "OMP_NUM_THREADS"
_PROCESSOR = 39
"""Of /proc/self/stat, the field with the core that a process is on; the first is 1."""
_given: set[int] = set()
"""The cores that were this process's before it kept one; none as long as it has all."""


def allowed() -> set[int]:
    """The cores that this process may use, but for its own decision to keep one; none where the system does not say."""
    if _given or not hasattr(os, "sched_getaffinity"):
        return set(_given)
    return os.sched_getaffinity(0)


def keep_one(place: int | None = None, environment: Mapping[str, str] = os.environ) -> None:
    """Keep all threads of this process on one of its cores for good, if it was asked for one thread.

    Of the cores that the fewest other processes keep: the one that it is on, or, with a place among processes that
    start together, the one that follows from it.
    """
    cores = sorted(allowed())
    if _given or len(cores) < 2 or not _asked_for_one(environment):
        return
    first = cores.index(_present()) if place is None and _present() in cores else (place or 0) % len(cores)
    core = choose([*cores[first:], *cores[:first]], Counter(_kept_by_others()))
    with suppress(OSError):  # forbidden: then all stays as it was
        for task in os.listdir("/proc/self/task"):
            with suppress(ProcessLookupError):
                os.sched_setaffinity(int(task), {core})
        _given.update(cores)


def choose(cores: Collection[int], taken: Mapping[int, int]) -> int:
    """The first of the cores that the fewest processes have taken."""
    return min(cores, key=lambda core: taken.get(core, 0))


@contextmanager
def every_core() -> Iterator[None]:
    """A context in which this thread, and the processes that it starts, have all cores that this process was given."""
    if not hasattr(os, "sched_getaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, allowed())
    was_kept = bool(_given)
    try:
        yield
    finally:
        if was_kept or not _given:  # else it was inside that this process kept one
            os.sched_setaffinity(0, before)


def _asked_for_one(environment: Mapping[str, str]) -> bool:
    return environment.get(THREADS, "").split(",")[0].strip() == "1" and environment.get(SWITCH, "").strip() != "0"


def _present() -> int:
    """The core that this process is on; -1 where the system does not say."""
    try:
        behind_name = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        return int(behind_name[_PROCESSOR - 3])
    except (OSError, ValueError, IndexError):
        return -1


def _kept_by_others() -> Iterator[int]:
    """The core of each other process that has one only."""
    for folder in Path("/proc").glob("[0-9]*"):
        if folder.name != str(os.getpid()) and (core := _only_core(folder)) is not None:
            yield core


def _only_core(process: Path) -> int | None:
    """The one core that a process may use, if it is one; None for the kernel's own threads, which have no memory."""
    with suppress(OSError, ValueError):  # it has ended meanwhile, is another user's, or has several
        lines = dict(line.split(":", 1) for line in (process / "status").read_text().splitlines())
        if "VmSize" in lines:
            return int(lines["Cpus_allowed_list"])
    return None
