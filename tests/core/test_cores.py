"""The one core that a process keeps; in processes of their own, as it is for good."""

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from duosora.core import cores

SEVERAL = pytest.mark.skipif(len(cores.allowed()) < 2, reason="needs two cores")
PROGRAM = """
import json, os, subprocess, sys, threading
from duosora.core import cores
given = os.sched_getaffinity(0)
release, told = threading.Event(), []
thread = threading.Thread(target=lambda: (release.wait(), told.append(len(os.sched_getaffinity(0)))))
thread.start()  # before the core is kept
cores.keep_one(*json.loads(sys.argv[1]))
release.set()
thread.join()
ask = [sys.executable, "-c", "import os; print(len(os.sched_getaffinity(0)))"]
with cores.every_core():
    child = int(subprocess.check_output(ask))
own = os.sched_getaffinity(0)
print(json.dumps([len(own), told[0], child, cores.allowed() == given, sorted(given).index(min(own))]))
"""


@pytest.fixture(autouse=True)
def all_cores() -> Iterator[None]:
    """All cores for the test and its children: MindSpore may have made this process keep one long ago."""
    with cores.every_core():
        yield


def kept(*place: int, **environment: str) -> list[int]:
    """How many cores the process has, an older thread of it, and a child; whether it recalls what it was given."""
    run = [sys.executable, "-c", PROGRAM, json.dumps(place)]
    return json.loads(subprocess.check_output(run, env=os.environ | environment))


@SEVERAL
def test_one_thread_keeps_one_core_and_its_children_have_all_of_them() -> None:
    assert kept(OMP_NUM_THREADS="1")[:4] == [1, 1, len(cores.allowed()), True]


@SEVERAL
@pytest.mark.parametrize(
    "environment", [{"OMP_NUM_THREADS": "2"}, {"OMP_NUM_THREADS": ""}, {"OMP_NUM_THREADS": "1", cores.SWITCH: "0"}]
)
def test_more_threads_or_the_switch_leave_the_cores_alone(environment: dict[str, str]) -> None:
    count = len(cores.allowed())
    assert kept(**environment)[:4] == [count, count, count, True]


def test_a_core_is_one_that_the_fewest_others_keep() -> None:
    assert cores.choose([4, 5, 6], Counter()) == 4
    assert cores.choose([4, 5, 6], Counter([4, 5, 5])) == 6
    assert cores.choose([4, 5, 6], Counter([6, 4, 4, 5])) == 5


@SEVERAL
def test_who_keeps_a_core_is_seen() -> None:
    core = max(cores.allowed())
    program = f"import os; os.sched_setaffinity(0, {{{core}}}); print(flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as one:
        assert one.stdout is not None
        one.stdout.readline()
        seen = cores._only_core(Path(f"/proc/{one.pid}"))
        one.communicate(b"\n")
    assert seen == core


@SEVERAL
def test_processes_that_start_together_take_different_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[int] = []
    monkeypatch.setattr(cores, "_kept_by_others", lambda: iter(()))
    monkeypatch.setattr(os, "sched_setaffinity", lambda task, core: taken.extend(core))
    monkeypatch.setattr(os, "listdir", lambda folder: ["0"])
    for place in range(2):
        monkeypatch.setattr(cores, "_given", set())
        cores.keep_one(place, {"OMP_NUM_THREADS": "1"})
    assert taken == sorted(cores.allowed())[:2]
