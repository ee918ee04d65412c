"""`duosora launch`: processes that end together, whatever happens to one of them, and an exit code that tells."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from uuid import uuid4

import pytest

from duosora.core.errors import ConfigError
from duosora.core.launch import launcher
from duosora.core.launch.environment import Launch, defaults, environment, inherited
from duosora.core.launch.ports import free_port

pytestmark = pytest.mark.processes
PROGRAMS = Path(__file__).parent / "programs"
PATIENCE = 60
"""Seconds within which a job must end, whatever happens."""
START = """
import runpy, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.argv.insert(1, "launch")
runpy.run_module("duosora", run_name="__main__", alter_sys=True)
"""
"""`duosora launch` as from a terminal: where tests run in a shell's background, Ctrl-C is switched off for all."""
MARK = "DUOSORA_TEST_MARK"


class Job:
    """`duosora launch` on one of the programs, all of whose processes carry a mark."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.mark = folder, uuid4().hex

    def start(self, program: str, *arguments: str, options: tuple[str, ...] = ()) -> subprocess.Popen[str]:
        words = ["-n", "2", "--log-dir", str(self.folder), *options, "--", str(PROGRAMS / program), *arguments]
        return subprocess.Popen(
            [sys.executable, "-c", START, *words],
            env=os.environ | {MARK: self.mark},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, program: str, *arguments: str, options: tuple[str, ...] = ()) -> tuple[int, str, str]:
        """Exit code, stdout and stderr."""
        started = self.start(program, *arguments, options=options)
        out, err = started.communicate(timeout=PATIENCE)
        return started.returncode, out, err

    def left(self) -> list[str]:
        """Command lines of processes of the job that are still there."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                if f"{MARK}={self.mark}".encode() in (folder / "environ").read_bytes().split(b"\0"):
                    found.append((folder / "cmdline").read_bytes().replace(b"\0", b" ").decode())
            except OSError:  # ended meanwhile, or not ours
                continue
        return found

    def log(self, rank: int) -> str:
        return (self.folder / f"rank_{rank}.log").read_text("utf-8")

    def wait_for(self, text: str, ranks: int = 2) -> None:
        """Until all ranks have said that."""
        until = time.monotonic() + PATIENCE
        while not all((self.folder / f"rank_{i}.log").exists() and text in self.log(i) for i in range(ranks)):
            assert time.monotonic() < until
            time.sleep(0.05)

    def assert_none_left(self) -> None:
        """The system may need a moment to take down those that were killed."""
        until = time.monotonic() + PATIENCE
        while self.left():
            assert time.monotonic() < until, self.left()
            time.sleep(0.05)


@pytest.fixture
def job(tmp_path: Path) -> Iterator[Job]:
    job = Job(tmp_path)
    yield job
    job.assert_none_left()


