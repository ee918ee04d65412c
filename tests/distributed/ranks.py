"""Runs one of the programs beside this file on several processes of this machine, as users launch theirs."""

import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PROGRAMS = Path(__file__).parent / "programs"
SECONDS = 300
"""After which a test gives up; programs take a few."""
QUIET = {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}


def run(program: str, backend: str, world: int, *arguments: object) -> list[str]:
    """What each rank printed. Fails with all they said when one does not end well."""
    command = [str(PROGRAMS / program), backend, *map(str, arguments)]
    with tempfile.TemporaryDirectory() as logs:
        launch = ["launch", "--backend", backend, "-n", str(world), "--log-dir", logs]
        done = subprocess.run(
            [sys.executable, "-m", "duosora", *launch, "--", *command],
            env=os.environ | QUIET,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
        files = [Path(logs, f"rank_{rank}.log") for rank in range(world)]
        said = [file.read_text("utf-8") if file.exists() else "" for file in files]
    assert done.returncode == 0, f"exit code {done.returncode}\n{done.stderr}\n" + "\n".join(said)
    return said


@contextmanager
def started(program: str, backend: str, world: int, *arguments: object) -> Iterator[list[subprocess.Popen[str]]]:
    """The processes of the ranks, without a launcher that looks after them; those left at the end are killed."""
    command = [sys.executable, str(PROGRAMS / program), backend, *map(str, arguments)]
    common = os.environ | QUIET
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
