"""`duosora train` on several processes is the run of one: its losses, its checkpoints, how it is left and how it fails.

What ranks say to each other is tested in tests/core/test_many_ranks.py; here are real processes and their ends. Where
these are the same code for both backends one is tried; where frameworks have a part in them, both.
"""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import ranks

from duosora.core.io.weights import open_weights
from duosora.core.train.checkpoints import UNFINISHED, Checkpoints
from duosora.core.train.logs import read_log

pytestmark = pytest.mark.processes
TINY = ("data.kind=moving_shapes", "data.workers=0", "tensorboard=off", "learning_rate.peak=1e-3")
SHARED = ("accumulate=4", "data.mega_batch=2")
STEPS, SAVED = 4, 2
MEASURED = (f"validation.every={STEPS}", "validation.batches=3")
WHOLE = (f"max_steps={STEPS}", *MEASURED)
BEGUN = (
    f"max_steps={SAVED}",
    "parallel.sequence=2",
    "show.every=2",
    'show.prompts=["a star"]',
    "show.sampler.steps=2",
    "show.video.frames=1",
    "show.video.height=64",
    "show.video.width=64",
)
TOLERANCE = 1e-5


def arguments(name: str, folder: Path, *settings: str) -> list[object]:
    return [
        "train",
        *(part for setting in (*TINY, *SHARED, f"compute.name={name}", *settings) for part in ("--set", setting)),
        "--out",
        folder,
    ]


def losses(folder: Path) -> dict[int, float]:
    steps = [line for line in read_log(folder / "log.jsonl") if line["event"] == "step"]
    return {line["step"]: line["loss"] for line in steps}


def validation(folder: Path) -> list[float]:
    return [
        line[name]
        for line in read_log(folder / "log.jsonl")
        for name in ("loss", "loss_ema")
        if name in line and line["event"] == "validation"
    ]


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, int], Path]:
    """A run of a backend on a number of processes, made when it is first asked for: whole on one, begun on four."""

    @cache
    def run(name: str, world: int) -> Path:
        folder = tmp_path_factory.mktemp(name) / "run"
        ranks.run("cli.py", name, world, *arguments(name, folder, *(WHOLE if world == 1 else BEGUN)))
        return folder

    return run


@pytest.fixture
def alone(name: str, runs: Callable[[str, int], Path]) -> Path:
    """The run of one process."""
    return runs(name, 1)


@pytest.fixture
def on_four(name: str, runs: Callable[[str, int], Path]) -> Path:
    """The first steps of the same run, on four processes."""
    return runs(name, 4)


def assert_continues(folder: Path, alone: Path) -> None:
    assert losses(folder) == pytest.approx(losses(alone), abs=TOLERANCE)
    assert validation(folder) == pytest.approx(validation(alone), abs=TOLERANCE)
    found = Checkpoints(folder).newest()
    assert (found.step, found.passed_over) == (STEPS, ())
    for kind in ("model", "model_ema"):
        ours, theirs = (open_weights(each / f"checkpoint-{STEPS}" / kind) for each in (folder, alone))
        assert set(ours) == set(theirs)


def test_each_of_four_processes_writes_a_part_and_the_first_speaks(on_four: Path) -> None:
    checkpoint = on_four / f"checkpoint-{SAVED}"
    for stem in ("model/diffusion_pytorch_model", "model_ema/diffusion_pytorch_model", "optimizer"):
        sizes = [(checkpoint / f"{stem}-{i:05d}-of-00004.safetensors").stat().st_size for i in range(1, 5)]
        assert max(sizes) < 1.2 * min(sizes)
    assert [path.name for path in (on_four / "samples").iterdir()] == [f"step-{SAVED}_0.png"]


