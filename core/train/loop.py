"""The training loop, the same for every model and backend.

The loop owns the order of things: data, learning rate, average, log, validation, checkpoints, leaving. What a step
computes is the trainer's (core.train.step.TrainStep); how clips become batches is the task's.
"""

from __future__ import annotations

import json
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

from ..data.batch import ClipBatch
from ..errors import CheckpointError
from ..io.weights import open_weights
from .checkpoints import Checkpoints, Found
from .ema import EmaSchedule
from .guard import Guard
from .learning_rate import LearningRate
from .logs import StepLog
from .model_folders import AVERAGE
from .step import Saved, StepReport, TrainStep

STATE = "state.json"
"""What the loop itself keeps in a checkpoint."""


class Loader(Protocol):
    """Where clips come from."""

    @property
    def steps_per_epoch(self) -> int:
        """Optimiser steps after which every clip was seen."""

    def batches(self, start_step: int) -> Iterator[list[ClipBatch]]:
        """The micro-batches of each optimiser step from one on, without end."""

    def close(self) -> None:
        """End what reads ahead."""


class Task(Protocol):
    """What is trained, between clips and the optimiser."""

    trainer: TrainStep[Any]

    def make(self, clips: ClipBatch, step: int) -> Any:
        """The trainer's batch; everything random about it follows from the step and the clips' numbers."""

    def learns(self, step: int) -> str:
        """What an optimiser step updates: the model, or something that it is trained against."""

    def work(self, batch: Any) -> int:
        """Tokens or pixels of a batch, for the throughput."""

    def validate(self) -> Mapping[str, float]:
        """Measures on held-out clips."""

    def show(self, folder: Path, step: int) -> None:
        """Write samples of what the model can do by now."""

    def write_models(self, saved: Saved, folder: Path) -> None:
        """Write the weights, and their average if it is kept, as core.train.model_folders does."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """When what happens, in optimiser steps; None: never."""

    max_steps: int
    learning_rate: LearningRate
    ema: EmaSchedule | None = None
    save_every: int | None = None
    save_in_background: bool = False
    validate_every: int | None = None
    show_every: int | None = None


@dataclass(frozen=True)
class Outcome:
    """How a run ended."""

    steps: int
    is_finished: bool
    """False when it was asked to leave before."""
    checkpoint: Path | None
    """The last one that was written or found."""


class Loop:
    """One run, from a checkpoint or from the start."""

    def __init__(
        self,
        folder: Path,
        task: Task,
        loader: Loader,
        plan: Plan,
        checkpoints: Checkpoints,
        log: StepLog,
        guard: Guard,
        identity: Mapping[str, Any],
        say: Callable[[str], None] = print,
        peak_memory_bytes: Callable[[], int | None] = lambda: None,
    ) -> None:
        """identity: what a checkpoint says of the run that made it. peak_memory_bytes: of the device, None for the log
        to tell the process's own."""
        self.folder, self.task, self.loader, self.plan = folder, task, loader, plan
        self.checkpoints, self.log, self.guard, self.identity, self.say = checkpoints, log, guard, identity, say
        self.peak_memory_bytes = peak_memory_bytes
        self.step = 0
        """Optimiser steps made."""
        self._saved_step: int | None = None
        self._saving = _Saving(checkpoints, in_background=plan.save_in_background)

    def resume(self, found: Found) -> None:
        """Go on from a checkpoint: optimiser, average, guard and position; the weights were loaded when the trainer was
        made.

        Raises: CheckpointError when the checkpoint holds no state of a run.
        """
        assert found.path is not None
        self.task.trainer.load(found.path)
        if self.task.trainer.keeps_ema:
            self.task.trainer.load_average(open_weights(found.path / AVERAGE))
        state = read_state(found.path)
        self.guard.load_state(state["guard"])
        self.step = self._saved_step = int(state["step"])
        self._saving.last = found.path

    def run(self, on_step: Callable[[int, StepReport], None] | None = None) -> Outcome:
        """Train to the plan's last step, or until the process is asked to leave."""
        self.log.cut_back(self.step)
        with _asked_to_leave() as leaving:
            try:
                self._run(leaving, on_step)
            finally:
                self.loader.close()
                self.log.close()
            self._save()
            self._saving.wait()
        return Outcome(self.step, self.step >= self.plan.max_steps, self._saving.last)

    def _run(self, leaving: _Leaving, on_step: Callable[[int, StepReport], None] | None) -> None:
        source = iter(self.loader.batches(self.step)) if self.step < self.plan.max_steps else iter(())
        while self.step < self.plan.max_steps and not leaving.asked:
            began = time.monotonic()
            clips = next(source)
            waited = time.monotonic() - began
            report, size = self._train(clips)
            self.step += 1
            self._write_down(clips, report, size, time.monotonic() - began, waited)
            if on_step is not None:
                on_step(self.step, report)
            self._do_what_is_due()

    def _train(self, clips: Sequence[ClipBatch]) -> tuple[StepReport, int]:
        batches = [self.task.make(each, self.step) for each in clips]
        decay = None if self.plan.ema is None else self.plan.ema.at(self.step + 1)
        rate = self.plan.learning_rate.at(self.step)
        report = self.task.trainer.step(batches, rate, decay, self.guard.limit(self.task.learns(self.step)))
        return report, sum(map(self.task.work, batches))

    def _write_down(
        self, clips: Sequence[ClipBatch], report: StepReport, size: int, seconds: float, waited: float
    ) -> None:
        samples = sum(len(each.samples) for each in clips)
        failures = [f"{failure.path}: {failure.reason}" for each in clips for failure in each.failures]
        values = {
            "epoch": (self.step - 1) // self.loader.steps_per_epoch,
            "loss": report.loss,
            "grad_norm": report.grad_norm,
            "lr": self.plan.learning_rate.at(self.step - 1),
            "applied": report.applied,
            "updated": report.updated,
            **report.parts,
            "seconds": round(seconds, 4),
            "data_wait_seconds": round(waited, 4),
            "samples_per_second": round(samples / max(seconds, 1e-9), 3),
            "tokens_per_second": round(size / max(seconds, 1e-9), 1),
            "peak_memory_mb": round((self.peak_memory_bytes() or _peak_memory_of_process()) / 2**20),
            **({"failures": failures} if failures else {}),
        }
        self.log.write("step", self.step, values)
        for line in failures:
            self.say(f"replaced {line}")
        left_out = self.guard.saw(report, self.step, [source for each in clips for source in each.sources])
        if left_out:
            self.say(left_out)

    def _do_what_is_due(self) -> None:
        if _is_due(self.step, self.plan.save_every):
            self._save()
        if _is_due(self.step, self.plan.validate_every):
            measures = self.task.validate()
            self.log.write("validation", self.step, measures)
            self.say(f"step {self.step}: " + ", ".join(f"{name} {value:.4g}" for name, value in measures.items()))
        if _is_due(self.step, self.plan.show_every):
            self.task.show(self.folder / "samples", self.step)

    def _save(self) -> None:
        if self._saved_step == self.step:
            return
        self._saving.wait()  # before the next copy is made: one in memory is enough
        state = {"step": self.step, "guard": self.guard.state(), "run": dict(self.identity)}
        saved = self.task.trainer.saved(is_copy=self.plan.save_in_background)

        def write(folder: Path) -> None:
            self.task.write_models(saved, folder)
            saved.save(folder)
            (folder / STATE).write_text(json.dumps(state, indent=1), encoding="utf-8")

        self._saving.save(self.step, write)
        self._saved_step = self.step


