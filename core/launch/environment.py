"""What is started: the processes of this machine, and the variables that tell each its place among all.

They are those of torchrun and msrun, see core/parallel/launched.py.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from .. import cores
from ..errors import ConfigError
from .machines import PORT_AFTER
from .ports import LAST_PORT, check_free

RENDEZVOUS_SECONDS = 600
COLLECTIVE_SECONDS = 1800
"""MindSpore's own is 30 s on a CPU, little where one rank writes a video; the launcher sees the dead anyway."""
MISLEADING = ("TORCHELASTIC_USE_AGENT_STORE",)
"""Of a torchrun around the launcher: ranks would look for that one's store, and find none."""

# The scheduler of MindSpore's dynamic cluster stays in init() until its workers have left.
_SCHEDULER = "from mindspore.communication import init; init()"


@dataclass(frozen=True, kw_only=True)
class Launch:
    """What to start on this machine, and how patient to be."""

    program: tuple[str, ...]
    """Command line of every process."""
    processes: int
    """On this machine; as many on each of the others."""
    backend: str = "torch"
    nodes: int = 1
    node: int = 0
    host: str = "127.0.0.1"
    """Of node 0."""
    port: int | None = None
    """Of node 0; None: a free one, where there is one node."""
    log_folder: Path | None = None
    """None: one in logs, named by the time, or a temporary one where that cannot be written."""
    grace_seconds: float = 10.0
    """From asking the others to end, after one has failed, to killing them."""
    leave_seconds: float = 600.0
    """From passing on SIGTERM or SIGINT, upon which training saves, to killing."""
    linger_seconds: float = 1800.0
    """How long the others may go on when one has ended well."""
    meet_seconds: float = 600.0
    """In which all machines must have started."""

    @property
    def world(self) -> int:
        return self.nodes * self.processes

    @property
    def ranks(self) -> range:
        """Of this machine."""
        return range(self.node * self.processes, (self.node + 1) * self.processes)

    @property
    def has_scheduler(self) -> bool:
        """Whether MindSpore's register of processes is kept on this machine."""
        return self.backend == "mindspore" and self.node == 0

    @property
    def names(self) -> tuple[str, ...]:
        """Of the processes of this machine: the scheduler, where it is here, and the ranks."""
        return (*(["scheduler"] if self.has_scheduler else []), *(f"rank {rank}" for rank in self.ranks))

    def check(self) -> None:
        """Raises: ConfigError when nodes, address and port do not go together, or a port is taken."""
        if not 0 <= self.node < self.nodes:
            raise ConfigError(f"node {self.node} of {self.nodes}: nodes are numbered from 0 to {self.nodes - 1}")
        if self.nodes > 1 and self.port is None:
            raise ConfigError(f"{self.nodes} nodes: name host and port of node 0, the same on all of them")
        if self.port is not None and self.port > LAST_PORT:
            raise ConfigError(f"port {self.port}: expected one up to {LAST_PORT}, as the two after it are used too")
        if self.node == 0 and self.port is not None:
            for port in range(self.port, self.port + (PORT_AFTER if self.nodes > 1 else 1) + 1):
                check_free(port)


def environment(launch: Launch, port: int, local_rank: int) -> dict[str, str]:
    """What a process is told beside the launcher's own environment: torchrun's variables, and with MindSpore those of
    its dynamic cluster, which without a scheduler would only mislead."""
    rank = launch.ranks[local_rank]
    told = {
        "RANK": rank,
        "WORLD_SIZE": launch.world,
        "LOCAL_RANK": local_rank,
        "LOCAL_WORLD_SIZE": launch.processes,
        "MASTER_ADDR": launch.host,
        "MASTER_PORT": port,
    }
    if launch.backend == "mindspore":
        told |= {"MS_ROLE": "MS_WORKER", "MS_NODE_ID": rank, "RANK_ID": rank, "DEVICE_ID": local_rank}
        told |= _cluster(launch, port)
    return {name: str(value) for name, value in told.items()}


def scheduler(launch: Launch, port: int) -> tuple[Sequence[str], dict[str, str]]:
    """Command line and variables of the process of node 0 in which MindSpore's cluster keeps its register."""
    told = _cluster(launch, port) | {"MS_ROLE": "MS_SCHED", "RANK_ID": 0}
    return (sys.executable, "-P", "-c", _SCHEDULER), {name: str(value) for name, value in told.items()}


def inherited(launch: Launch, own: Mapping[str, str]) -> dict[str, str]:
    """The launcher's own environment for its processes, with variables that it lacks."""
    return {name: value for name, value in own.items() if name not in MISLEADING} | defaults(launch, own)


def defaults(launch: Launch, own: Mapping[str, str]) -> dict[str, str]:
    """Variables that a process gets where the launcher's environment does not have them."""
    wanted = {
        "OMP_NUM_THREADS": max(1, _num_cores() // launch.processes),
        "PYTHONUNBUFFERED": 1,
        "MS_CPU_COMM_OP_TIMEOUT": COLLECTIVE_SECONDS,
        "MS_TOPO_TIMEOUT": RENDEZVOUS_SECONDS,
        "GLOG_v": 3,  # MindSpore's workers warn at every attempt to meet
        "DUOSORA_JOB": os.getpid(),  # by which ranks know that one speaks for all
    }
    return {name: str(value) for name, value in wanted.items() if name not in own}


def _cluster(launch: Launch, port: int) -> dict[str, object]:
    """Of MindSpore's dynamic cluster, for workers and scheduler alike."""
    return {"MS_WORKER_NUM": launch.world, "MS_SCHED_HOST": launch.host, "MS_SCHED_PORT": port}


def _num_cores() -> int:
    """That this process may use."""
    return len(cores.allowed()) or os.cpu_count() or 1
