"""Runs one of the programs beside this file on several processes of this machine, as a launcher would."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PROGRAMS = Path(__file__).parent / "programs"
SECONDS = 300
"""After which a test gives up; programs take a few."""


def run(program: str, backend: str, world: int, *arguments: object) -> list[str]:
    """What each rank printed. Fails with all they said when one does not end well."""
    with started(program, backend, world, *arguments) as processes:
        said = [process.communicate(timeout=SECONDS)[0] for process in processes]
    codes = [process.returncode for process in processes]
    assert codes == [0] * world, f"exit codes {codes}\n" + "\n".join(said)
    return said


@contextmanager
def started(program: str, backend: str, world: int, *arguments: object) -> Iterator[list[subprocess.Popen[str]]]:
    """The processes of the ranks, killed at the end if they have not ended by themselves."""
    command = [sys.executable, str(PROGRAMS / program), backend, *map(str, arguments)]
    common = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    port = _free_port()
    if backend == "torch":
        common |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(world)}
        roles = [{"RANK": str(i), "LOCAL_RANK": str(i)} for i in range(world)]
    else:
        common |= {"MS_WORKER_NUM": str(world), "MS_SCHED_HOST": "127.0.0.1", "MS_SCHED_PORT": str(port)}
        roles = [{"MS_ROLE": "MS_WORKER", "MS_NODE_ID": str(i), "RANK_ID": str(i)} for i in range(world)]
        roles.append({"MS_ROLE": "MS_SCHED", "RANK_ID": "0"})  # as msrun does
    processes = [
        subprocess.Popen(command, env=common | role, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for role in roles
    ]
    try:
        yield processes[:world]
    finally:
        for process in processes:
            process.kill()
            process.wait()


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
