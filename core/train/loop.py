"""The training loop, the same for every model and backend.

The loop owns the order of things: data, learning rate, average, log, validation, checkpoints, leaving. What a step
computes is the trainer's (core.seam.training.TrainStep); how clips become batches is the task's. Of several ranks all
run the same loop and leave it together, with the same outcome or the same error; the first one speaks and logs.
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
from typing import Any, NamedTuple, Protocol

from ..data.batch import ClipBatch
from ..errors import CheckpointError, DuosoraError
from ..io.files import read_json
from ..io.weights import Shard
from ..models.run_folders import AVERAGE, STATE
from ..parallel.agreement import agreed
from ..printable import say
from ..seam.ranks import Ranks
from ..seam.training import Report, Saved, TrainStep
from .checkpoints import Checkpoints, Found
from .ema import EmaSchedule
from .feeding import Fed, Feeding
from .guard import Guard
from .learning_rate import LearningRate
from .logs import StepLog
from .model_folders import saved_weights
from .saving import Saving


class BatchSource(Protocol):
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

    def prepare(self, clips: Sequence[ClipBatch]) -> None:
        """Have at hand what machines make once for all their ranks, for the clips of a step; the leaders of all teams
        call it together."""

    def make(self, clips: ClipBatch, step: int) -> Any:
        """The trainer's batch; everything random about it follows from the step and the clips' numbers."""

    def learns(self, step: int) -> str:
        """What an optimiser step updates: the model, or something that it is trained against."""

    def work(self, batch: Any) -> int:
        """Tokens or pixels of a batch, for the throughput."""

    def validate(self) -> Mapping[str, float]:
        """Measures on held-out clips, the same on all ranks, which make them together."""

    def show(self, folder: Path, step: int) -> None:
        """Write samples of what the model can do by now; all ranks make them together."""

    def write_models(self, saved: Saved, folder: Path, shard: Shard) -> None:
        """Write a rank's weights, and their average if it is kept, as core.train.model_folders does."""


@dataclass(frozen=True, kw_only=True)
class Timetable:
    """When what happens, in optimiser steps; None: never."""

    max_steps: int
    learning_rate: LearningRate
    ema: EmaSchedule | None = None
    save_every: int | None = None
    save_in_background: bool = False
    validate_every: int | None = None
    show_every: int | None = None


@dataclass(frozen=True)
class RunEnd:
    """How a run ended."""

    steps: int
    is_finished: bool
    """False when it was asked to leave before."""
    checkpoint: Path | None
    """The last one that was written or found."""


class _Made(NamedTuple):
    """An optimiser step that nobody has looked at yet."""

    step: int
    fed: Fed
    report: Report
    began: float


