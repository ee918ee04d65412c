"""Who is there, before any framework is asked to connect: those that are absent are named instead of waited for."""

from __future__ import annotations

import socket
import time

from ..errors import BackendMissing
from .launched import Launched
from .lines import ANSWER_SECONDS, SECONDS_BETWEEN_TRIES, receive, send


def roll_call(here: Launched, host: str, port: int, seconds: float) -> list[str]:
    """Names of the machines of all ranks, in the order of ranks; rank 0 listens on a port of host.

    Raises: BackendMissing that names the ranks which did not come in that time, on those that did.
    """
    own = socket.gethostname()
    until = time.monotonic() + seconds
    hosts = _call(here, own, port, until) if here.rank == 0 else _answer(here, own, host, port, until)
    absent = [rank for rank in range(here.world) if rank not in hosts]
    if absent:
        missing, there = (", ".join(map(str, ranks)) for ranks in (absent, sorted(hosts)))
        raise BackendMissing(
            f"ranks {missing} of {here.world} did not come to {host}:{port} in {seconds:g} s; there are "
            f"{there} on {', '.join(sorted(set(hosts.values())))}: look at the logs of the absent, and whether a "
            f"firewall is between them and port {port}"
        )
    return [hosts[rank] for rank in range(here.world)]


def _call(here: Launched, own: str, port: int, until: float) -> dict[int, str]:
    """Of rank 0: wait for the others and tell each who is there."""
    hosts = {here.rank: own}
    lines = []
    try:
        server = socket.create_server(("", port), backlog=here.world)
    except OSError as error:
        raise BackendMissing(
            f"rank 0 on {own} cannot listen on port {port}, the one after the meeting point: {error}"
        ) from error
    with server:
        while len(hosts) < here.world and (left := until - time.monotonic()) > 0:
            server.settimeout(left)
            try:
                line, _ = server.accept()
                line.settimeout(ANSWER_SECONDS)
                rank, name = receive(line)
            except (OSError, ValueError):  # time is up, or somebody else knocked
                continue
            hosts[rank] = name
            lines.append(line)
        for line in lines:
            send(line, sorted(hosts.items()))
            line.close()
    return hosts


def _answer(here: Launched, own: str, host: str, port: int, until: float) -> dict[int, str]:
    """Of the others: come, and hear who is there."""
    reason = "no answer"
    while time.monotonic() < until:
        try:
            with socket.create_connection((host, port), timeout=until - time.monotonic()) as line:
                send(line, [here.rank, own])
                line.settimeout(until - time.monotonic() + ANSWER_SECONDS)
                return dict(receive(line))
        except (OSError, ValueError) as error:
            reason = str(error)
            time.sleep(SECONDS_BETWEEN_TRIES)
    raise BackendMissing(f"rank {here.rank} on {own} does not reach rank 0 at {host}:{port}: {reason}")
