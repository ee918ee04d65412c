"""Whether a killed training run goes on exactly where it was: real runs are killed, resumed and compared.

    python benchmarks/kill_and_resume.py [--resumes 20] [--kills 100] [--seed 0] [--config FILE] [--set KEY=VALUE ...]

Without --config the tiny denoiser is trained on moving shapes. A *resume* kills a run after a random number of steps
and starts it again, with other settings of those that may change. A *kill* ends a run that saves after every step at a
random moment of writing a checkpoint; the next one starts it again. In the end a run must have written what the run
that nobody disturbed has: every file of its checkpoint, bit for bit, and every line of its log but for the times.
Prints a line on each part; exit code 1 when something differs. docs/training.md records such runs with their date.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from duosora.core.train.checkpoints import MANIFEST, UNFINISHED, Checkpoints
from duosora.core.train.logs import LOG, read_log
from duosora.core.train.loop import STATE, read_state

TINY = ("data.kind=moving_shapes", "data.workers=0", "learning_rate.peak=1e-3")
STEPS = 8
"""Of a run that is resumed."""
PATIENCE = 300.0
"""Seconds; a run that shows no life for so long hangs."""
UNSTEADY = ("seconds", "data_wait_seconds", "samples_per_second", "tokens_per_second", "peak_memory_mb")
"""What differs between the logs of two runs that are the same."""


class Differs(Exception):
    """What is not as it should be."""


class Trainer:
    """Starts `duosora train` with the settings that all runs share."""

    def __init__(self, config: Path | None, settings: list[str]) -> None:
        self.arguments = [*(["--config", str(config)] if config else []), *_set("tensorboard=off", *settings)]

    @contextmanager
    def started(self, folder: Path, *settings: str) -> Iterator[subprocess.Popen[bytes]]:
        """A run in a process of its own, killed at the end if it has not ended by itself; FOLDER.txt has its words."""
        command = [sys.executable, "-m", "duosora", "train", *self.arguments, "--out", str(folder), *_set(*settings)]
        with folder.with_suffix(".txt").open("ab") as output:
            process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
            try:
                yield process
            finally:
                process.send_signal(signal.SIGKILL)
                process.wait()

    def finish(self, folder: Path, *settings: str) -> None:
        """A run to its end."""
        with self.started(folder, *settings) as process:
            wait(folder, process, lambda: process.poll() is not None)
            if process.returncode:
                raise Differs(f"{folder}: exit code {process.returncode}: {_output(folder)}")


def resume(trainer: Trainer, straight: Path, folder: Path, draw: random.Random) -> None:
    """Kill a run after a random number of steps, start it again, and compare it with the straight one."""
    kill_after = draw.randint(1, STEPS - 1)
    common = (f"max_steps={STEPS}", f"checkpoints.every={draw.randint(1, 3)}", _background(draw))
    with trainer.started(folder, *common, f"data.workers={draw.randint(0, 2)}") as process:
        wait(folder, process, lambda: logged_steps(folder) >= kill_after)
    changed = (f"data.workers={draw.randint(0, 2)}", f"compute.recompute_every={draw.randint(0, 2)}")
    trainer.finish(folder, *common, *changed)
    compare(straight, folder, STEPS)


def kill_while_saving(trainer: Trainer, folder: Path, count: int, draw: random.Random) -> tuple[int, int]:
    """Kill a run so often while it saves; returns the step it came to, and how many saves the kills cut off."""
    settings = ("max_steps=1000000", "checkpoints.every=1", "checkpoints.keep=2")
    trainer.finish(folder, "max_steps=3", *settings[1:])
    written = [(folder / f"checkpoint-{step}" / MANIFEST).stat().st_mtime for step in (2, 3)]
    cut_off, step = 0, 3
    for _ in range(count):
        left = _unfinished(folder)
        with trainer.started(folder, *settings, _background(draw)) as process:
            wait(folder, process, lambda left=left: bool(_unfinished(folder) - left))
            time.sleep(draw.uniform(0.0, written[1] - written[0]))
        cut_off += bool(_unfinished(folder) - left)
        found = Checkpoints(folder).newest()
        if found.path is None or found.passed_over or found.step < step:
            raise Differs(f"{folder}: after a kill, {found} does not follow checkpoint-{step}")
        kept = len(list(folder.glob("checkpoint-*")))
        if kept > 3:  # 2, and one that the kill kept from being removed
            raise Differs(f"{folder}: holds {kept} checkpoints")
        step = found.step
    return step, cut_off


def compare(straight: Path, other: Path, step: int) -> None:
    """Compare a checkpoint, and the log up to it, of two runs. Raises: Differs naming files or a line of the log."""
    one, two = straight / f"checkpoint-{step}", other / f"checkpoint-{step}"
    hashes = [json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["files"] for folder in (one, two)]
    for files in hashes:
        del files[STATE]  # it holds the settings as well, which may differ
    names = sorted(hashes[0].keys() | hashes[1].keys())
    differing = [name for name in names if hashes[0].get(name) != hashes[1].get(name)]
    states = [{name: value for name, value in read_state(folder).items() if name != "run"} for folder in (one, two)]
    if states[0] != states[1]:
        differing.append(STATE)
    if differing:
        raise Differs(f"{two}: differs from the straight run in {', '.join(differing)}")
    for mine, theirs in zip(_steady_log(straight, step), _steady_log(other, step), strict=True):
        if mine != theirs:
            raise Differs(f"{other / LOG}: {theirs} is {mine} in the straight run")


def wait(folder: Path, process: subprocess.Popen[bytes], is_so: Callable[[], bool]) -> None:
    """Until something is so. Raises: Differs when the run ends before, or nothing happens."""
    deadline = time.monotonic() + PATIENCE
    while True:
        has_ended = process.poll() is not None  # asked first: what the run did before it ended counts
        if is_so():
            return
        if has_ended:
            raise Differs(f"{folder}: ended with exit code {process.returncode}: {_output(folder)}")
        if time.monotonic() > deadline:
            raise Differs(f"{folder}: hangs: {_output(folder)}")
        time.sleep(0.002)


def logged_steps(folder: Path) -> int:
    """How far a run has come."""
    lines = read_log(folder / LOG) if (folder / LOG).exists() else []
    return int(lines[-1]["step"]) if lines else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--resumes", type=int, default=20)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--config", type=Path)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    arguments = parser.parse_args()
    draw = random.Random(arguments.seed)
    trainer = Trainer(arguments.config, arguments.set if arguments.config else [*TINY, *arguments.set])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        try:
            trainer.finish(folder / "straight", f"max_steps={STEPS}")
            for number in range(arguments.resumes):
                resume(trainer, folder / "straight", folder / f"resumed-{number}", draw)
            print(f"{arguments.resumes} runs were killed after some steps and resumed: all equal to the straight run")
            step, cut_off = kill_while_saving(trainer, folder / "killed", arguments.kills, draw)
            for run in ("killed", "straight-long"):
                trainer.finish(folder / run, f"max_steps={step + 2}")
            compare(folder / "straight-long", folder / "killed", step + 2)
            print(
                f"a run was killed {arguments.kills} times, {cut_off} of them before a checkpoint was complete: each "
                f"time the newest one was whole and the run went on; its {step + 2} steps equal the straight run's"
            )
        except Differs as error:
            print(error)
            return 1
    return 0


def _background(draw: random.Random) -> str:
    return f"checkpoints.in_background={draw.choice(('true', 'false'))}"


def _unfinished(folder: Path) -> set[Path]:
    return set(folder.glob(f"{UNFINISHED}checkpoint-*"))


def _steady_log(folder: Path, last_step: int) -> list[dict[str, object]]:
    lines = [line for line in read_log(folder / LOG) if line["step"] <= last_step]
    return [{name: value for name, value in line.items() if name not in UNSTEADY} for line in lines]


def _output(folder: Path) -> str:
    return " / ".join(folder.with_suffix(".txt").read_text(encoding="utf-8").splitlines()[-3:])


def _set(*settings: str) -> list[str]:
    return [part for setting in settings for part in ("--set", setting)]


if __name__ == "__main__":
    sys.exit(main())
