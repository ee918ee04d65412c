"""What a launcher told this process: torchrun, msrun, Slurm's srun with the variables of torchrun, or our own."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from ..errors import ConfigError, DuosoraError
from ..printable import short_name


@dataclass(frozen=True)
class Launched:
    """This process among those that were started together."""

    rank: int = 0
    world: int = 1
    local_rank: int = 0
    """Among those of this machine; the number of its device."""


ROLE = "MS_ROLE"
"""MindSpore's variable for what a process does in a run."""
MOST_PROCESSES = 100_000
_NAMES = (("RANK", "WORLD_SIZE", "LOCAL_RANK"), ("RANK_ID", "MS_WORKER_NUM", "DEVICE_ID"))
"""Variables of torchrun and msrun, for the fields of Launched."""
_MEETING_POINTS = {"torch": ("MASTER_ADDR", "MASTER_PORT"), "mindspore": ("MS_SCHED_HOST", "MS_SCHED_PORT")}
"""Variables by backend."""
_COLLECTORS = ("TORCHELASTIC_RUN_ID", "DUOSORA_JOB")
"""Of torchrun and our own launcher, which show what the first process of a machine says."""


def launched(environment: Mapping[str, str] = os.environ) -> Launched:
    """What the environment says; without a launcher a process is by itself. An empty variable counts as unset.

    Raises: ConfigError when the variables are no whole numbers that go together, or one of them is missing.
    """
    for names in _NAMES:
        if all(environment.get(name) for name in names[:2]):
            return _launched(names, environment)
    for rank, world, _ in _NAMES:
        for there, missing, alone in ((world, rank, "1"), (rank, world, "0")):
            if (value := environment.get(there, "").strip()) not in ("", alone):
                raise ConfigError(f"{there} = {value}, but {missing} is not set; {way_out(environment)}")
    return Launched()


def _launched(names: Sequence[str], environment: Mapping[str, str]) -> Launched:
    found = Launched(*(_whole_number(name, environment) for name in names))
    if not found.rank < found.world <= MOST_PROCESSES:
        raise ConfigError(
            f"{names[0]} = {found.rank}, {names[1]} = {found.world}: expected a rank from 0 to the number of processes "
            f"less one, and at most {MOST_PROCESSES} processes; {way_out(environment)}"
        )
    return found


def _whole_number(name: str, environment: Mapping[str, str]) -> int:
    text = (environment.get(name) or "0").strip()
    if not (text.isascii() and text.isdecimal() and len(text) < 20):
        raise ConfigError(f"{name} = {short_name(text)}: expected a whole number; {way_out(environment)}")
    return int(text)


def way_out(environment: Mapping[str, str] = os.environ) -> str:
    """What to do when variables of a launcher are set wrongly, or were left behind by another program."""
    return f"start with torchrun, msrun or duosora launch; for one process without them: {unset(environment)}"


def unset(environment: Mapping[str, str] = os.environ) -> str:
    """The command of a shell that makes its next process one by itself."""
    names = [name for group in (*_NAMES, *_MEETING_POINTS.values(), (ROLE,)) for name in group]
    return f"unset {' '.join(name for name in names if environment.get(name))}"


def meeting_point(backend: str, environment: Mapping[str, str] = os.environ) -> tuple[str, int]:
    """Host and port where the processes of a backend find each other; the port after it is free too.

    Raises: ConfigError when the launcher has named none.
    """
    host, port = _MEETING_POINTS[backend]
    if not environment.get(port):
        raise ConfigError(f"{port} is not set, where processes of {backend} meet; {way_out(environment)}")
    number = _whole_number(port, environment)
    if not 0 < number < 65535:
        raise ConfigError(f"{port} = {number}: expected a port from 1 to 65534; {way_out(environment)}")
    return environment.get(host) or "127.0.0.1", number


def is_scheduler(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether msrun started this process to keep the register of the others, not to work.

    Raises: ConfigError for a role that is neither.
    """
    role = environment.get(ROLE) or "MS_WORKER"
    if role not in ("MS_WORKER", "MS_SCHED"):
        raise ConfigError(f"{ROLE} = {short_name(role)}: expected MS_WORKER or MS_SCHED; {way_out(environment)}")
    return role == "MS_SCHED"


def own_device(device: str, here: Launched) -> str:
    """The device of a process: of several, "cuda" and "npu" without a number become the one with its own number."""
    return f"{device}:{here.local_rank}" if here.world > 1 and device in ("cuda", "npu") else device


@contextmanager
def told_once() -> Iterator[None]:
    """For processes that have not met yet: a DuosoraError inside is that of all on this machine, and the first of them
    tells it, where a launcher shows what that one says."""
    try:
        yield
    except DuosoraError as error:
        error.is_told = any(map(os.environ.get, _COLLECTORS)) and launched().local_rank > 0
        raise
