"""Ports of this machine where a run can meet."""

from __future__ import annotations

import errno
import random
import socket

from ..errors import ConfigError
from .machines import PORT_AFTER

PORTS = range(20000, 30000, PORT_AFTER + 1)
"""Below those that systems give to clients."""
LAST_PORT = 65535 - PORT_AFTER


def free_port() -> int:
    """One that is free, as the next one is, where the roll is called; not of those that systems give to clients."""
    while True:
        port = random.choice(PORTS)
        if all(_reason_against(each) is None for each in (port, port + 1)):
            return port


def check_free(port: int) -> None:
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
