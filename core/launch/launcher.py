"""Starts the processes of a run on this machine, looks after them, and ends them together.

None outlives the others. On several machines the launchers start theirs when all are there, and end them together, see
machines.py.
"""

from __future__ import annotations

import os
import queue
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import TextIO

from .environment import Launch, environment, inherited, scheduler
from .logs import log_name, writable_folder
from .machines import ERROR_MARK, PORT_AFTER, USER_ERROR, Done, Machines, RunFailure
from .ports import free_port
from .process import Console, Process, failure_of, guard

TAIL_LINES = 30
SECONDS_BETWEEN_LOOKS = 0.1
SETTLE_SECONDS = 2.0
"""After a failure, before the others are asked to end: those that fail by themselves in that time may be the cause."""
SECONDS_BEFORE_NAMING = 10.0
"""Of waiting for other machines, before it is said which."""


def run(launch: Launch, out: TextIO | None = None, err: TextIO | None = None) -> int:
    """Start the processes and wait for them; the exit code for the launcher.

    0 when all ended well, else that of the rank that failed, 128 + n for signal n. Output of rank 0 goes to out, what
    the launcher has to say and the lines of users' errors to err.
    Raises: ConfigError as Launch.check, and where logs cannot be written.
    """
    launch.check()
    return _Job(launch, out or sys.stdout, err or sys.stderr).run()


