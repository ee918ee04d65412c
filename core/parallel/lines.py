"""Connections between processes that no framework has joined yet: each line is a message in JSON."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from typing import Any

SECONDS_BETWEEN_TRIES = 0.2
ANSWER_SECONDS = 10.0
"""For an answer that waits for nobody else."""


def send(line: socket.socket, message: Any) -> None:
    line.sendall(json.dumps(message).encode() + b"\n")


def messages(line: socket.socket) -> Iterator[Any]:
    """What comes, until the other end closes. Raises: ValueError when it is no message; OSError."""
    with line.makefile("rb") as stream:
        yield from map(json.loads, stream)


def receive(line: socket.socket) -> Any:
    """The one message that comes. Raises: as messages, also when none does."""
    for message in messages(line):
        return message
    raise ValueError("no answer")
