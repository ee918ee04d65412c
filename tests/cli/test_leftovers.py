"""A process that was started alone, in an environment where another program left a launcher's variables."""

from collections.abc import Callable

import pytest

from duosora.core.launch.ports import free_port
from duosora.core.parallel import roll_call

SOON = ("--set", "parallel.meet_seconds=0.5")


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(roll_call, "SECONDS_BEFORE_SAYING", 0.1)


def leave(monkeypatch: pytest.MonkeyPatch, **variables: object) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, str(value))


@pytest.mark.parametrize("verb", ["sample", "train"])
@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("backend", ["torch", "mindspore"])
def test_it_says_soon_for_whom_it_waits_and_ends(
    backend: str, rank: int, verb: str, duosora: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip(backend)
    port = free_port()
    if backend == "torch":
        leave(monkeypatch, RANK=rank, WORLD_SIZE=2, LOCAL_RANK=rank, MASTER_PORT=port)
    else:
        leave(monkeypatch, RANK_ID=rank, MS_WORKER_NUM=2, MS_ROLE="MS_WORKER", MS_SCHED_PORT=port)
    outcome = duosora(verb, "--backend", backend, *SOON, *(("--set", "accumulate=2") if verb == "train" else ()))
    assert outcome.code == 2
    waiting, error = [line for line in outcome.err.splitlines() if "waiting" in line or line.startswith("duosora: ")]
    assert "waiting for" in waiting
    assert error.startswith(f"duosora: rank 1{' on' if rank else ' of 2 did not come'}")
    assert "unset RANK" in waiting
    assert "unset RANK" in error


def test_mindspores_scheduler_that_is_not_there_is_named(duosora: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mindspore")
    leave(monkeypatch, MS_WORKER_NUM=1, MS_ROLE="MS_WORKER", MS_SCHED_PORT=free_port())
    outcome = duosora("sample", "--backend", "mindspore", *SOON)
    assert outcome.code == 2
    assert "waiting for MindSpore's scheduler at 127.0.0.1" in outcome.err
    assert "duosora: MindSpore's scheduler did not answer" in outcome.err


def test_mindspores_scheduler_says_what_it_is_and_waits_no_longer_than_the_others(
    duosora: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("mindspore")
    import os

    from duosora.backends.mindspore.distributed import groups

    def no_worker_comes() -> None:
        raise RuntimeError(f"after {os.environ['MS_TOPO_TIMEOUT']} s\nC++ call stack")

    monkeypatch.setattr(groups, "init", no_worker_comes)
    monkeypatch.setenv("MS_TOPO_TIMEOUT", "7")  # so that it is taken back after the test
    monkeypatch.delenv("MS_TOPO_TIMEOUT")
    leave(monkeypatch, RANK_ID=0, MS_WORKER_NUM=2, MS_ROLE="MS_SCHED", MS_SCHED_PORT=free_port())
    outcome = duosora("sample", "--backend", "mindspore", "--set", "parallel.meet_seconds=90")
    assert outcome.code == 2
    assert "this process is the scheduler of 2 MindSpore workers at 127.0.0.1" in outcome.err
    assert "duosora: the processes of this run do not find together: after 90 s; start with" in outcome.err


def test_a_backend_whose_meeting_place_is_not_named_is_not_waited_for(
    duosora: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch")
    leave(monkeypatch, RANK=1, WORLD_SIZE=2)
    outcome = duosora("sample", "--backend", "torch")
    assert outcome.code == 2
    assert outcome.err.endswith(
        "MASTER_PORT is not set, where processes of torch meet; start with torchrun, msrun or "
        "duosora launch; for one process without them: unset RANK WORLD_SIZE\n"
    )


@pytest.mark.parametrize("rank", [0, 1])
def test_what_works_in_one_process_says_so(rank: int, duosora: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    leave(monkeypatch, RANK=rank, WORLD_SIZE=2, LOCAL_RANK=rank)
    outcome = duosora("inspect", ".")
    assert outcome.code == 2
    assert outcome.err == (
        "duosora: duosora inspect works in one process, and 2 were started; start it without a launcher, or where "
        "there was none: unset RANK WORLD_SIZE LOCAL_RANK\n"
    )


def test_launch_tells_its_processes_anew(duosora: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    leave(monkeypatch, RANK=7, WORLD_SIZE=2)
    outcome = duosora("launch", "--backend", "none", "--", "doctor")
    assert outcome.err == "duosora: --backend none: there are torch and mindspore\n"