def read_state(checkpoint: Path) -> dict[str, Any]:
    """The state.json of a checkpoint. Raises: CheckpointError."""
    try:
        state = json.loads((checkpoint / STATE).read_text(encoding="utf-8"))
        if not {"step", "guard", "run"} <= state.keys():
            raise ValueError("step, guard or run is missing")
        return state
    except (OSError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{checkpoint / STATE}: cannot be read as the state of a run ({error})") from error


class _Saving:
    """Writes checkpoints, at once or in a thread of which there is one at a time."""

    def __init__(self, checkpoints: Checkpoints, in_background: bool) -> None:
        self.checkpoints, self.in_background = checkpoints, in_background
        self.last: Path | None = None
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def save(self, step: int, write: Callable[[Path], None]) -> None:
        if not self.in_background:
            self.last = self.checkpoints.save(step, write)
            return
        self._thread = threading.Thread(target=self._save, args=(step, write), name="saving")
        self._thread.start()

    def wait(self) -> None:
        """Until nothing is being written. Raises what went wrong meanwhile."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def _save(self, step: int, write: Callable[[Path], None]) -> None:
        try:
            self.last = self.checkpoints.save(step, write)
        except BaseException as error:  # handed to the main thread by `wait`
            self._error = error


@dataclass
class _Leaving:
    asked: bool = False


@contextmanager
def _asked_to_leave() -> Iterator[_Leaving]:
    """Notes SIGTERM and SIGINT, which let the present step end first; a second SIGINT leaves at once."""
    leaving = _Leaving()

    def note(number: int, frame: FrameType | None) -> None:
        if leaving.asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        leaving.asked = True

    if threading.current_thread() is not threading.main_thread():
        yield leaving
        return
    before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield leaving
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _peak_memory_of_process() -> int:
    """Bytes."""
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _is_due(step: int, every: int | None) -> bool:
    return every is not None and step % every == 0
