"""Process groups: HCCL between NPUs and MCCL between CPUs, behind core.seam.group.Group.

MCCL has little but a sum over a group, so on CPUs every collective is made of it, at the cost of more traffic: good for
tests. What is counted is what the collective proper sends.
"""

from __future__ import annotations

import os
import socket
import struct
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from datetime import timedelta
from typing import Protocol

import mindspore
import numpy as np
from mindspore import Tensor, ops
from mindspore.communication import GlobalComm, create_group, init
from mindspore.mint import cat
from mindspore.mint.distributed import P2POp, batch_isend_irecv

from duosora.core.errors import BackendMissing, ConfigError
from duosora.core.parallel.launched import ROLE, is_scheduler, launched, meeting_point, way_out
from duosora.core.parallel.roll_call import roll_call, wait_for_listener
from duosora.core.printable import say
from duosora.core.seam.group import Alone, Group
from duosora.core.seam.ranks import ParallelPlan, Ranks

from ..precision import to_array, to_tensor

TIMEOUT = timedelta(minutes=30)
"""How long a rank waits for others that are alive; those that die are noticed by the launcher."""
_SUMMED = (mindspore.float32, mindspore.float16)
"""What MCCL adds up; all else goes as float32, whole numbers exact up to 2 ** 24."""
_LENGTH = struct.Struct("<q")


def connect(plan: ParallelPlan, device: str, meet_seconds: float) -> Ranks:
    """Join the processes that were started together, and make the groups of a plan.

    Does not come back in the process that msrun starts as the scheduler: it keeps the register of the others.
    Raises: ConfigError when the plan is for another number of processes; BackendMissing when they do not find together
    in that time.
    """
    if is_scheduler():
        _keep_register(device, meet_seconds)
        raise SystemExit(0)
    here = launched()
    if here.world != plan.world:
        raise ConfigError(f"a plan for {plan.world} processes, but {here.world} were started")
    if plan.world == 1 and not os.environ.get(ROLE):
        return Ranks(plan)
    if not GlobalComm.INITED:  # msrun's scheduler waits for a single process too
        _join(device, meet_seconds)

    def own(groups: Sequence[tuple[int, ...]]) -> Group:
        """The one of the groups that this rank is in; only its members may make it."""
        ranks = next((each for each in groups if here.rank in each), ())
        if len(ranks) <= 1:
            return Alone()
        is_world = len(ranks) == plan.world
        return DeviceGroup(ranks, here.rank, device, GlobalComm.WORLD_COMM_GROUP if is_world else _made(ranks))

    world = own([tuple(range(plan.world))])
    hosts = [name.decode() for name in world.share(socket.gethostname().encode())]
    return Ranks(
        plan,
        here.rank,
        world=world,
        data=own(plan.data_groups()),
        cfg=own(plan.cfg_groups()),
        sequence=own(plan.sequence_groups()),
        team=own(plan.teams()),
        leaders=own(plan.leaders(hosts)),
    )