class Loop:
    """One run, from a checkpoint or from the start."""

    def __init__(
        self,
        folder: Path,
        task: Task,
        loader: BatchSource | None,
        plan: Timetable,
        checkpoints: Checkpoints,
        log: StepLog | None,
        guard: Guard,
        identity: Mapping[str, Any],
        say: Callable[[str], None] = say,
        peak_memory_bytes: Callable[[], int | None] = lambda: None,
        ranks: Ranks | None = None,
    ) -> None:
        """identity: what a checkpoint says of the run that made it. peak_memory_bytes: of the device, None for the log
        to tell the process's own. ranks: that train together; those that lead no team have no loader, and only the
        first has a log and is heard."""
        self.folder, self.task, self.loader, self.plan = folder, task, loader, plan
        self.checkpoints, self.log, self.guard, self.identity, self.say = checkpoints, log, guard, identity, say
        self.peak_memory_bytes = peak_memory_bytes
        self.ranks = ranks or Ranks()
        self.step = 0
        """Optimiser steps made."""
        self._made: _Made | None = None
        self._looked = 0.0
        """When the last step's report was there."""
        self._saved_step: int | None = None
        self._saving = Saving(checkpoints, self.ranks, in_background=plan.save_in_background)
        self._feeding = Feeding(self.ranks, task)
        self._failure: DuosoraError | None = None

    def resume(self, found: Found) -> None:
        """Go on from a checkpoint: optimiser, average, guard and position; the weights were loaded when the trainer was
        made.

        Raises: CheckpointError when the checkpoint holds no state of a run.
        """
        agreed(self.ranks.world, lambda: self._load(found))

    def run(self, on_step: Callable[[int, Report], None] | None = None) -> RunEnd:
        """Train to the plan's last step, or until a rank's process is asked to leave.

        What an accelerator has made of a step is looked at when the next one's gradients are on their way, so that it
        always has work; before checkpoints and the like, at once.
        """
        agreed(self.ranks.world, lambda: self.log.cut_back(self.step) if self.log else None)
        with _asked_to_leave() as leaving:
            try:
                self._run(leaving, on_step)
            finally:
                if self.loader is not None:
                    self.loader.close()
                if self.log is not None:
                    self.log.close()
            self._save()
            self._saving.wait()
        return RunEnd(self.step, self.step >= self.plan.max_steps, self._saving.last)

    def _load(self, found: Found) -> None:
        assert found.path is not None
        self.task.trainer.load(found.path)
        if self.task.trainer.keeps_ema:
            self.task.trainer.load_average(saved_weights(found.path / AVERAGE))
        state = read_state(found.path)
        self.guard.load_state(state["guard"])
        self.step = self._saved_step = int(state["step"])
        self._saving.last = found.path

    def _run(self, leaving: _Leaving, on_step: Callable[[int, Report], None] | None) -> None:
        source: Iterator[list[ClipBatch]] = iter(())
        if self.loader is not None and self.step < self.plan.max_steps:
            source = self.loader.batches(self.step)

        def read() -> list[ClipBatch]:
            self._raise_failure()
            return next(source)

        def look() -> None:
            self._look(on_step)

        while self.step < self.plan.max_steps and not self.ranks.world.any(leaving.asked):
            began = time.monotonic()
            fed = self._feeding.feed(read, self.step)
            report = self._train(fed, look)
            self.step += 1
            self._made = _Made(self.step, fed, report, began)
            if not report.is_late or self._is_anything_due():
                look()
            self._saving.look()
            self._do_what_is_due()
        look()
        agreed(self.ranks.world, self._raise_failure)

    def _train(self, fed: Fed, look: Callable[[], None]) -> Report:
        decay = None if self.plan.ema is None else self.plan.ema.at(self.step + 1)
        rate, learns = self.plan.learning_rate.at(self.step), self.task.learns(self.step)

        def limit() -> float:
            look()
            return self.guard.limit(learns)

        return self.task.trainer.step(fed.batches, rate, decay, limit if self._made else limit())

    def _look(self, on_step: Callable[[int, Report], None] | None) -> None:
        """Note what became of the last step, unless that is done."""
        made, self._made = self._made, None
        if made is None:
            return
        bool(made.report.applied)  # waits for it
        since, self._looked = max(made.began, self._looked), time.monotonic()
        with self._ends_all_later():
            if self.log is not None:
                self._write_down(self.log, made, self._looked - since)
            if on_step is not None:
                on_step(made.step, made.report)
        self._judge(made)

    def _write_down(self, log: StepLog, made: _Made, seconds: float) -> None:
        fed, report = made.fed, made.report
        samples, size = (sum(getattr(each, name) for each in fed.facts) for name in ("samples", "work"))
        failures = [line for each in fed.facts for line in each.failures]
        epoch = 0 if self.loader is None else (made.step - 1) // self.loader.steps_per_epoch
        values = {
            "epoch": epoch,
            "loss": report.loss,
            "grad_norm": report.grad_norm,
            "lr": self.plan.learning_rate.at(made.step - 1),
            "applied": report.applied,
            "updated": report.updated,
            **report.parts,
            "seconds": round(seconds, 4),
            "data_wait_seconds": round(fed.waited, 4),
            "samples_per_second": round(samples / max(seconds, 1e-9), 3),
            "tokens_per_second": round(size / max(seconds, 1e-9), 1),
            "peak_memory_mb": round((self.peak_memory_bytes() or _peak_memory_of_process()) / 2**20),
            **({"failures": failures} if failures else {}),
        }
        log.write("step", made.step, values)
        for line in failures:
            self.say(f"replaced {line}")

    def _judge(self, made: _Made) -> None:
        sources = [source for each in made.fed.facts for source in each.sources]
        if made.report.applied:
            self.guard.saw(made.report, made.step, sources)
            return
        left_out = agreed(self.ranks.world, lambda: self.guard.saw(made.report, made.step, sources))
        if left_out:
            self.say(left_out)

    def _is_anything_due(self) -> bool:
        plan = self.plan
        return any(_is_due(self.step, every) for every in (plan.save_every, plan.validate_every, plan.show_every))

    def _do_what_is_due(self) -> None:
        if _is_due(self.step, self.plan.save_every):
            self._save()
        if _is_due(self.step, self.plan.validate_every):
            measures = agreed(self.ranks.world, self.task.validate)
            if self.log is not None:
                with self._ends_all_later():
                    self.log.write("validation", self.step, measures)
            self.say(f"step {self.step}: " + ", ".join(f"{name} {value:.4g}" for name, value in measures.items()))
        if _is_due(self.step, self.plan.show_every):
            agreed(self.ranks.world, lambda: self.task.show(self.folder / "samples", self.step))

    @contextmanager
    def _ends_all_later(self) -> Iterator[None]:
        """What one rank does by itself and fails in, ends all of them when they meet next."""
        try:
            yield
        except DuosoraError as error:
            self._failure = error

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _save(self) -> None:
        if self._saved_step == self.step:
            return
        self._saving.wait()  # before the next copy is made: one in memory is enough
        state = {"step": self.step, "guard": self.guard.state(), "run": dict(self.identity)}
        saved = self.task.trainer.saved(is_copy=self.plan.save_in_background)

        def write(folder: Path, shard: Shard) -> None:
            self.task.write_models(saved, folder, shard)
            saved.save(folder)
            if shard.index == 0:
                (folder / STATE).write_text(json.dumps(state, indent=1), encoding="utf-8")

        self._saving.save(self.step, write)
        self._saved_step = self.step


def read_state(checkpoint: Path) -> dict[str, Any]:
    """The state.json of a checkpoint. Raises: CheckpointError."""
    try:
        state = read_json(checkpoint / STATE)
        if not {"step", "guard", "run"} <= state.keys():
            raise ValueError("step, guard or run is missing")
        return state
    except (OSError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{checkpoint / STATE}: cannot be read as the state of a run ({error})") from error


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
