"""Starts the processes of a run on this machine, looks after them, and ends them together.

What they are told is what torchrun and msrun tell, see launched.py. None outlives the others or the launcher: each has
a process group of its own, which is killed when its process has ended, and a small guard kills them all when the
launcher is gone without a word. On several machines the launchers start theirs when all are there, and end them
together, see machines.py.
"""

from __future__ import annotations

import errno
import os
import queue
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from ..errors import ConfigError
from .machines import ERROR_MARK, PORT_AFTER, USER_ERROR, Done, Failure, Machines

TAIL_LINES = 30
SECONDS_BETWEEN_LOOKS = 0.1
SETTLE_SECONDS = 2.0
"""After a failure, before the others are asked to end: those that fail by themselves in that time may be the cause."""
SECONDS_BEFORE_NAMING = 10.0
"""Of waiting for other machines, before it is said which."""
RENDEZVOUS_SECONDS = 600
PORTS = range(20000, 30000, 3)
"""Below those that systems give to clients."""
LAST_PORT = 65535 - PORT_AFTER
COLLECTIVE_SECONDS = 1800
"""MindSpore's own is 30 s on a CPU, little where one rank writes a video; the launcher sees the dead anyway."""

# The scheduler of MindSpore's dynamic cluster stays in init() until its workers have left.
_SCHEDULER = "from mindspore.communication import init; init()"
# Reads groups of processes, a line each, until the launcher closes the pipe or is gone.
_GUARD = """
import os, signal, sys
for group in sys.stdin.read().split():
    try:
        os.killpg(int(group), signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass
"""


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
    log_folder: Path = Path("logs")
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
                _check_free(port)


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


def free_port() -> int:
    """One that is free, as the next one is, where the roll is called; not of those that systems give to clients."""
    while True:
        port = random.choice(PORTS)
        if all(_reason_against(each) is None for each in (port, port + 1)):
            return port


def run(launch: Launch, out: TextIO | None = None, err: TextIO | None = None) -> int:
    """Start the processes and wait for them; the exit code for the launcher.

    0 when all ended well, else that of the rank that failed, 128 + n for signal n. Output of rank 0 goes to out, what
    the launcher has to say and the lines of users' errors to err.
    Raises: ConfigError as Launch.check.
    """
    launch.check()
    launch.log_folder.mkdir(parents=True, exist_ok=True)
    return _Job(launch, out or sys.stdout, err or sys.stderr).run()


class _Process:
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

    def watch(self, ended: queue.SimpleQueue[_Process]) -> None:
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


class _Job:
    """The processes of this machine, from start to end."""

    def __init__(self, launch: Launch, out: TextIO, err: TextIO) -> None:
        self.launch, self.err = launch, err
        self.console = _Console(out, err)
        self.ranks: list[_Process] = []
        self.scheduler: _Process | None = None
        self.running: set[_Process] = set()
        self.ended: queue.SimpleQueue[_Process] = queue.SimpleQueue()
        self.machines: Machines | None = None
        """The others."""
        self.done: set[int] = set()
        """Other nodes whose ranks have ended well."""
        self.failed: list[Failure] = []
        """In the order in which they were heard of, before the launcher killed any."""
        self.whose: dict[Failure, _Process] = {}
        """Of this machine."""
        self.asked: deque[int] = deque()
        """Signals that came."""
        self.is_leaving = self.is_ending = False
        """Whether the ranks were told to leave, or to end because one has failed."""
        self.end_at = self.kill_at = float("inf")
        self.late = self.why_late = ""
        """Ranks that were killed because time was up, and since when it ran."""

    def run(self) -> int:
        with _signals(self.asked), _guard() as guarded, self._line_to_others():
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
                self._fail(Failure(text, 128 + self.asked[0], 2))
            elif waited > self.launch.meet_seconds and not self.machines.is_waited_for:
                advice = "start all within that time, each with its own --node, and let them reach that port"
                text = f"{ERROR_MARK}after {self.launch.meet_seconds:g} s {self.machines.absent()}; {advice}"
                self._fail(Failure(text, USER_ERROR, 1))
            elif waited > SECONDS_BEFORE_NAMING and not is_named:
                is_named = True
                self._say(f"waiting: {self.machines.absent()}")
            if self.failed:
                return False
        return True

    def _start(self, guarded: Callable[[int], None]) -> None:
        launch = self.launch
        port = free_port() if launch.port is None else launch.port
        logs = launch.log_folder
        self._say(
            f"{launch.processes} processes, ranks {launch.ranks[0]} to {launch.ranks[-1]} of {launch.world}, "
            f"meeting at {launch.host}:{port}; logs in {logs}"
        )
        own = dict(os.environ)
        common = own | defaults(launch, own)

        def start(name: str, command: Sequence[str], told: Mapping[str, str]) -> _Process:
            process = _Process(name, command, {**common, **told}, logs / f"{name.replace(' ', '_')}.log")
            guarded(process.popen.pid)
            self.running.add(process)
            process.watch(self.ended)
            return process

        if launch.backend == "mindspore" and launch.node == 0:
            self.scheduler = start("scheduler", *scheduler(launch, port))
        for local_rank, rank in enumerate(launch.ranks):
            process = start(f"rank {rank}", launch.program, environment(launch, port, local_rank))
            self.ranks.append(process)
            if rank == 0:
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

    def _cause(self) -> Failure:
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

    def _note_end(self, process: _Process) -> None:
        if process.code:
            failure = _failure(process, self.launch.world)
            self.whose[failure] = process
            self._fail(failure)
        elif process is not self.scheduler:
            self._limit(self.launch.linger_seconds, f"after {process.name} had ended")
            if self.machines and not self.failed and all(rank not in self.running for rank in self.ranks):
                self.machines.tell(Done(self.launch.node))

    def _fail(self, failure: Failure, is_heard: bool = False) -> None:
        """is_heard: from another machine; node 0 passes it on."""
        self.failed.append(failure)
        self.end_at = min(self.end_at, time.monotonic() + SETTLE_SECONDS)
        if self.machines and not (is_heard and self.launch.node):
            self.machines.tell(failure)

    def _listen(self) -> None:
        """What other machines have said."""
        while self.machines and not self.machines.heard.empty():
            said = self.machines.heard.get()
            if isinstance(said, Failure):
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
                self.machines.tell(Failure(f"{self.late}: still there {self.why_late}, and killed", 1, 2))

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


