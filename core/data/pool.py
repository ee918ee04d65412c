"""Reading processes: jobs go to them, results come back, and none of them can take training down.

A process that takes too long over a job is ended, one that dies is replaced; either way the job counts as failed. One
thread of the training process talks to all of them, so that results come in while a step is computed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from typing import Any, Protocol

import numpy as np

from ..cores import every_core
from .reading import Rated
from .worker import ArrayFollows, Failed, do

BOOT = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from duosora.core.data.worker import serve; "
    "serve(int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]))"
)
STARTUP_SECONDS = 300.0
"""For a process to begin; on a slow file system the imports alone take a minute."""
TRIES = 2
"""Of a job whose process dies: the operating system may have ended it for reasons of its own."""
Job = Callable[[], Any]


class JobRunner(Protocol):
    """Does jobs; what a job raises comes back as Failed."""

    def submit(self, key: Hashable, job: Job) -> None:
        """Take a job; the jobs are begun in this order."""

    def is_done(self, key: Hashable) -> bool: ...

    def result(self, key: Hashable) -> Any:
        """What came of a job, once; waits for it."""

    def forget(self, key: Hashable) -> None:
        """Drop a job and what came of it."""

    def close(self) -> None: ...


class InProcess:
    """Does a job when its result is asked for, here: nothing ends one that hangs."""

    def __init__(self) -> None:
        self._jobs: dict[Hashable, Job] = {}

    def submit(self, key: Hashable, job: Job) -> None:
        self._jobs[key] = job

    def is_done(self, key: Hashable) -> bool:
        return False

    def result(self, key: Hashable) -> Any:
        return do(self._jobs.pop(key))

    def forget(self, key: Hashable) -> None:
        self._jobs.pop(key, None)

    def close(self) -> None:
        self._jobs.clear()


class _Worker:
    """One process and the job it is at."""

    def __init__(self, timeout_seconds: float) -> None:
        ours, theirs = Pipe()
        arguments = [json.dumps(sys.path), str(theirs.fileno()), str(os.getpid()), str(timeout_seconds)]
        with every_core():
            self.process = subprocess.Popen(
                [sys.executable, "-c", BOOT, *arguments],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
            )
        theirs.close()
        self.connection: Connection = ours
        self.is_ready = False
        self.key: Hashable | None = None
        self.deadline = time.monotonic() + STARTUP_SECONDS

    def receive(self) -> Any:
        """What the process sent. Raises: EOFError or OSError when it is gone."""
        message = self.connection.recv()
        if isinstance(message, ArrayFollows):
            array = np.empty(message.shape, np.dtype(message.dtype))
            self.connection.recv_bytes_into(array.reshape(-1).view(np.uint8).data)
            return Rated(array, self.connection.recv()) if message.is_rated else array
        return message

    def end(self) -> int:
        """End the process; returns the exit code it has then."""
        self.connection.close()
        self.process.kill()
        return self.process.wait()


class WorkerPool:
    """Does jobs in processes of their own."""

    def __init__(self, workers: int, timeout_seconds: float) -> None:
        self._size, self._timeout = workers, timeout_seconds
        self._lock = threading.Condition()
        self._pending: deque[tuple[Hashable, Job]] = deque()
        self._running: dict[Hashable, Job] = {}
        self._tries: dict[Hashable, int] = {}
        self._results: dict[Hashable, Any] = {}
        self._dropped: set[Hashable] = set()
        self._error: str | None = None
        self._is_closed = False
        self._bell, self._ring = Pipe(duplex=False)
        self._workers: list[_Worker] = []
        self._thread = threading.Thread(target=self._serve, name="reading processes", daemon=True)
        self._thread.start()

    def submit(self, key: Hashable, job: Job) -> None:
        with self._lock:
            self._pending.append((key, job))
        self._ring.send(None)

    def is_done(self, key: Hashable) -> bool:
        with self._lock:
            return key in self._results

    def result(self, key: Hashable) -> Any:
        """Raises: RuntimeError when reading processes cannot be started."""
        with self._lock:
            self._lock.wait_for(lambda: key in self._results or self._error is not None)
            if self._error is not None:
                raise RuntimeError(self._error)
            return self._results.pop(key)

    def forget(self, key: Hashable) -> None:
        with self._lock:
            self._results.pop(key, None)
            self._pending = deque(entry for entry in self._pending if entry[0] != key)
            if key in self._running:
                self._dropped.add(key)

    def close(self) -> None:
        """End all processes."""
        with self._lock:
            if self._is_closed:
                return
            self._is_closed = True
        self._ring.send(None)
        self._thread.join()

    @property
    def process_ids(self) -> list[int]:
        """Of the processes that were started and not replaced."""
        return [worker.process.pid for worker in list(self._workers)]

    def _serve(self) -> None:
        try:
            while not self._is_closed:
                self._hand_out()
                self._take_in()
        except Exception as error:
            self._break(f"reading processes failed: {error!r}")
            raise
        finally:
            for worker in self._workers:
                worker.end()
            self._workers.clear()

    def _hand_out(self) -> None:
        """Give each free process a job; start processes while there are more jobs than free ones."""
        with self._lock:
            free = [worker for worker in self._workers if worker.key is None]
            for _ in range(min(len(self._pending) - len(free), self._size - len(self._workers))):
                self._workers.append(_Worker(self._timeout))
            for worker in free:
                if worker.is_ready and self._pending:
                    worker.key, job = self._pending.popleft()
                    self._running[worker.key] = job
                    self._give(worker, job)

    def _give(self, worker: _Worker, job: Job) -> None:
        worker.deadline = time.monotonic() + self._timeout
        try:
            worker.connection.send(job)
        except OSError:
            return  # it is gone; reading from it says so

    def _take_in(self) -> None:
        """Wait for a message, a bell or a deadline, and act on it."""
        busy = [worker for worker in self._workers if worker.key is not None or not worker.is_ready]
        now = time.monotonic()
        patience = min((worker.deadline - now for worker in busy), default=None)
        ready = wait(
            [self._bell, *(worker.connection for worker in self._workers)],
            None if patience is None else max(patience, 0.0),
        )
        if self._bell in ready:
            self._bell.recv()
        for worker in list(self._workers):
            if worker.connection in ready:
                self._read(worker)
            elif worker in busy and time.monotonic() >= worker.deadline:
                self._too_late(worker)

    def _read(self, worker: _Worker) -> None:
        try:
            message = worker.receive()
        except (EOFError, OSError):
            self._died(worker)
            return
        if not worker.is_ready:
            worker.is_ready = True
            return
        self._finish(worker, message)

    def _finish(self, worker: _Worker, result: Any) -> None:
        with self._lock:
            key, worker.key = worker.key, None
            self._running.pop(key, None)
            self._tries.pop(key, None)
            if key in self._dropped:
                self._dropped.discard(key)
            else:
                self._results[key] = result
            self._lock.notify_all()

    def _too_late(self, worker: _Worker) -> None:
        self._workers.remove(worker)
        worker.end()
        if not worker.is_ready:
            self._break(f"a reading process did not start within {STARTUP_SECONDS:g} seconds")
            return
        self._finish(worker, Failed(f"took longer than {self._timeout:g} seconds to read"))

    def _died(self, worker: _Worker) -> None:
        self._workers.remove(worker)
        code = worker.end()
        if not worker.is_ready:
            self._break(f"a reading process ended with code {code} before it began; its own message is above")
            return
        if worker.key is None:
            return
        with self._lock:
            tries = self._tries[worker.key] = self._tries.get(worker.key, 0) + 1
            if tries < TRIES and worker.key not in self._dropped:
                self._pending.appendleft((worker.key, self._running.pop(worker.key)))
                return
        self._finish(worker, Failed(f"ended the process that read it, {TRIES} times (exit code {code})"))

    def _break(self, error: str) -> None:
        with self._lock:
            self._error = error
            self._is_closed = True
            self._lock.notify_all()


def make_runner(workers: int, timeout_seconds: float) -> JobRunner:
    """Processes that read, or none with workers = 0."""
    return WorkerPool(workers, timeout_seconds) if workers else InProcess()
