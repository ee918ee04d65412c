"""Ranks that meet: all come, or those that are there say soon for whom they wait, and name the absent in the end."""

import socket
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from duosora.core.errors import BackendMissing
from duosora.core.launch.ports import free_port
from duosora.core.parallel import roll_call
from duosora.core.parallel.launched import Launched


@pytest.fixture
def port() -> int:
    return free_port()


def call_roll(port: int, world: int, present: Sequence[int], seconds: float) -> list[Callable[[], None]]:
    """What comes of it for each of those present."""
    with ThreadPoolExecutor(world) as pool:
        calls = [pool.submit(roll_call.roll_call, Launched(i, world), "127.0.0.1", port, seconds) for i in present]
    return [call.result for call in calls]


def test_all_that_come_go_on(port: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert [result() for result in call_roll(port, 3, [0, 1, 2], 30)] == [None] * 3
    assert capsys.readouterr().err == ""


def test_absent_ranks_are_named_to_those_that_came(port: int) -> None:
    for result in call_roll(port, 5, [0, 2], 1):
        with pytest.raises(BackendMissing, match="^ranks 1, 3, 4 of 5 did not come to .*, only ranks 0, 2 on"):
            result()


def test_a_first_rank_that_is_absent_is_named(port: int) -> None:
    (result,) = call_roll(port, 2, [1], 0.5)
    with pytest.raises(BackendMissing, match="^rank 1 on .* does not reach rank 0 at 127.0.0.1"):
        result()


@pytest.mark.parametrize(
    ("rank", "said"),
    [(0, "waiting for 7 of 8 processes (ranks 1 to 7) at"), (1, "rank 1 of 8 is waiting for rank 0 at")],
)
def test_who_waits_says_so_and_how_to_be_alone(
    rank: int, said: str, port: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A process with variables that another program left behind looks like a rank whose others are late."""
    monkeypatch.setattr(roll_call, "SECONDS_BEFORE_SAYING", 0.1)
    monkeypatch.setenv("WORLD_SIZE", "8")
    (result,) = call_roll(port, 8, [rank], 0.5)
    with pytest.raises(BackendMissing, match="unset WORLD_SIZE"):
        result()
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(said)
    assert line.endswith("unset WORLD_SIZE")


def test_strangers_that_knock_are_not_counted(port: int) -> None:
    def knock(words: bytes) -> None:
        with socket.create_connection(("127.0.0.1", port + 1)) as line:
            line.sendall(words)
            line.recv(1)

    with ThreadPoolExecutor(8) as pool:
        first = pool.submit(roll_call.roll_call, Launched(0, 2), "127.0.0.1", port, 30)
        roll_call.wait_for_listener("rank 0", "127.0.0.1", port + 1)
        strangers = (b"GET / HTTP/1.1\n", b"[[1], 2]\n", b'[7, "a"]\n', b"[true]\n", b"3\n")
        knocks = [pool.submit(knock, words) for words in strangers]
        pool.submit(roll_call.roll_call, Launched(1, 2), "127.0.0.1", port, 30).result()
        first.result()
    assert len(knocks) == len(strangers)


def test_a_port_of_another_program_is_named(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(roll_call, "ANSWER_SECONDS", 0.1)
    with (
        socket.create_server(("", port + 1)),
        pytest.raises(BackendMissing, match=f"cannot listen on port {port + 1}, .*in use"),
    ):
        roll_call.roll_call(Launched(0, 2), "127.0.0.1", port, 5)


def test_a_port_that_becomes_free_in_time_is_taken(port: int) -> None:
    busy = socket.create_server(("", port + 1))
    threading.Timer(0.3, busy.close).start()
    assert [result() for result in call_roll(port, 2, [0, 1], 30)] == [None] * 2


def test_a_listener_that_does_not_come_is_named(port: int) -> None:
    with pytest.raises(BackendMissing, match="^the scheduler did not answer at 127.0.0.1:.* in 0.3 s: "):
        roll_call.wait_for_listener("the scheduler", "127.0.0.1", port, 0.3)
