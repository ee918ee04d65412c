"""A reading process: does one job after the other and sends back what comes of it.

It is started by core.data.pool, talks to it over one socket, and imports neither torch nor MindSpore. It ends when the
socket closes, when its parent is gone, or, whatever hangs, some time after the time-out of a job.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import threading
import time
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import numpy as np

from .reading import Rated, UnreadableRecord

SECONDS_BETWEEN_LOOKS = 0.5
GRACE_SECONDS = 10.0
"""The parent ends a process that is late; this much later it does so itself, for a parent that is gone."""
READY = "ready"


class ArrayFollows(NamedTuple):
    """An array's bytes are the next message."""

    dtype: str
    shape: tuple[int, ...]
    is_rated: bool = False
    """And the rate of its file is the one after that."""


class Failed(NamedTuple):
    """A job that raised."""

    reason: str
    is_for_good: bool = False
    """Whether the record would fail with other frames too."""


def serve(socket: int, parent: int, timeout_seconds: float) -> None:
    """Do the jobs that come over a socket, given by its number, until it closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    threading.Thread(target=_leave_with, args=(parent,), daemon=True).start()
    connection = Connection(socket)
    try:
        connection.send(READY)
        with open(os.devnull, "w") as nowhere:
            while True:
                job = connection.recv()
                # The only alarm that also rings when a library hangs without letting Python's threads run.
                faulthandler.dump_traceback_later(timeout_seconds + GRACE_SECONDS, exit=True, file=nowhere)
                _send(connection, do(job))
                faulthandler.cancel_dump_traceback_later()
    except (EOFError, ConnectionError):
        return


def do(job: Any) -> Any:
    """What comes of a job, or how it failed. A job may raise anything: the libraries under it do, for damaged files."""
    try:
        return job()
    except UnreadableRecord as error:
        return Failed(_line(error), is_for_good=True)
    except Exception as error:
        return Failed(_line(error))


def _send(connection: Connection, result: Any) -> None:
    array = result.pixels if isinstance(result, Rated) else result
    if isinstance(array, np.ndarray):
        flat = np.ascontiguousarray(array)
        connection.send(ArrayFollows(flat.dtype.str, flat.shape, isinstance(result, Rated)))
        connection.send_bytes(flat.reshape(-1).view(np.uint8).data)
        if isinstance(result, Rated):
            connection.send(result.fps)
    else:
        connection.send(result)


def _line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if isinstance(error, ValueError) and text else f"{type(error).__name__}: {text}"


def _leave_with(parent: int) -> None:
    """End this process when its parent is gone, also while a job hangs."""
    while os.getppid() == parent:
        time.sleep(SECONDS_BETWEEN_LOOKS)
    os._exit(1)
