"""Process groups: NCCL between GPUs and gloo between CPUs, behind core.seam.group.Group."""

from __future__ import annotations

import atexit
import os
import socket
from collections.abc import Sequence
from datetime import timedelta
from weakref import WeakSet

import torch
import torch.distributed as dist
from torch import Tensor

from duosora.core.errors import BackendMissing, ConfigError
from duosora.core.parallel.interfaces import interface_towards
from duosora.core.parallel.launched import launched, meeting_point
from duosora.core.parallel.roll_call import roll_call
from duosora.core.seam.group import Alone, Group
from duosora.core.seam.ranks import ParallelPlan, Ranks

TIMEOUT = timedelta(hours=2)
"""How long a rank waits for others that are alive, while they make a video; those that die the launcher notices."""


def connect(plan: ParallelPlan, device: str, meet_seconds: float) -> Ranks:
    """Join the processes that were started together, and make the groups of a plan.

    Raises: ConfigError when the plan is for another number of processes; BackendMissing when they do not find together
    in that time.
    """
    here = launched()
    if here.world != plan.world:
        raise ConfigError(f"a plan for {plan.world} processes, but {here.world} were started")
    if plan.world == 1:
        return Ranks(plan)
    if not dist.is_initialized():
        _join(device, meet_seconds)

    def own(groups: Sequence[tuple[int, ...]]) -> Group:
        """The one of the groups that this rank is in; all ranks take part in making each."""
        mine: Group = Alone()
        for ranks in groups:
            if len(ranks) == 1:
                continue
            # Never torch's own group of all: fully_shard holds on to that one, see _leave.
            made = dist.new_group(ranks, timeout=TIMEOUT)
            if here.rank in ranks:
                mine = DeviceGroup(ranks, here.rank, device, made)
        return mine

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


_groups: WeakSet[DeviceGroup] = WeakSet()
"""All that are in use."""


class DeviceGroup:
    """A core.seam.group.Group of more than one rank."""

    def __init__(self, ranks: Sequence[int], rank: int, device: str, group: dist.ProcessGroup | None) -> None:
        """rank: of this process in the world."""
        self.ranks, self.index, self.device, self.group = tuple(ranks), tuple(ranks).index(rank), device, group
        self.bytes_sent = 0
        _groups.add(self)

    @property
    def size(self) -> int:
        return len(self.ranks)

    def all_to_all(self, x: Tensor, split: int, concat: int) -> Tensor:
        parts = torch.stack(x.chunk(self.size, split))  # (size, ...)
        received = torch.empty_like(parts)
        dist.all_to_all_single(received, parts, group=self.group)
        self._count(parts.nbytes * (self.size - 1) // self.size)
        return torch.cat(received.unbind(), concat)

    def gather(self, x: Tensor, axis: int) -> Tensor:
        self._count(x.nbytes * (self.size - 1))
        return torch.cat(self._gathered(x).unbind(), axis)

    def reduce(self, x: Tensor) -> Tensor:
        total = x.clone()
        dist.all_reduce(total, group=self.group)
        self._count(2 * x.nbytes * (self.size - 1) // self.size)
        return total

    def reduce_scatter(self, x: Tensor) -> Tensor:
        own = x.new_empty((x.shape[0] // self.size, *x.shape[1:]))
        dist.reduce_scatter_tensor(own, x.contiguous(), group=self.group)
        self._count(x.nbytes * (self.size - 1) // self.size)
        return own

    def shift(self, x: Tensor) -> Tensor:
        sent, received = x.contiguous(), torch.empty_like(x, memory_format=torch.contiguous_format)
        after, before = self.ranks[(self.index + 1) % self.size], self.ranks[self.index - 1]
        exchange = [
            dist.P2POp(dist.isend, sent, after, self.group),
            dist.P2POp(dist.irecv, received, before, self.group),
        ]
        for work in dist.batch_isend_irecv(exchange):
            work.wait()
        self._count(x.nbytes)
        return received

    def share(self, data: bytes) -> list[bytes]:
        lengths = self._gathered(torch.tensor([len(data)]))[:, 0].tolist()
        padded = torch.zeros(max(1, *lengths), dtype=torch.uint8)
        if data:
            padded[: len(data)] = torch.frombuffer(bytearray(data), dtype=torch.uint8)
        rows = self._gathered(padded)
        return [row[:length].numpy().tobytes() for row, length in zip(rows, lengths, strict=True)]

    def any(self, flag: bool) -> bool:
        return bool(self._gathered(torch.tensor([int(flag)])).any())

    def barrier(self) -> None:
        self.any(False)

    def _gathered(self, x: Tensor) -> Tensor:
        """The tensors of all ranks, (size, ...)."""
        parts = x.new_empty((self.size, *x.shape))
        dist.all_gather(list(parts), x.contiguous(), group=self.group)
        return parts

    def _count(self, sent: int) -> None:
        self.bytes_sent += sent


def _join(device: str, meet_seconds: float) -> None:
    kind = torch.device(device).type
    carrier = {"cpu": "gloo", "cuda": "cpu:gloo,cuda:nccl"}.get(kind)
    if carrier is None:
        raise BackendMissing(f"several processes on {device!r}: torch's groups are for cpu and cuda here")
    if kind == "cuda":
        torch.cuda.set_device(device)  # what torch makes for itself, and fully_shard, lie there
    master, port = meeting_point("torch")
    roll_call(launched(), master, port, meet_seconds)
    os.environ["MASTER_ADDR"] = master  # where no launcher says who it is, the processes are on this machine
    # By itself gloo tells others the address of this machine's name, which may be none or 127.0.1.1.
    if (interface := interface_towards(master)) is not None:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)
    try:
        dist.init_process_group(carrier, timeout=TIMEOUT)
    except (RuntimeError, ValueError, dist.DistError) as error:
        reason = str(error).splitlines()[0]
        advice = "; on several machines GLOO_SOCKET_IFNAME names the interface between them" if "gloo" in reason else ""
        raise BackendMissing(f"the processes of this run do not find together: {reason}{advice}") from error
    atexit.register(_leave)


def _leave() -> None:
    """End the groups, and with them gloo's threads, before Python ends.

    A thread that is late in letting go of an exchange's tensors asks for the interpreter's lock; when Python has ended
    meanwhile, that aborts the process. Threads end with the last reference to their group.
    """
    if dist.is_initialized():
        dist.destroy_process_group()
    for group in _groups:
        group.group = None
