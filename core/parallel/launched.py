"""What a launcher told this process: torchrun, msrun, Slurm's srun with the variables of torchrun, or our own."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from ..errors import ConfigError, DuosoraError


@dataclass(frozen=True)
class Launched:
    """This process among those that were started together."""

    rank: int = 0
    world: int = 1
    local_rank: int = 0
    """Among those of this machine; the number of its device."""


_NAMES = (("RANK", "WORLD_SIZE", "LOCAL_RANK"), ("RANK_ID", "MS_WORKER_NUM", "DEVICE_ID"))
"""Variables of torchrun and msrun, for the fields of Launched."""


def launched(environment: Mapping[str, str] = os.environ) -> Launched:
    """What the environment says; without a launcher a process is by itself.

    Raises: ConfigError when the variables are no whole numbers that go together.
    """
    for names in _NAMES:
        rank, world, local_rank = (environment.get(name) for name in names)
        if rank is None or world is None:
            continue
        try:
            found = Launched(int(rank), int(world), int(local_rank or 0))
        except ValueError as error:
            raise ConfigError(
                f"{' and '.join(names)}: {error}; start with torchrun, msrun or duosora launch"
            ) from error
        if not 0 <= found.rank < found.world:
            raise ConfigError(f"{names[0]} = {rank}, {names[1]} = {world}: a rank is from 0 to the number less one")
        return found
    return Launched()


_MEETING_POINTS = (("MASTER_ADDR", "MASTER_PORT"), ("MS_SCHED_HOST", "MS_SCHED_PORT"))


def meeting_point(environment: Mapping[str, str] = os.environ) -> tuple[str, int]:
    """Host and port where the processes find each other.

    Raises: ConfigError when the launcher has named none.
    """
    for host, port in _MEETING_POINTS:
        if environment.get(port, "").isdecimal():
            return environment.get(host, "127.0.0.1"), int(environment[port])
    raise ConfigError("neither MASTER_PORT nor MS_SCHED_PORT is set; start with torchrun, msrun or duosora launch")


def is_scheduler(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether msrun started this process to keep the register of the others, not to work."""
    return environment.get("MS_ROLE") == "MS_SCHED"


def own_device(device: str, here: Launched) -> str:
    """The device of a process: of several, "cuda" and "npu" without a number become the one with its own number."""
    return f"{device}:{here.local_rank}" if here.world > 1 and device in ("cuda", "npu") else device


@contextmanager
def told_once() -> Iterator[None]:
    """For processes that have not met yet: a DuosoraError inside is that of all on this machine, and the first of them
    tells it."""
    try:
        yield
    except DuosoraError as error:
        error.is_told = launched().local_rank > 0
        raise
