"""What the launchers of several machines tell each other: who is there, who has failed, who is done.

The launcher of node 0 listens, and each of the others keeps a connection to it; what one tells reaches all through it.
A launcher that ends without a word is missed at once, as the system closes its connection; a machine that is cut off or
without power after SILENCE_SECONDS, by the system's probes.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import astuple, dataclass
from queue import SimpleQueue
from typing import Any

from ..parallel.lines import ANSWER_SECONDS, SECONDS_BETWEEN_TRIES, messages, send

USER_ERROR = 2
"""Exit code of a process whose last line says what its user is to mend."""
ERROR_MARK = "duosora: "
"""How that line begins."""
PORT_AFTER = 2
"""The launchers' port is the second after that where ranks meet; the roll is called on the one between."""
SILENCE_SECONDS = 120
"""Longer than a switch takes to find another way."""
_SECONDS_BETWEEN_PROBES = 10
_PROBES = {
    "TCP_KEEPIDLE": _SECONDS_BETWEEN_PROBES,
    "TCP_KEEPINTVL": _SECONDS_BETWEEN_PROBES,
    "TCP_KEEPCNT": SILENCE_SECONDS // _SECONDS_BETWEEN_PROBES,
    "TCP_USER_TIMEOUT": 1000 * SILENCE_SECONDS,
}
"""Options of Linux; other systems have some of them, and their own patience."""


@dataclass(frozen=True)
class RunFailure:
    """Why a run ends, as all machines hear it."""

    text: str
    """Which rank or machine, where and how; or the line of a user's error."""
    code: int
    """For the launchers to end with."""
    remoteness: int
    """From the cause: of several failures within moments the least remote one is told. 0: killed, crashed or gone,
    which brings others down; 1: a user's error, which may take longer to end than those that miss it; 2: others."""


@dataclass(frozen=True)
class Done:
    """The ranks of a node have all ended well."""

    node: int


_KINDS = {kind.__name__: kind for kind in (RunFailure, Done)}
_ALL_THERE = "AllThere"


class Machines:
    """The launchers of the other nodes, as one of them sees them: node 0 sees all, the others node 0."""

    def __init__(self, node: int, nodes: int, alike: Mapping[str, Any], host: str, port: int) -> None:
        """alike: what all must have been started with. host: of node 0, where it listens on that port.

        Raises: OSError when node 0 cannot.
        """
        self.node, self.nodes, self.alike, self.host, self.port = node, nodes, dict(alike), host, port
        self.heard: SimpleQueue[RunFailure | Done] = SimpleQueue()
        self.all_there = threading.Event()
        """Set when every node has come."""
        self._names = {node: socket.gethostname()}
        self._lines: dict[int, socket.socket] = {}
        self._lock = threading.Lock()
        self._is_closed = False
        self._server = socket.create_server(("", port), backlog=nodes) if node == 0 else None
        threading.Thread(target=self._call if self._server is None else self._listen, daemon=True).start()

    @property
    def is_waited_for(self) -> bool:
        """Whether this is for node 0 to do, which has answered."""
        return self.node > 0 and bool(self._lines)

    def absent(self) -> str:
        """Which nodes have not come, and who has, in words."""
        with self._lock:
            names = dict(self._names)
        there = ", ".join(f"{node} on {names[node]}" for node in sorted(names))
        if self.is_waited_for:
            return f"node 0 waits for other nodes; there is {there}"
        if self.node:
            return f"node 0 has not answered at {self.host}:{self.port}; there is {there}"
        missing = ", ".join(str(node) for node in range(self.nodes) if node not in names)
        return f"nodes {missing} of {self.nodes} have not come to {self.host}:{self.port}; there are {there}"

    def tell(self, said: RunFailure | Done) -> None:
        """All that this one sees; those that are gone have been heard of."""
        self._send_all([type(said).__name__, *astuple(said)])

    def close(self) -> None:
        self._is_closed = True
        with self._lock:
            ends = [*self._lines.values(), *([self._server] if self._server else [])]
        for end in ends:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)  # wakes the thread that waits there
            end.close()

    def _listen(self) -> None:
        """Of node 0: welcome whoever comes."""
        assert self._server is not None
        with suppress(OSError):  # closed
            while True:
                line, _ = self._server.accept()
                threading.Thread(target=self._welcome, args=(line,), daemon=True).start()

    def _welcome(self, line: socket.socket) -> None:
        line.settimeout(ANSWER_SECONDS)
        coming = messages(line)
        try:
            node, name, alike = next(coming)
            mistake = self._mistake(node, name, alike)
        except (OSError, LookupError, TypeError, ValueError, StopIteration):  # somebody else knocked
            line.close()
            return
        if mistake is None:
            self._hear(node, name, line, coming)
            return
        with suppress(OSError), line:
            send(line, [RunFailure.__name__, *astuple(mistake)])
        if not self.all_there.is_set():
            self.heard.put(mistake)

    def _mistake(self, node: int, name: str, alike: Mapping[str, Any]) -> RunFailure | None:
        """Why a node cannot join; None: it has its place.

        Raises: LookupError, TypeError, ValueError for what no launcher says.
        """
        with self._lock:
            for key, ours in self.alike.items():
                if alike[key] != ours:
                    return _users_error(
                        f"node {node} on {name} was started with {alike[key]} {key}, node 0 on {self._names[0]} with "
                        f"{ours}; start all with the same"
                    )
            if node in self._names:
                return _users_error(
                    f"node {node} was started on {self._names[node]} and on {name}; give each machine its own number"
                )
            if node not in range(self.nodes):
                raise ValueError(f"node {node}")
            self._names[node] = name
        return None

    def _call(self) -> None:
        """Of the others: keep calling until node 0 answers."""
        while not self._is_closed:
            try:
                line = socket.create_connection((self.host, self.port), timeout=ANSWER_SECONDS)
                send(line, [self.node, self._names[self.node], self.alike])
            except OSError:
                time.sleep(SECONDS_BETWEEN_TRIES)
            else:
                self._hear(0, self.host, line, messages(line))
                return

    def _hear(self, node: int, name: str, line: socket.socket, coming: Iterator[Any]) -> None:
        """What a node says, until its line ends."""
        line.settimeout(None)
        line.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in _PROBES.items():
            if hasattr(socket, option):
                line.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
        with self._lock:
            self._lines[node] = line
        if self.node == 0 and len(self._lines) == self.nodes - 1:
            self._send_all([_ALL_THERE])
            self.all_there.set()
        has_ended, reason = False, "its connection was closed"
        try:
            for kind, *content in coming:
                if kind == _ALL_THERE:
                    self.all_there.set()
                else:
                    has_ended = True
                    self.heard.put(_KINDS[kind](*content))
        except OSError as error:
            reason = error.strerror or str(error)
        except ValueError:  # cut off within a message
            pass
        if not (has_ended or self._is_closed):
            self.heard.put(RunFailure(f"the launcher of node {node} on {name} is gone: {reason}", 1, 0))

    def _send_all(self, message: Any) -> None:
        with self._lock:
            for line in self._lines.values():
                with suppress(OSError):
                    send(line, message)


def _users_error(text: str) -> RunFailure:
    return RunFailure(ERROR_MARK + text, USER_ERROR, 1)
