"""Checkpoints: whole or not at all, found again, checked, thinned out."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from duosora.core.errors import CheckpointError
from duosora.core.models.run_folders import MANIFEST
from duosora.core.train.checkpoints import Checkpoints, open_checkpoint, problem_of


def writer(text: str = "weights"):
    def write(folder: Path) -> None:
        (folder / "model").mkdir()
        (folder / "model/weights.bin").write_text(text)
        (folder / "state.json").write_text("{}")

    return write


def test_a_checkpoint_lists_its_files_and_is_found(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    assert checkpoints.newest().path is None
    path = checkpoints.save(7, writer())
    assert path == tmp_path / "checkpoint-7"
    assert set(json.loads((path / MANIFEST).read_text())["files"]) == {"model/weights.bin", "state.json"}
    found = checkpoints.newest()
    assert (found.path, found.step, found.passed_over) == (path, 7, ())
    assert open_checkpoint(path).step == 7
    assert [entry.name for entry in tmp_path.iterdir()] == ["checkpoint-7"]


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        (lambda path: (path / MANIFEST).unlink(), "saving was cut off"),
        (lambda path: (path / MANIFEST).write_text("{"), "cannot be read"),
        (lambda path: (path / MANIFEST).write_text("[]"), "cannot be read"),
        (lambda path: (path / "state.json").unlink(), "state.json is missing"),
        (lambda path: (path / "model/weights.bin").write_text("weight"), "cut off"),
        (lambda path: (path / "model/weights.bin").write_text("weightz"), "damaged"),
    ],
)
def test_a_harmed_checkpoint_is_passed_over_with_its_reason(tmp_path: Path, harm, reason: str) -> None:
    checkpoints = Checkpoints(tmp_path)
    good, bad = checkpoints.save(1, writer()), checkpoints.save(2, writer())
    harm(bad)
    found = checkpoints.newest()
    assert found.path == good
    assert len(found.passed_over) == 1
    assert reason in found.passed_over[0]
    with pytest.raises(CheckpointError, match=reason):
        open_checkpoint(bad)


def test_the_newest_stay_and_milestones_too(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=2, keep_every=10)
    for step in (5, 10, 15, 20, 25, 30):
        checkpoints.save(step, writer())
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"checkpoint-10", "checkpoint-20", "checkpoint-25", "checkpoint-30"}


def test_what_a_run_will_write_anew_is_set_aside_and_counts_no_more(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=1)
    for step in (1, 2, 3):
        Checkpoints(tmp_path).save(step, writer())
    (tmp_path / "checkpoint-3/state.json").write_text("damaged")
    found = checkpoints.newest()
    assert checkpoints.set_aside(found) == [tmp_path / "checkpoint-3.set-aside"]
    assert checkpoints.set_aside(found) == []
    checkpoints.save(3, writer("new"))
    assert checkpoints.newest().step == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-3", "checkpoint-3.set-aside"]


def test_an_incomplete_one_does_not_push_a_good_one_out(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=1)
    good = checkpoints.save(1, writer())
    (tmp_path / "checkpoint-9").mkdir()
    assert checkpoints.newest().path == good
    checkpoints.save(2, writer())
    assert checkpoints.newest().step == 2


def test_a_failing_save_leaves_nothing_and_keeps_the_rest(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=1)
    good = checkpoints.save(1, writer())

    def fail(folder: Path) -> None:
        (folder / "half").write_text("half")
        raise OSError(28, "No space left on device")

    with pytest.raises(CheckpointError, match="No space left"):
        checkpoints.save(2, fail)
    assert list(tmp_path.iterdir()) == [good]
    assert problem_of(good) is None


def test_what_killed_runs_left_is_removed(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    good = checkpoints.save(1, writer())
    left = tmp_path / ".duosora-checkpoint-2-0000"
    left.mkdir()
    (left / "half").write_text("half")
    checkpoints.clean()
    assert list(tmp_path.iterdir()) == [good]


@pytest.mark.parametrize("name", ["checkpoint-x", "model", "checkpoint-4"])
def test_what_is_no_checkpoint_is_refused(tmp_path: Path, name: str) -> None:
    if name != "checkpoint-4":
        (tmp_path / name).mkdir()
    with pytest.raises(CheckpointError, match="expected a folder checkpoint"):
        open_checkpoint(tmp_path / name)


SAVE_WITHOUT_END = """
import sys
from pathlib import Path
from duosora.core.train.checkpoints import Checkpoints

def write(folder):
    for number in range(20):
        (folder / f"{number}.bin").write_bytes(bytes([number]) * 50_000)

checkpoints = Checkpoints(Path(sys.argv[1]), keep=2)
print("ready", flush=True)
for step in range(1, 100_000):
    checkpoints.save(step, write)
"""


@pytest.mark.parametrize("moment", [0.03, 0.11, 0.17, 0.24, 0.31])
def test_a_process_killed_while_saving_leaves_a_checkpoint(tmp_path: Path, moment: float) -> None:
    Checkpoints(tmp_path, keep=2).save(0, writer())
    process = subprocess.Popen([sys.executable, "-c", SAVE_WITHOUT_END, tmp_path], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    time.sleep(moment)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    found = Checkpoints(tmp_path).newest()
    assert found.path is not None
    assert not found.passed_over