class _Job:
    """The processes of this machine, from start to end."""

    def __init__(self, launch: Launch, out: TextIO, err: TextIO) -> None:
        self.launch, self.err = launch, err
        self.console = Console(out, err)
        self.logs = writable_folder(launch.log_folder, launch.names, self._say)
        self.ranks: list[Process] = []
        self.scheduler: Process | None = None
        self.running: set[Process] = set()
        self.ended: queue.SimpleQueue[Process] = queue.SimpleQueue()
        self.machines: Machines | None = None
        """The others."""
        self.done: set[int] = set()
        """Other nodes whose ranks have ended well."""
        self.failed: list[RunFailure] = []
        """In the order in which they were heard of, before the launcher killed any."""
        self.whose: dict[RunFailure, Process] = {}
        """Of this machine."""
        self.asked: deque[int] = deque()
        """Signals that came."""
        self.is_leaving = self.is_ending = False
        """Whether the ranks were told to leave, or to end because one has failed."""
        self.end_at = self.kill_at = float("inf")
        self.late = self.why_late = ""
        """Ranks that were killed because time was up, and since when it ran."""

    def run(self) -> int:
        with _signals(self.asked), guard() as guarded, self._line_to_others():
            try:
                if self._meet():
                    self._start(guarded)
                while self._goes_on():
                    self._look()
                    self._pass_signals_on()
                    self._keep_time()
            finally:
                self._kill_all()
                self.console.show(is_last=True)
            return self._outcome()

    @contextmanager
    def _line_to_others(self) -> Iterator[None]:
        launch = self.launch
        if launch.nodes == 1:
            yield
            return
        assert launch.port is not None
        alike = {"nodes": launch.nodes, "processes": launch.processes, "backend": launch.backend}
        self.machines = Machines(launch.node, launch.nodes, alike, launch.host, launch.port + PORT_AFTER)
        try:
            yield
        finally:
            self.machines.close()

    def _meet(self) -> bool:
        """Wait for the other machines; whether all have come, and ranks are to be started."""
        if self.machines is None:
            return True
        began, is_named = time.monotonic(), False
        while not self.machines.all_there.wait(SECONDS_BETWEEN_LOOKS):
            self._listen()
            waited = time.monotonic() - began
            if self.asked:
                name = signal.Signals(self.asked[0]).name
                text = f"{name} came to the launcher of node {self.launch.node} before all machines had come"
                self._fail(RunFailure(text, 128 + self.asked[0], 2))
            elif waited > self.launch.meet_seconds and not self.machines.is_waited_for:
                advice = "start all within that time, each with its own --node, and let them reach that port"
                text = f"{ERROR_MARK}after {self.launch.meet_seconds:g} s {self.machines.absent()}; {advice}"
                self._fail(RunFailure(text, USER_ERROR, 1))
            elif waited > SECONDS_BEFORE_NAMING and not is_named:
                is_named = True
                self._say(f"waiting: {self.machines.absent()}")
            if self.failed:
                return False
        return True

    def _start(self, guarded: Callable[[int], None]) -> None:
        launch = self.launch
        port = free_port() if launch.port is None else launch.port
        self._say(
            f"{launch.processes} processes, ranks {launch.ranks[0]} to {launch.ranks[-1]} of {launch.world}, "
            f"meeting at {launch.host}:{port}; logs in {self.logs}"
        )
        common = inherited(launch, os.environ)

        def start(name: str, command: Sequence[str], told: Mapping[str, str]) -> Process:
            process = Process(name, command, {**common, **told}, self.logs / log_name(name))
            guarded(process.popen.pid)
            self.running.add(process)
            process.watch(self.ended)
            return process

        names = iter(launch.names)
        if launch.has_scheduler:
            self.scheduler = start(next(names), *scheduler(launch, port))
        for local_rank, name in enumerate(names):
            process = start(name, launch.program, environment(launch, port, local_rank))
            self.ranks.append(process)
            if launch.ranks[local_rank] == 0:
                self.console.follow(process)

    def _goes_on(self) -> bool:
        """Whether ranks of this machine run, or there may be more to hear from others: node 0 stays for the last."""
        if any(rank in self.running for rank in self.ranks):
            return True
        if self.machines is None or not self.ranks or self.late:
            return False
        if self.failed:
            patience = 0.0 if self._is_explained() else self.launch.grace_seconds
            return time.monotonic() < self.end_at + patience
        return self.launch.node == 0 and len(self.done) < self.launch.nodes - 1

    def _is_explained(self) -> bool:
        """Whether the cause has been told; a user's error is by one rank of one machine, which may be slow to end."""
        return self._cause().code != USER_ERROR or self._users_line() is not None

    def _cause(self) -> RunFailure:
        return min(self.failed, key=lambda failure: failure.remoteness)

    def _users_line(self) -> str | None:
        return next((each.text for each in self.failed if each.text.startswith(ERROR_MARK)), None)

    def _look(self) -> None:
        """Wait a little for one that ends."""
        with suppress(queue.Empty):
            process = self.ended.get(timeout=SECONDS_BETWEEN_LOOKS)
            self.running.discard(process)
            self._note_end(process)
        self._listen()
        self.console.show()

    def _note_end(self, process: Process) -> None:
        if process.code:
            failure = failure_of(process, self.launch.world)
            self.whose[failure] = process
            self._fail(failure)
        elif process is not self.scheduler:
            self._limit(self.launch.linger_seconds, f"after {process.name} had ended")
            if self.machines and not self.failed and all(rank not in self.running for rank in self.ranks):
                self.machines.tell(Done(self.launch.node))

    def _fail(self, failure: RunFailure, is_heard: bool = False) -> None:
        """is_heard: from another machine; node 0 passes it on."""
        self.failed.append(failure)
        self.end_at = min(self.end_at, time.monotonic() + SETTLE_SECONDS)
        if self.machines and not (is_heard and self.launch.node):
            self.machines.tell(failure)

    def _listen(self) -> None:
        """What other machines have said."""
        while self.machines and not self.machines.heard.empty():
            said = self.machines.heard.get()
            if isinstance(said, RunFailure):
                self._fail(said, is_heard=True)
            else:
                self.done.add(said.node)
                self._limit(self.launch.linger_seconds, f"after all of node {said.node} had ended")

    def _pass_signals_on(self) -> None:
        while self.asked:
            number = self.asked.popleft()
            if not self.is_leaving:
                self.is_leaving = True
                self._limit(self.launch.leave_seconds, "after all were asked to leave")
                passed_on = signal.SIGINT if number == signal.SIGINT else signal.SIGTERM
                self._say(f"{signal.Signals(number).name} came; all ranks are asked to leave")
                self._signal_ranks(passed_on)
            elif number == signal.SIGINT:
                self._limit(0.0, "after the second Ctrl-C")

    def _limit(self, seconds: float, since: str) -> None:
        """Give the ranks no more than that from now on."""
        at = time.monotonic() + seconds
        if at < self.kill_at:
            self.kill_at, self.why_late = at, f"{seconds:g} s {since}"

    def _keep_time(self) -> None:
        now = time.monotonic()
        if now >= self.end_at and not self.is_ending:
            self.is_ending = True
            self._limit(self.launch.grace_seconds, "after another had failed")
            if not self.is_leaving:  # else they have been asked, and are about to save
                self._signal_ranks(signal.SIGTERM)
        if now >= self.kill_at:
            self.late = ", ".join(self._late())
            self._kill_all()
            if self.machines and not self.failed:
                self.machines.tell(RunFailure(f"{self.late}: still there {self.why_late}, and killed", 1, 2))

    def _late(self) -> list[str]:
        """Those who are waited for: ranks of this machine, and other nodes when there are none."""
        ranks = [rank.name for rank in self.ranks if rank in self.running]
        return ranks or [f"node {node}" for node in range(1, self.launch.nodes) if node not in self.done]

    def _kill_all(self) -> None:
        for process in self.running:
            process.kill()
        for process in self.running:
            process.popen.wait()
        self.running.clear()

    def _signal_ranks(self, number: int) -> None:
        """To the ranks alone: their children are theirs to end, and a rank that saves may still want them."""
        for rank in self.ranks:
            if rank in self.running:
                rank.popen.send_signal(number)

    def _outcome(self) -> int:
        """Say what went wrong, if anything; the exit code."""
        if self.late:
            self._say(f"{self.late}: still there {self.why_late}, and killed")
        if not self.failed:
            return 1 if self.late else 0
        cause = self._cause()
        if cause.code == USER_ERROR and (error := self._users_line()):
            self.console.show_error(error)
            return USER_ERROR
        process = self.whose.get(cause)
        if process is not None and not self.console.follows(process):
            tail = deque(process.lines(), TAIL_LINES)
            self._say(f"the end of {process.log}:" if tail else f"{process.log} is empty")
            print(*(f"{line}\n" for line in tail), sep="", end="", file=self.err)
        self._say(cause.text)
        return cause.code

    def _say(self, text: str) -> None:
        print(f"launch: {text}", file=self.err, flush=True)


@contextmanager
def _signals(asked: deque[int]) -> Iterator[None]:
    """Notes signals that ask this process to leave."""

    def note(number: int, frame: object) -> None:
        asked.append(number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {}
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # under nohup
            before[number] = signal.signal(number, note)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
