"""Ranks that stay: started once by `duosora launch`, they run one program after the other in the processes they have.

So a program is to be a function of its arguments. After one that fails on any rank, or takes too long, all ranks are
killed: whoever comes next starts new ones.
"""

import json
import select
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

WAITING = Path(__file__).parent / "programs" / "waiting.py"
START_SECONDS = 120
GRACE_SECONDS = 3
"""For the other ranks to say their part when one has failed; a collective may hold them for ever."""


class Pool:
    """The ranks of one backend and one number of processes."""

    def __init__(self, backend: str, world: int, environment: Mapping[str, str]) -> None:
        """Raises: AssertionError when the ranks do not come."""
        self._folder = tempfile.TemporaryDirectory()
        folder = Path(self._folder.name)
        self._logs = [folder / f"rank_{rank}.log" for rank in range(world)]
        self._lines: dict[int, socket.socket] = {}
        """To each rank."""
        launch = ["launch", "--backend", backend, "-n", str(world), "--log-dir", str(folder), "--linger", "60"]
        with socket.socket(socket.AF_UNIX) as door:
            door.bind(str(folder / "door"))
            door.listen(world)
            self.launcher = subprocess.Popen(
                [sys.executable, "-m", "duosora", *launch, "--", str(WAITING), str(folder / "door")],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
            )
            self._let_in(door, time.monotonic() + START_SECONDS)

    def run(self, program: Path, arguments: Sequence[str], seconds: float) -> list[str]:
        """What each rank has printed. Raises: AssertionError with all of it when one fails or is late."""
        starts = [log.stat().st_size for log in self._logs]
        job = json.dumps({"program": str(program), "arguments": arguments})
        for line in self._lines.values():
            with suppress(OSError):  # a rank that is gone is noticed below
                line.sendall(f"{job}\n".encode())
        wrong = self._wait(time.monotonic() + seconds)
        written = [log.read_bytes()[start:] for log, start in zip(self._logs, starts, strict=True)]
        said = [text.decode("utf-8", "replace") for text in written]
        if wrong:
            self._fail(wrong, said)
        return said

    @property
    def is_alive(self) -> bool:
        return self.launcher.poll() is None

    def close(self) -> str:
        """Kill the launcher, whose guard then kills the ranks; what the launcher had to say, the first time."""
        self.launcher.kill()
        said = "" if self.launcher.stderr.closed else self.launcher.communicate()[1]
        for line in self._lines.values():
            line.close()
        self._folder.cleanup()
        return said

    def _let_in(self, door: socket.socket, until: float) -> None:
        while len(self._lines) < len(self._logs):
            if select.select([door], [], [], 0.1)[0]:
                line = door.accept()[0]
                self._lines[int(_word(line))] = line
            elif not self.is_alive or time.monotonic() > until:
                said = [log.read_text("utf-8", "replace") if log.exists() else "" for log in self._logs]
                self._fail(["the ranks have not started"], said)

    def _wait(self, until: float) -> list[str]:
        """Until all ranks have done their part; what went wrong, if anything."""
        waiting, wrong = dict(self._lines), []
        while waiting:
            ready = select.select(list(waiting.values()), [], [], max(0.0, until - time.monotonic()))[0]
            if not ready:
                return [*wrong, f"not ended in time: ranks {', '.join(map(str, sorted(waiting)))}"]
            for rank in [rank for rank, line in waiting.items() if line in ready]:
                code = _word(waiting.pop(rank))
                if code != "0":
                    wrong.append(f"rank {rank}: exit code {code}" if code else f"rank {rank} is gone")
                    until = min(until, time.monotonic() + GRACE_SECONDS)
        return wrong

    def _fail(self, wrong: list[str], said: list[str]) -> None:
        ranks = [f"--- rank {rank} said:\n{text}" for rank, text in enumerate(said)]
        raise AssertionError("\n".join([*wrong, f"--- the launcher said:\n{self.close()}", *ranks]))


def _word(line: socket.socket) -> str:
    """The one that a rank has sent; empty when it is gone."""
    with suppress(OSError):
        return line.recv(64).decode().strip()
    return ""
