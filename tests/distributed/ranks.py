"""Runs one of the programs beside this file on several processes of this machine, as users launch theirs."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pool import Pool

from duosora.core.launch import environment
from duosora.core.launch.ports import free_port

PROGRAMS = Path(__file__).parent / "programs"
QUIET = {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
SECONDS = 300
"""After which a test gives up; programs take a few."""
_pools: dict[tuple[str, int], Pool] = {}
"""Ranks that wait for a job, by backend and number."""


def run(program: str, backend: str, world: int, *arguments: object) -> list[str]:
    """What each rank printed, in processes that stay. Fails with all they said when one does not end well."""
    pool = _pool(backend, world)
    return pool.run(PROGRAMS / program, [backend, *map(str, arguments)], SECONDS)


def close(keep_backend: str | None = None) -> None:
    """End the ranks that wait, but for those of one backend."""
    for key in [key for key in _pools if key[0] != keep_backend]:
        _pools.pop(key).close()


def _pool(backend: str, world: int) -> Pool:
    """Of one backend at a time: each rank holds half a GiB."""
    close(keep_backend=backend)
    pool = _pools.get((backend, world))
    if pool is None or not pool.is_alive:
        pool = _pools[backend, world] = Pool(backend, world, own_environment())
    return pool


def own_environment() -> dict[str, str]:
    """This process's environment without what is there for MindSpore, which ranks set for themselves."""
    return {name: value for name, value in os.environ.items() if name != "GLOG_v"} | QUIET


@contextmanager
def machines(
    count: int, program: str, backend: str, world: int, *arguments: object
) -> Iterator[list[subprocess.Popen[str]]]:
    """`duosora launch` as on each of several machines, all of which are this one; killed at the end if still there."""
    with tempfile.TemporaryDirectory() as logs:
        options = ["--backend", backend, "-n", str(world // count), "--log-dir", logs, "--nodes", str(count)]
        options += ["--address", f"127.0.0.1:{free_port()}"]
        command = [str(PROGRAMS / program), backend, *map(str, arguments)]
        processes = [
            subprocess.Popen(
                [sys.executable, "-m", "duosora", "launch", *options, "--node", str(node), "--", *command],
                env=own_environment(),
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for node in range(count)
        ]
        try:
            yield processes
        finally:
            for process in processes:
                process.kill()
                process.wait()


def last_rank(launched: subprocess.Popen[str]) -> int:
    """Process id of the last of the ranks that a launcher has started."""
    children = Path(f"/proc/{launched.pid}/task/{launched.pid}/children").read_text().split()
    ranks = {}
    for child in children:
        for variable in Path(f"/proc/{child}/environ").read_bytes().split(b"\0"):
            if variable.startswith(b"RANK="):
                ranks[int(variable.removeprefix(b"RANK="))] = int(child)
    return ranks[max(ranks)]


@contextmanager
def started(program: str, backend: str, world: int, *arguments: object) -> Iterator[list[subprocess.Popen[str]]]:
    """The processes of the ranks without a launcher that looks after them; killed at the end if still there."""
    command = (sys.executable, str(PROGRAMS / program), backend, *map(str, arguments))
    launch = environment.Launch(program=command, processes=world, backend=backend)
    port = free_port()
    common = own_environment()
    common |= environment.defaults(launch, common)
    roles = [(command, environment.environment(launch, port, rank)) for rank in range(world)]
    if backend == "mindspore":
        roles.append(environment.scheduler(launch, port))
    processes = [
        subprocess.Popen(words, env=common | told, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for words, told in roles
    ]
    try:
        yield processes[:world]
    finally:
        for process in processes:
            process.kill()
            process.wait()