def test_each_process_is_told_its_place_and_the_first_is_heard(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    code, out, _ = job.run("stand_in.py", "tell")
    assert code == 0
    told = "RANK={0} WORLD_SIZE=2 LOCAL_RANK={0} LOCAL_WORLD_SIZE=2 MASTER_ADDR=127.0.0.1 OMP_NUM_THREADS=7\n"
    assert out == told.format(0)
    assert [job.log(i) for i in range(2)] == [told.format(i) for i in range(2)]


def test_a_rank_that_fails_ends_the_others_and_is_named(job: Job) -> None:
    code, _, err = job.run("stand_in.py", "fail:1")
    assert code == 3
    assert "the reason" in err
    assert "rank 1 of 2" in err
    assert "exit code 3" in err


def test_a_rank_that_is_killed_is_named_and_its_children_end(job: Job) -> None:
    code, _, err = job.run("stand_in.py", "killed:1")
    assert code == 128 + signal.SIGKILL
    assert "rank 1 of 2" in err
    assert "signal 9 (SIGKILL" in err


@pytest.mark.parametrize("behaviour", ["user_error", "user_error:1", "misses_the_first"])
def test_a_mistake_of_the_user_is_one_line_and_exit_code_2(job: Job, behaviour: str) -> None:
    code, out, err = job.run("stand_in.py", behaviour)
    assert code == 2
    assert out == ""
    assert [line for line in err.splitlines() if not line.startswith("launch: 2 processes")] == [
        "duosora: a.yaml: steps: expected a number, not 'many'"
    ]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_a_signal_reaches_all_ranks_once_and_they_may_save(job: Job, number: signal.Signals) -> None:
    started = job.start("stand_in.py", "save")
    job.wait_for("ready")
    started.send_signal(number)
    _, err = started.communicate(timeout=PATIENCE)
    assert started.returncode == 0, err
    assert [job.log(i) for i in range(2)] == [f"ready\nrank {i} saved on {number.name}\n" for i in range(2)]


def test_ranks_that_do_not_leave_are_killed_in_the_end(job: Job) -> None:
    started = job.start("stand_in.py", "deaf", options=("--leave", "1"))
    job.wait_for("ready")
    started.send_signal(signal.SIGTERM)
    _, err = started.communicate(timeout=PATIENCE)
    assert started.returncode == 1
    assert "rank 0, rank 1: still there 1 s after all were asked to leave" in err


def test_a_rank_that_ends_early_holds_the_others_to_a_limit(job: Job) -> None:
    code, _, err = job.run("stand_in.py", "tell:0", options=("--linger", "1"))
    assert code == 1
    assert "rank 1: still there 1 s after rank 0 had ended" in err


def test_ranks_end_with_a_launcher_that_is_killed(job: Job) -> None:
    started = job.start("stand_in.py", "save")
    job.wait_for("ready")
    assert len(job.left()) == 6  # the launcher, its guard, two ranks with a child each
    started.kill()
    started.communicate(timeout=PATIENCE)
    job.assert_none_left()


def of_two(node: int, port: int, *more: str) -> tuple[str, ...]:
    """Options of one of two machines, of a process each; both are this one."""
    return ("-n", "1", "--nodes", "2", "--node", str(node), "--address", f"127.0.0.1:{port}", *more)


def ends(nodes: list[subprocess.Popen[str]]) -> list[tuple[int, str]]:
    """Exit codes of launchers, and what they said of the end."""
    said = [node.communicate(timeout=PATIENCE)[1] for node in nodes]
    return [(node.returncode, text.splitlines()[-1]) for node, text in zip(nodes, said, strict=True)]


@pytest.mark.parametrize("victim", [0, 1])
def test_a_rank_that_is_killed_ends_both_machines_which_say_so(job: Job, victim: int) -> None:
    port = free_port()
    nodes = [job.start("stand_in.py", f"killed:{victim}", options=of_two(node, port)) for node in range(2)]
    for code, said in ends(nodes):
        assert code == 128 + signal.SIGKILL
        assert f"rank {victim} of 2 on {socket.gethostname()} ended with signal 9" in said


@pytest.mark.parametrize("victim", [0, 1])
def test_a_launcher_that_is_killed_ends_the_other_machine(job: Job, victim: int) -> None:
    port = free_port()
    nodes = [job.start("stand_in.py", "save", options=of_two(node, port)) for node in range(2)]
    job.wait_for("ready")
    nodes[victim].kill()
    codes, said = zip(*ends(nodes), strict=True)
    assert codes[1 - victim] == 1
    assert f"the launcher of node {victim} on" in said[1 - victim]
    assert "is gone" in said[1 - victim]


def test_a_mistake_of_the_user_is_told_on_both_machines(job: Job) -> None:
    """By the rank that has it, which is slow to end, while another has done so."""
    port = free_port()
    nodes = [job.start("stand_in.py", "slow_user_error", options=of_two(node, port)) for node in range(2)]
    assert ends(nodes) == [(2, "duosora: a.yaml: steps: expected a number, not 'many'")] * 2


def test_the_first_machine_stays_until_the_last_has_ended(job: Job) -> None:
    port = free_port()
    options = [of_two(node, port, "--linger", "1") for node in range(2)]
    nodes = [job.start("stand_in.py", "tell:0", options=each) for each in options]
    for code, said in ends(nodes):
        assert code == 1
        assert "still there 1 s after" in said


def test_a_machine_that_does_not_come_is_named(job: Job) -> None:
    started = job.start("stand_in.py", "tell", options=of_two(0, free_port(), "--meet", "1"))
    ((code, said),) = ends([started])
    assert code == 2
    assert "duosora: after 1 s nodes 1 of 2 have not come to 127.0.0.1" in said
    assert not (job.folder / "rank_0.log").exists()


def test_a_first_machine_that_does_not_come_is_named(job: Job) -> None:
    started = job.start("stand_in.py", "tell", options=of_two(1, free_port(), "--meet", "1"))
    ((code, said),) = ends([started])
    assert code == 2
    assert "duosora: after 1 s node 0 has not answered at 127.0.0.1" in said


def test_machines_that_were_started_differently_are_told(job: Job) -> None:
    port = free_port()
    options = [of_two(0, port), (*of_two(1, port), "-n", "3")]
    for code, said in ends([job.start("stand_in.py", "tell", options=each) for each in options]):
        assert code == 2
        assert "was started with 3 processes, node 0 on" in said


def test_a_port_in_use_is_named(job: Job) -> None:
    with socket.create_server(("127.0.0.1", 0)) as busy:
        port = busy.getsockname()[1]
        code, _, err = job.run("stand_in.py", "tell", options=("--address", f"127.0.0.1:{port}"))
    assert code == 2
    assert f"port {port} of this machine is in use by another process" in err


@pytest.mark.parametrize("backend", ["torch", "mindspore"])
def test_a_rank_killed_while_others_wait_for_it_ends_the_job(job: Job, backend: str) -> None:
    pytest.importorskip(backend)
    code, _, err = job.run("dying.py", backend, options=("--backend", backend))
    assert "sum 2.0" in err
    assert code == 128 + signal.SIGKILL
    assert "rank 1 of 2" in err


@pytest.mark.parametrize("backend", ["torch", "mindspore"])
def test_training_saves_and_leaves_when_it_is_asked_to(job: Job, backend: str, tmp_path: Path) -> None:
    pytest.importorskip(backend)
    run = tmp_path / "run"
    settings = (
        "data.kind=moving_shapes",
        "data.workers=0",
        "accumulate=2",
        "max_steps=100000",
        "checkpoints.every=null",
    )
    words = [word for setting in settings for word in ("--set", setting)]
    options = ("-n", "2", "--backend", backend, "--log-dir", str(job.folder))
    started = subprocess.Popen(
        [sys.executable, "-m", "duosora", "launch", *options, "--", "train", *words, "--out", str(run)],
        env=os.environ | {MARK: job.mark, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    until = time.monotonic() + 2 * PATIENCE
    while not ((run / "log.jsonl").exists() and '"step"' in (run / "log.jsonl").read_text("utf-8")):
        assert time.monotonic() < until
        assert started.poll() is None, started.communicate()
        time.sleep(0.1)
    started.send_signal(signal.SIGTERM)
    out, err = started.communicate(timeout=PATIENCE)
    assert started.returncode == 0, err
    assert "the same command goes on from there" in out
    assert len(list(run.glob("checkpoint-*/manifest.json"))) == 1


def test_a_verb_runs_on_several_processes(job: Job) -> None:
    words = ["-n", "2", "--log-dir", str(job.folder), "--", "sample", "--set", "sampler.stepps=3"]
    done = subprocess.run(
        [sys.executable, "-m", "duosora", "launch", *words], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr.splitlines()[1:] == ["duosora: --set sampler.stepps=3: unknown key, did you mean 'steps'?"]


def test_processes_of_several_nodes_are_numbered_through() -> None:
    launch = Launch(program=("x",), processes=4, nodes=3, node=2, host="first", port=29500)
    launch.check()
    told = environment(launch, 29500, local_rank=1)
    assert told == {
        "RANK": "9",
        "WORLD_SIZE": "12",
        "LOCAL_RANK": "1",
        "LOCAL_WORLD_SIZE": "4",
        "MASTER_ADDR": "first",
        "MASTER_PORT": "29500",
    }


def test_mindspore_gets_the_variables_of_both() -> None:
    told = environment(Launch(program=("x",), processes=2, backend="mindspore"), 8118, local_rank=1)
    assert told.items() >= {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "MASTER_PORT": "8118"}.items()
    assert told.items() >= {"MS_ROLE": "MS_WORKER", "MS_NODE_ID": "1", "RANK_ID": "1", "DEVICE_ID": "1"}.items()
    assert told.items() >= {"MS_WORKER_NUM": "2", "MS_SCHED_HOST": "127.0.0.1", "MS_SCHED_PORT": "8118"}.items()


def test_threads_are_shared_where_nobody_says_how_many() -> None:
    launch = Launch(program=("x",), processes=10_000)
    assert defaults(launch, {})["OMP_NUM_THREADS"] == "1"
    assert "OMP_NUM_THREADS" not in defaults(launch, {"OMP_NUM_THREADS": "3"})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--address", "node7"], "--address node7: expected a host and a port"),
        (["--nodes", "2"], "2 nodes: name host and port of node 0"),
        (["--nodes", "2", "--node", "2", "--address", "a:1"], "node 2 of 2: nodes are numbered from 0 to 1"),
        (["--backend", "tensorflow"], "--backend tensorflow: there are torch and mindspore"),
    ],
)
def test_options_that_do_not_go_together_are_refused(options: list[str], message: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "duosora", "launch", *options, "--", "doctor"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1


def hello(folder: Path | None) -> Launch:
    return Launch(program=(sys.executable, "-c", "print('hello')"), processes=2, log_folder=folder)


def spoilt(folder: Path, how: str) -> Path:
    """A current folder in which `logs` cannot be written, also by root."""
    if how == "system":
        return Path("/proc")
    if how == "file":
        (folder / "logs").write_text("notes")
    return folder


@pytest.mark.parametrize("how", ["file", "system"])
def test_logs_that_the_current_folder_does_not_take_go_to_a_temporary_one(
    how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    monkeypatch.chdir(spoilt(tmp_path, how))
    out, err = StringIO(), StringIO()
    assert launcher.run(hello(None), out, err) == 0
    assert out.getvalue() == "hello\n"
    first, second = err.getvalue().splitlines()
    assert first.startswith("launch: logs cannot be written to logs/")
    (folder,) = (tmp_path / "temporary").iterdir()
    assert first.endswith(f"they go to {folder}")
    assert second.endswith(f"logs in {folder}")
    assert sorted(file.name for file in folder.iterdir()) == ["rank_0.log", "rank_1.log"]


@pytest.mark.parametrize("fault", ["below a file", "a log is a folder", "of the system"])
def test_a_chosen_log_folder_that_takes_no_files_is_refused_before_any_process(fault: str, tmp_path: Path) -> None:
    file, folder = tmp_path / "file", tmp_path / "logs"
    file.write_text("notes")
    (folder / "rank_1.log").mkdir(parents=True)
    chosen = {"below a file": file / "logs", "a log is a folder": folder, "of the system": Path("/proc/logs")}[fault]
    out, err = StringIO(), StringIO()
    with pytest.raises(ConfigError, match=f"^logs cannot be written to {chosen}: .*; name another folder by --log-dir"):
        launcher.run(hello(chosen), out, err)
    assert (out.getvalue(), err.getvalue()) == ("", "")
    assert not (folder / "rank_0.log").exists()


def test_a_machine_without_any_folder_to_write_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "none"))
    monkeypatch.chdir("/proc")
    with pytest.raises(ConfigError, match="^logs cannot be written to logs/.*, nor to a temporary folder: .*--log-dir"):
        launcher.run(hello(None), StringIO(), StringIO())


def test_what_a_torchrun_around_the_launcher_says_is_not_handed_on() -> None:
    """Ranks would look for the store of that one, which holds nothing of theirs, for hours."""
    own = {"TORCHELASTIC_USE_AGENT_STORE": "True", "PATH": "/bin"}
    told = inherited(Launch(program=("x",), processes=1), own)
    assert "TORCHELASTIC_USE_AGENT_STORE" not in told
    assert told["PATH"] == "/bin"


def test_ports_for_the_roll_and_the_launchers_are_free_too(tmp_path: Path) -> None:
    port = free_port()
    with (
        socket.create_server(("", port + 1)),
        pytest.raises(ConfigError, match=f"port {port + 1} of this machine is in use"),
    ):
        Launch(program=("x",), processes=2, port=port).check()
    with pytest.raises(ConfigError, match="port 65535: expected one up to 65533"):
        Launch(program=("x",), processes=2, port=65535).check()