class DeviceGroup:
    """A core.seam.group.Group of more than one rank."""

    def __init__(self, ranks: Sequence[int], rank: int, device: str, group: str) -> None:
        """rank: of this process in the world. group: MindSpore's name for it."""
        self.ranks, self.index, self.device, self.group = tuple(ranks), tuple(ranks).index(rank), device, group
        self.bytes_sent = 0
        make = _OnNpu if device.startswith("npu") else _OnHost
        self._collectives: _Collectives = make(self.ranks, self.index, group)

    @property
    def size(self) -> int:
        return len(self.ranks)

    def all_to_all(self, x: Tensor, split: int, concat: int) -> Tensor:
        self._count(_bytes(x) * (self.size - 1) // self.size)
        received = self._collectives.all_to_all(ops.stack(x.chunk(self.size, split)))  # (size, ...)
        return cat(list(received), concat)

    def gather(self, x: Tensor, axis: int) -> Tensor:
        self._count(_bytes(x) * (self.size - 1))
        return cat(list(self._collectives.gather(x)), axis)

    def reduce(self, x: Tensor) -> Tensor:
        self._count(2 * _bytes(x) * (self.size - 1) // self.size)
        return self._collectives.reduce(x)

    def reduce_scatter(self, x: Tensor) -> Tensor:
        self._count(_bytes(x) * (self.size - 1) // self.size)
        return self._collectives.reduce_scatter(x)

    def shift(self, x: Tensor) -> Tensor:
        self._count(_bytes(x))
        return self._collectives.shift(x)

    def share(self, data: bytes) -> list[bytes]:
        lengths = [_LENGTH.unpack(length)[0] for length in self._share(_LENGTH.pack(len(data)))]
        rows = self._share(data.ljust(max(1, *lengths), b"\0"))
        return [row[:length] for row, length in zip(rows, lengths, strict=True)]

    def any(self, flag: bool) -> bool:
        return any(self._share(bytes([flag]))[i] != b"\0" for i in range(self.size))

    def barrier(self) -> None:
        self.any(False)

    def _share(self, data: bytes) -> list[bytes]:
        """The bytes of all ranks, of one length."""
        rows = self._collectives.gather(to_tensor(np.frombuffer(data, np.uint8).astype(np.float32)))
        return [row.tobytes() for row in to_array(rows).astype(np.uint8)]

    def _count(self, sent: int) -> None:
        self.bytes_sent += sent


class _Collectives(Protocol):
    """What a group does natively, or as if."""

    def all_to_all(self, parts: Tensor) -> Tensor:
        """(size, ...), a part for each rank -> (size, ...), the parts that came."""

    def gather(self, x: Tensor) -> Tensor:
        """The tensors of all ranks, (size, ...)."""

    def reduce(self, x: Tensor) -> Tensor: ...

    def reduce_scatter(self, x: Tensor) -> Tensor: ...

    def shift(self, x: Tensor) -> Tensor: ...


class _OnHost:
    """All from MCCL's sum, which alone it has in groups that are not the world."""

    def __init__(self, ranks: tuple[int, ...], index: int, group: str) -> None:
        self.size, self.index = len(ranks), index
        self.add = ops.AllReduce(group=group)

    def all_to_all(self, parts: Tensor) -> Tensor:
        return self.gather(parts)[:, self.index]

    def gather(self, x: Tensor) -> Tensor:
        if x.dtype not in _SUMMED:
            return self.gather(x.astype(mindspore.float32)).astype(x.dtype)
        nothing = ops.zeros_like(x)
        return self.reduce(ops.stack([x if i == self.index else nothing for i in range(self.size)]))

    def reduce(self, x: Tensor) -> Tensor:
        return self.add(x) if x.size else x

    def reduce_scatter(self, x: Tensor) -> Tensor:
        return self.reduce(x).chunk(self.size, 0)[self.index]

    def shift(self, x: Tensor) -> Tensor:
        return self.gather(x)[self.index - 1]


class _OnNpu:
    """HCCL's own."""

    def __init__(self, ranks: tuple[int, ...], index: int, group: str) -> None:
        self.size, self.group = len(ranks), group
        self.after, self.before = ranks[(index + 1) % len(ranks)], ranks[index - 1]
        self.exchange = ops.AlltoAll(self.size, 0, 0, group)
        self.collect = ops.AllGather(group)
        self.add = ops.AllReduce(group=group)
        self.add_parts = ops.ReduceScatter(group=group)

    def all_to_all(self, parts: Tensor) -> Tensor:
        return self.exchange(parts)

    def gather(self, x: Tensor) -> Tensor:
        return self.collect(x[None])

    def reduce(self, x: Tensor) -> Tensor:
        return self.add(x)

    def reduce_scatter(self, x: Tensor) -> Tensor:
        return self.add_parts(x)

    def shift(self, x: Tensor) -> Tensor:
        received = ops.zeros_like(x)
        exchange = [
            P2POp("isend", x.contiguous(), self.after, self.group),
            P2POp("irecv", received, self.before, self.group),
        ]
        for work in batch_isend_irecv(exchange):
            work.wait()
        return received


def _bytes(x: Tensor) -> int:
    return int(x.size * x.itemsize)


def _join(device: str, meet_seconds: float) -> None:
    host, port = meeting_point("mindspore")
    roll_call(launched(), host, port, meet_seconds)
    # init() waits in silence, and never joins a scheduler that comes some seconds after it has begun to.
    wait_for_listener("MindSpore's scheduler", host, port, meet_seconds)
    _init(device, meet_seconds)


def _keep_register(device: str, meet_seconds: float) -> None:
    """What the scheduler does, which stays in init() until its workers have left."""
    host, port = meeting_point("mindspore")
    workers = os.environ.get("MS_WORKER_NUM", "?")
    say(
        f"this process is the scheduler of {workers} MindSpore workers at {host}:{port}, which must come within "
        f"{meet_seconds:g} s; {way_out()}",
        file=sys.stderr,
    )
    _init(device, meet_seconds)


def _init(device: str, meet_seconds: float) -> None:
    os.environ.setdefault("MS_CPU_COMM_OP_TIMEOUT", str(int(TIMEOUT.total_seconds())))
    os.environ.setdefault("MS_TOPO_TIMEOUT", str(max(1, round(meet_seconds))))
    try:
        with nullcontext() if device.startswith("npu") else _one_core():
            init()
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise BackendMissing(f"the processes of this run do not find together: {reason}; {way_out()}") from error


@contextmanager
def _one_core() -> Iterator[None]:
    """A context in which this thread, and those that it starts, have one core.

    A connection of MindSpore 2.10 that is made before the thread that asked for it goes on is taken for a failed one,
    and tried again half a second later, for a minute if need be. On one core the asking thread mostly comes first.
    """
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {sorted(cores)[launched().rank % len(cores)]})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


_names: dict[tuple[int, ...], str] = {}


def _made(ranks: tuple[int, ...]) -> str:
    """MindSpore's name of a group of ranks at equal distances, which is made if there is none yet."""
    if ranks not in _names:
        name = f"{ranks[0]}_{ranks[1] - ranks[0]}_{len(ranks)}"  # HCCL's names are short
        create_group(name, list(ranks))
        _names[ranks] = name
    return _names[ranks]