class _Console:
    """Shows what one process writes into its log; lines of users' errors go to err, each once."""

    def __init__(self, out: TextIO, err: TextIO) -> None:
        self.out, self.err = out, err
        self.process: _Process | None = None
        self.shown: set[str] = set()
        self._position = 0
        self._rest = b""

    def follow(self, process: _Process) -> None:
        self.process, self._position = process, process.log_start

    def follows(self, process: _Process) -> bool:
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


def _failure(process: _Process, world: int) -> Failure:
    """What there is to say of a process that has failed; of ranks with the same user's error one has its line."""
    follows_others = (signal.SIGABRT, signal.SIGTERM, signal.SIGINT)
    remoteness = 0 if process.code < 0 and -process.code not in follows_others else 2
    if process.code in (USER_ERROR, -signal.SIGTERM):  # asked to end while it was ending
        line = next((line for line in process.lines() if line.startswith(ERROR_MARK)), None)
        if line is not None:
            return Failure(line, USER_ERROR, 1)
    if process.code == USER_ERROR:
        remoteness = 1
    how = f"exit code {process.code}" if process.code > 0 else _signal_name(-process.code)
    text = f"{process.name} of {world} on {socket.gethostname()} ended with {how}; see {process.log}"
    return Failure(text, process.code if process.code > 0 else 128 - process.code, remoteness)


def _signal_name(number: int) -> str:
    try:
        name = signal.Signals(number).name
    except ValueError:  # a real-time signal
        name = "?"
    hint = "; on a machine that is out of memory the system does that" if number == signal.SIGKILL else ""
    return f"signal {number} ({name}{hint})"


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


@contextmanager
def _guard() -> Iterator[Callable[[int], None]]:
    """Give a function to name groups of processes, which are killed when this process ends without leaving this."""
    guard = subprocess.Popen(
        (sys.executable, "-I", "-S", "-c", _GUARD), stdin=subprocess.PIPE, text=True, start_new_session=True
    )
    assert guard.stdin is not None
    pipe = guard.stdin

    def add(group: int) -> None:
        print(group, file=pipe, flush=True)

    try:
        yield add
    finally:
        guard.kill()
        guard.wait()
        pipe.close()


def _cluster(launch: Launch, port: int) -> dict[str, object]:
    """Of MindSpore's dynamic cluster, for workers and scheduler alike."""
    return {"MS_WORKER_NUM": launch.world, "MS_SCHED_HOST": launch.host, "MS_SCHED_PORT": port}


def _num_cores() -> int:
    """That this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _check_free(port: int) -> None:
    if (reason := _reason_against(port)) is not None:
        raise ConfigError(
            f"port {port} of this machine {reason}; name another, or on one node none, and a free one is taken"
        )


def _reason_against(port: int) -> str | None:
    """Why nobody can listen on that port."""
    with socket.socket() as probe:
        # As servers do: a port whose last connections are still winding down is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError as error:
            return "is in use by another process" if error.errno == errno.EADDRINUSE else f"cannot be used: {error}"
    return None
