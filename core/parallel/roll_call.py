"""Who is there, before any framework is asked to connect: those that are absent are named instead of waited for.

A framework waits inside of C++, in silence and for up to hours. So ranks meet here first, at the port after the one
that the framework uses. Whoever waits says so after some seconds, and gives up after some minutes.
"""

from __future__ import annotations

import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from ..errors import BackendMissing
from ..printable import say
from ..seam.ranks import MEET_SECONDS
from .launched import Launched, told_once, way_out
from .lines import ANSWER_SECONDS, SECONDS_BETWEEN_TRIES, receive, send

SECONDS_BEFORE_SAYING = 5.0
"""Of waiting, before it is said for whom."""
_MOST_WAITING = 4096
"""Connections that the system keeps until they are taken."""


def roll_call(here: Launched, host: str, port: int, seconds: float = MEET_SECONDS) -> None:
    """Wait until all ranks have come; rank 0 listens on the port after the meeting point, on host.

    Raises: BackendMissing that names the ranks which did not come in that time, on those that did.
    """
    if here.world == 1:
        return
    own = socket.gethostname()
    until = time.monotonic() + seconds
    call = _call if here.rank == 0 else _answer
    hosts = call(here, own, host, port + 1, until)
    absent = [rank for rank in range(here.world) if rank not in hosts]
    if absent:
        with told_once():
            raise BackendMissing(
                f"{_ranks(absent)} of {here.world} did not come to {host}:{port + 1} in {seconds:g} s, only "
                f"{_ranks(sorted(hosts))} on {', '.join(sorted(set(hosts.values())))}: look at the logs of the absent, "
                f"and whether a firewall is between them and that port; {way_out()}"
            )


def wait_for_listener(who: str, host: str, port: int, seconds: float = MEET_SECONDS) -> None:
    """Until a process listens there, which is told nothing. Raises: BackendMissing that names it."""
    until = time.monotonic() + seconds
    with _said_after(lambda: f"waiting for {who} at {host}:{port}, {seconds:g} s at most; {way_out()}"):
        while True:
            try:
                socket.create_connection((host, port), timeout=_left(until)).close()
                return
            except OSError as error:
                if time.monotonic() >= until:
                    raise BackendMissing(
                        f"{who} did not answer at {host}:{port} in {seconds:g} s: {error}; {way_out()}"
                    ) from error
                time.sleep(SECONDS_BETWEEN_TRIES)


def _call(here: Launched, own: str, host: str, port: int, until: float) -> dict[int, str]:
    """Of rank 0: wait for the others and tell each who is there."""
    hosts = {here.rank: own}
    lines = []

    def waiting() -> str:
        absent = [rank for rank in range(here.world) if rank not in hosts]
        return (
            f"waiting for {len(absent)} of {here.world} processes ({_ranks(absent)}) at {host}:{port}, "
            f"{_left(until):.0f} s more at most; {way_out()}"
        )

    with _listening(own, port, here.world, until) as server, _said_after(waiting):
        while len(hosts) < here.world and time.monotonic() < until:
            server.settimeout(_left(until))
            try:
                line, _ = server.accept()
                line.settimeout(ANSWER_SECONDS)
                rank, name = receive(line)
                if rank not in range(here.world):
                    raise ValueError(f"rank {rank}")
            except (OSError, TypeError, ValueError):  # time is up, or somebody else knocked
                continue
            hosts[rank] = str(name)
            lines.append(line)
        for line in lines:
            send(line, sorted(hosts.items()))
            line.close()
    return hosts


def _listening(own: str, port: int, world: int, until: float) -> socket.socket:
    """A server on that port. One that another program has for a moment, for a call of its own, is waited for."""
    is_dual = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if is_dual else socket.AF_INET
    give_up = min(until, time.monotonic() + ANSWER_SECONDS)
    while True:
        try:
            return socket.create_server(
                ("", port), family=family, backlog=min(world, _MOST_WAITING), dualstack_ipv6=is_dual
            )
        except OSError as error:
            if time.monotonic() >= give_up:
                raise BackendMissing(
                    f"rank 0 on {own} cannot listen on port {port}, the one after the meeting point: {error}; start "
                    f"with another port, and each rank once; {way_out()}"
                ) from error
            time.sleep(SECONDS_BETWEEN_TRIES)


def _answer(here: Launched, own: str, host: str, port: int, until: float) -> dict[int, str]:
    """Of the others: come, and hear who is there."""
    reason = "no answer"

    def waiting() -> str:
        return (
            f"rank {here.rank} of {here.world} is waiting for rank 0 at {host}:{port} to say that all are there, "
            f"{_left(until):.0f} s more at most; {way_out()}"
        )

    with _said_after(waiting):
        while time.monotonic() < until:
            try:
                with socket.create_connection((host, port), timeout=_left(until)) as line:
                    send(line, [here.rank, own])
                    line.settimeout(_left(until) + ANSWER_SECONDS)
                    return dict(receive(line))
            except (OSError, TypeError, ValueError) as error:
                reason = str(error)
                time.sleep(SECONDS_BETWEEN_TRIES)
    raise BackendMissing(f"rank {here.rank} on {own} does not reach rank 0 at {host}:{port}: {reason}; {way_out()}")


@contextmanager
def _said_after(text: Callable[[], str]) -> Iterator[None]:
    """Print it when what is inside takes longer than some seconds."""
    timer = threading.Timer(SECONDS_BEFORE_SAYING, lambda: say(text(), file=sys.stderr))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _left(until: float) -> float:
    """Seconds, never none: a socket without would not wait at all."""
    return max(until - time.monotonic(), 0.001)


def _ranks(ranks: Sequence[int]) -> str:
    return f"rank{'s' if len(ranks) > 1 else ''} {_listed(ranks)}"


def _listed(ranks: Sequence[int]) -> str:
    """Rising numbers in words: 0, 2 to 7."""
    runs: list[list[int]] = []
    for rank in ranks:
        if runs and runs[-1][-1] == rank - 1:
            runs[-1].append(rank)
        else:
            runs.append([rank])
    return ", ".join(f"{run[0]} to {run[-1]}" if len(run) > 2 else ", ".join(map(str, run)) for run in runs)
