"""One process of a run: started in a group of its own, watched, followed and killed with all that it has left behind.

None outlives the launcher: a small guard kills the groups that it was told of when the launcher is gone without a word.
"""

from __future__ import annotations

import os
import queue
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from .machines import ERROR_MARK, USER_ERROR, RunFailure

# Reads groups of processes, a line each, until the launcher closes the pipe or is gone.
_GUARD = """
import os, signal, sys
for group in sys.stdin.read().split():
    try:
        os.killpg(int(group), signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass
"""


class Process:
    """One that was started, in a process group of its own."""

    def __init__(self, name: str, command: Sequence[str], told: Mapping[str, str], log: Path) -> None:
        self.name, self.log = name, log
        with log.open("ab") as sink:
            self.log_start = sink.tell()
            self.popen = subprocess.Popen(
                command,
                env=dict(told),
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def watch(self, ended: queue.SimpleQueue[Process]) -> None:
        """Hand itself over when it has ended, its children with it."""

        def wait() -> None:
            self.popen.wait()
            self.kill()  # whatever it has left behind in its group
            ended.put(self)

        threading.Thread(target=wait, daemon=True).start()

    def kill(self) -> None:
        """The whole group."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.popen.pid, signal.SIGKILL)

    def lines(self) -> Iterator[str]:
        """What it has said."""
        with self.log.open(encoding="utf-8", errors="replace") as text:
            text.seek(self.log_start)
            yield from (line.rstrip() for line in text)

    @property
    def code(self) -> int:
        """Exit code, negative for a signal."""
        assert self.popen.returncode is not None
        return self.popen.returncode


class Console:
    """Shows what one process writes into its log; lines of users' errors go to err, each once."""

    def __init__(self, out: TextIO, err: TextIO) -> None:
        self.out, self.err = out, err
        self.process: Process | None = None
        self.shown: set[str] = set()
        self._position = 0
        self._rest = b""

    def follow(self, process: Process) -> None:
        self.process, self._position = process, process.log_start

    def follows(self, process: Process) -> bool:
        return process is self.process

    def show(self, is_last: bool = False) -> None:
        """What is new, in whole lines; a progress bar ends its own with a carriage return."""
        if self.process is None:
            return
        with self.process.log.open("rb") as log:
            log.seek(self._position)
            new = log.read()
        self._position += len(new)
        text = self._rest + new
        whole = len(text) if is_last else 1 + max(text.rfind(b"\n"), text.rfind(b"\r"))
        self._rest = text[whole:]
        for line in text[:whole].decode("utf-8", errors="replace").splitlines(keepends=True):
            if line.startswith(ERROR_MARK):
                self.show_error(line.rstrip())
            else:
                self.out.write(line)
        self.out.flush()

    def show_error(self, line: str) -> None:
        if line not in self.shown:
            self.shown.add(line)
            print(line, file=self.err, flush=True)


def failure_of(process: Process, world: int) -> RunFailure:
    """What there is to say of a process that has failed; of ranks with the same user's error one has its line."""
    follows_others = (signal.SIGABRT, signal.SIGTERM, signal.SIGINT)
    remoteness = 0 if process.code < 0 and -process.code not in follows_others else 2
    if process.code in (USER_ERROR, -signal.SIGTERM):  # asked to end while it was ending
        line = next((line for line in process.lines() if line.startswith(ERROR_MARK)), None)
        if line is not None:
            return RunFailure(line, USER_ERROR, 1)
    if process.code == USER_ERROR:
        remoteness = 1
    how = f"exit code {process.code}" if process.code > 0 else _signal_name(-process.code)
    text = f"{process.name} of {world} on {socket.gethostname()} ended with {how}; see {process.log}"
    return RunFailure(text, process.code if process.code > 0 else 128 - process.code, remoteness)


def _signal_name(number: int) -> str:
    try:
        name = signal.Signals(number).name
    except ValueError:  # a real-time signal
        name = "?"
    hint = "; on a machine that is out of memory the system does that" if number == signal.SIGKILL else ""
    return f"signal {number} ({name}{hint})"


@contextmanager
def guard() -> Iterator[Callable[[int], None]]:
    """Give a function to name groups of processes, which are killed when this process ends without leaving this."""
    process = subprocess.Popen(
        (sys.executable, "-I", "-S", "-c", _GUARD), stdin=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdin is not None
    pipe = process.stdin

    def add(group: int) -> None:
        print(group, file=pipe, flush=True)

    try:
        yield add
    finally:
        process.kill()
        process.wait()
        pipe.close()
