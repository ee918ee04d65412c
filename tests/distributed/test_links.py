"""`duosora doctor --distributed`: links are measured, and wrong numbers named."""

import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from duosora.core.parallel import links
from duosora.core.seam.group import Alone
from duosora.core.seam.ranks import ParallelPlan, Ranks


@pytest.mark.processes
@pytest.mark.parametrize(
    ("backend", "processes", "sequence", "kinds"),
    [("torch", 4, 2, ("world, 4", "data, 2", "sequence, 2")), ("mindspore", 2, 1, ("world, 2",))],
)
def test_every_link_is_measured(
    tmp_path: Path, backend: str, processes: int, sequence: int, kinds: tuple[str, ...]
) -> None:
    pytest.importorskip(backend)
    launch = ["launch", "-n", str(processes), "--log-dir", str(tmp_path), "--backend", backend]
    doctor = ["doctor", "--distributed", "--device", "cpu", "--sequence", str(sequence)]
    done = subprocess.run(
        [sys.executable, "-m", "duosora", *launch, "--", *doctor], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for kind in kinds:
        for collective in links.COLLECTIVES:
            rows = [line for line in done.stdout.splitlines() if kind in line and collective.name in line]
            assert len(rows) == len(links.HOST_SIZES)
    assert "slowest link: rank" in done.stdout
    assert socket.gethostname() in done.stdout
    assert "every collective gives the right numbers on every rank" in done.stdout


class Host:
    """As much of a backend as the links need, on numpy."""

    on_host = True
    asarray = to_numpy = staticmethod(np.asarray)


class PairOfOne(Alone):
    """The first of two ranks, the second of which is made up: it holds the same numbers and 1 more."""

    size, ranks = 2, (0, 1)

    def __init__(self, faulty: str | None) -> None:
        """faulty: the operation that gives wrong numbers."""
        self.faulty, self.bytes_sent = faulty, 0

    def reduce(self, x: np.ndarray) -> np.ndarray:
        return self._maybe_wrong("all-reduce", x + (x + 1))

    def all_to_all(self, x: np.ndarray, split: int, concat: int) -> np.ndarray:
        mine = x[: len(x) // 2]
        return self._maybe_wrong("all-to-all", np.concatenate([mine, mine + 1]))

    def gather(self, x: np.ndarray, axis: int) -> np.ndarray:
        return self._maybe_wrong("all-gather", np.concatenate([x, x + 1]))

    def reduce_scatter(self, x: np.ndarray) -> np.ndarray:
        return self._maybe_wrong("reduce-scatter", (x + (x + 1))[: len(x) // 2])

    def shift(self, x: np.ndarray) -> np.ndarray:
        return self._maybe_wrong("shift", x + 1)

    def share(self, data: bytes) -> list[bytes]:
        return [data, data]

    def _maybe_wrong(self, name: str, result: np.ndarray) -> np.ndarray:
        if name == self.faulty:
            result[-1] += 1
        return result


@pytest.mark.parametrize("faulty", [None, *(collective.name for collective in links.COLLECTIVES)])
def test_wrong_numbers_are_seen(faulty: str | None) -> None:
    ranks = Ranks(ParallelPlan(data=2), world=PairOfOne(faulty))
    wrong = {each.operation for each in links.measure(Host(), ranks) if each.wrong}
    assert wrong == ({faulty} - {None})


@pytest.mark.parametrize(
    ("seconds", "expected"), [((1.0, 1.1), ()), ((1.0, 2.0), (1,)), ((1.0, 0.9, 1.1, 9.0, 1.0, 1.6), (3, 5))]
)
def test_slow_ranks_are_those_far_from_most(seconds: tuple[float, ...], expected: tuple[int, ...]) -> None:
    assert links.slow(seconds) == expected