@pytest.mark.parametrize(
    ("name", "world", "engine"),
    [
        ("torch", 1, "fully_shard"),
        ("torch", 2, "deepspeed"),
        ("mindspore", 1, "fully_shard"),
        ("mindspore", 2, "fully_shard"),
    ],
    indirect=["name"],
)
def test_a_run_goes_on_with_another_number_of_processes_and_engine(
    name: str, world: int, engine: str, alone: Path, on_four: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(on_four, folder)
    settings = (f"max_steps={STEPS}", f"parallel.engine={engine}", *MEASURED)
    said = ranks.run("cli.py", name, world, *arguments(name, folder, *settings))
    assert ("split by DeepSpeed" in said[0]) == (engine == "deepspeed")
    assert f"finished {STEPS} steps: {folder / f'checkpoint-{STEPS}'}" in said[0]
    assert not any(word in other for other in said[1:] for word in ("finished", "reading", "DeepSpeed"))
    assert_continues(folder, alone)


def wait(processes: list[subprocess.Popen[str]], is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + ranks.SECONDS
    while not is_so():
        assert time.monotonic() < deadline, "nothing happens"
        assert all(process.poll() is None for process in processes), "a process ended"
        time.sleep(0.005)


@pytest.mark.parametrize("name", ["torch"])
def test_a_run_is_left_by_all_processes_when_one_is_asked_to(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with ranks.started("cli.py", name, 2, *arguments(name, folder, "max_steps=1000000")) as processes:
        log = folder / "log.jsonl"
        wait(processes, lambda: log.exists() and len(read_log(log)) >= 2)
        processes[1].send_signal(signal.SIGTERM)
        said = [process.communicate(timeout=ranks.SECONDS)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    step = Checkpoints(folder).newest().step
    assert step >= 2
    assert f"left after step {step}, saved in {folder / f'checkpoint-{step}'}" in said[0]
    assert list(losses(folder)) == list(range(1, step + 1))


@pytest.mark.parametrize(("name", "machines"), [("torch", 1), ("torch", 2), ("mindspore", 1)])
def test_a_process_killed_while_all_save_ends_the_job_and_leaves_whole_checkpoints(
    name: str, machines: int, tmp_path: Path
) -> None:
    pytest.importorskip(name)
    folder = tmp_path / "run"
    settings = ("max_steps=1000000", "checkpoints.every=1", "checkpoints.in_background=true")
    with ranks.machines(machines, "cli.py", name, 2, *arguments(name, folder, *settings)) as launchers:
        wait(launchers, lambda: (folder / "checkpoint-1").exists() and bool(list(folder.glob(f"{UNFINISHED}*/*"))))
        os.kill(ranks.last_rank(launchers[-1]), signal.SIGKILL)
        errors = [launcher.communicate(timeout=60)[1] for launcher in launchers]
    assert [launcher.returncode for launcher in launchers] == [128 + signal.SIGKILL] * machines, errors
    assert all("rank 1 of 2 on" in error for error in errors)
    found = Checkpoints(folder).newest()
    assert found.path is not None
    assert found.passed_over == ()
    ranks.run("cli.py", name, 1, *arguments(name, folder, f"max_steps={found.step + 1}", *settings[1:]))
    assert Checkpoints(folder).newest().step == found.step + 1
    assert not list(folder.glob(f"{UNFINISHED}*"))


@pytest.mark.parametrize("name", ["torch"])
def test_two_machines_train_as_one_process(alone: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with ranks.machines(2, "cli.py", "torch", 2, *arguments("torch", folder, f"max_steps={STEPS}", *MEASURED)) as both:
        said = [each.communicate(timeout=ranks.SECONDS) for each in both]
    assert [each.returncode for each in both] == [0, 0], said
    assert f"finished {STEPS} steps" in said[0][0]
    assert said[1][0] == ""
    assert_continues(folder, alone)


@pytest.mark.parametrize("name", ["torch"])
def test_a_full_disk_on_one_process_ends_all_in_one_line(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    settings = ("max_steps=1", "checkpoints.every=1")
    full = ("cli_on_full_disk.py", name, 2, 1, 1 << 20)
    with ranks.started(*full, *arguments(name, folder, *settings)) as processes:
        said = [process.communicate(timeout=ranks.SECONDS)[0] for process in processes]
    assert [process.returncode for process in processes] == [2, 2], said
    assert "".join(said).count("duosora: ") == 1
    assert f"duosora: {folder / 'checkpoint-1'}: cannot be written (File too large)" in said[1]
    assert list(folder.glob("*checkpoint-*")) == []


@pytest.mark.parametrize("name", ["torch"])
def test_a_folder_that_machines_do_not_share_is_told_before_the_first_step(name: str, tmp_path: Path) -> None:
    run = arguments(name, Path("run"), "max_steps=1")
    with ranks.started("cli_on_own_disk.py", name, 2, tmp_path, *run) as processes:
        said = [process.communicate(timeout=ranks.SECONDS)[0] for process in processes]
    assert [process.returncode for process in processes] == [2, 2], said
    assert "".join(said).count("duosora: ") == 1
    assert "duosora: run: is not the same on all machines; name a folder that they share" in said[1]
    assert not (tmp_path / "0" / "run" / "log.jsonl").exists()
