"""The training loop with a toy model: order, resuming, leaving, bad steps, logs."""

import json
import os
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from duosora.core.data.batch import ClipBatch, ReadFailure
from duosora.core.errors import CheckpointError, NumericsError
from duosora.core.io.weights import Shard, open_weights, save_weights
from duosora.core.models.run_folders import AVERAGE, MODEL
from duosora.core.random import normal
from duosora.core.seam.training import LateReport, StepReport
from duosora.core.train.checkpoints import Checkpoints
from duosora.core.train.ema import EmaSchedule
from duosora.core.train.guard import LEAST, Guard
from duosora.core.train.learning_rate import LearningRate
from duosora.core.train.logs import StepLog, read_log
from duosora.core.train.loop import Loop, Timetable
from duosora.core.train.plot import plot_run, smoothed


class ToyLoader:
    """Two micro-batches a step; the clip is a function of its number."""

    steps_per_epoch = 5

    def __init__(self) -> None:
        self.closed = False

    def batches(self, start_step: int) -> Iterator[list[ClipBatch]]:
        step = start_step
        while True:
            yield [self._batch(2 * step + part) for part in (0, 1)]
            step += 1

    def _batch(self, number: int) -> ClipBatch:
        failures = (ReadFailure("bad.mp4", "is empty", "good.mp4"),) if number == 6 else ()
        return ClipBatch(normal((3,), 0, "clip", number), None, ("",), (number,), (f"{number}.mp4",), failures=failures)

    def close(self) -> None:
        self.closed = True


class Held:
    def __init__(self, trainer: "ToyStep") -> None:
        self.arrays = {name: value.copy() for name, value in vars(trainer).items() if isinstance(value, np.ndarray)}

    def weights(self, use_ema: bool) -> Mapping[str, np.ndarray]:
        return {"w": self.arrays["average" if use_ema else "w"]}

    def save(self, folder: Path) -> None:
        save_weights(folder / "optimizer.safetensors", {"momentum": self.arrays["momentum"]})


class ToyStep:
    """Momentum on mean((w - clip)^2); a clip number in `poison` gives an infinite norm."""

    keeps_ema = True

    def __init__(self, poison: tuple[int, ...] = (), spikes: tuple[int, ...] = ()) -> None:
        self.w, self.momentum, self.average = np.ones(3), np.zeros(3), np.ones(3)
        self.poison, self.spikes = poison, spikes

    def step(self, batches, lr, ema_decay=None, reject_above=float("inf")) -> StepReport:
        gradient = np.mean([2 * (self.w - clip) for _, clip in batches], axis=0)
        numbers = [number for number, _ in batches]
        norm = float("nan") if set(numbers) & set(self.poison) else float(np.linalg.norm(gradient))
        norm *= 1000 if set(numbers) & set(self.spikes) else 1
        applied = bool(np.isfinite(norm)) and norm <= reject_above
        if applied:
            self.momentum = 0.9 * self.momentum + gradient
            self.w = self.w - lr * self.momentum
            if ema_decay is not None:
                self.average = ema_decay * self.average + (1 - ema_decay) * self.w
        return StepReport(float(np.abs(gradient).sum()), norm, applied)

    def saved(self, is_copy: bool = False) -> Held:
        return Held(self)

    def load(self, folder: Path) -> None:
        self.momentum = open_weights(folder / "optimizer.safetensors")["momentum"]
        self.w = open_weights(folder / MODEL)["w"]

    def load_average(self, weights: Mapping[str, np.ndarray]) -> None:
        self.average = weights["w"]

    @contextmanager
    def inference_model(self, use_ema: bool):
        yield self.w


class LateStep(ToyStep):
    """The same on a device that takes its time: its reports are there when someone waits."""

    def __init__(self, poison: tuple[int, ...] = (), spikes: tuple[int, ...] = ()) -> None:
        super().__init__(poison, spikes)
        self.begun, self.read = 0, list[tuple[int, int]]()

    def step(self, batches, lr, ema_decay=None, reject_above=float("inf")) -> LateReport:
        self.begun += 1
        number = self.begun
        limit = reject_above() if callable(reject_above) else reject_above
        report = super().step(batches, lr, ema_decay, limit)

        def read() -> StepReport:
            self.read.append((number, self.begun))
            return report

        return LateReport(read, is_late=True)


class ToyTask:
    def __init__(self, trainer: ToyStep) -> None:
        self.trainer = trainer
        self.shown: list[int] = []

    def prepare(self, clips) -> None:
        pass

    def make(self, clips: ClipBatch, step: int):
        return clips.samples[0], clips.pixels + normal((3,), 1, "noise", clips.samples[0], step)

    def learns(self, step: int) -> str:
        return "model"

    def work(self, batch) -> int:
        return 10

    def validate(self) -> dict[str, float]:
        return {"loss": float(self.trainer.w.sum())}

    def show(self, folder: Path, step: int) -> None:
        self.shown.append(step)

    def write_models(self, saved: Held, folder: Path, shard: Shard) -> None:
        save_weights(folder / MODEL, saved.weights(False))
        save_weights(folder / AVERAGE, saved.weights(True))


def make(folder: Path, trainer: ToyStep, max_steps: int = 12, guard: Guard | None = None, **plan) -> Loop:
    settings = {"save_every": 4, "ema": EmaSchedule(decay=0.9)} | plan
    rate = LearningRate(peak=0.05, kind="cosine", warmup_steps=2, total_steps=12)
    return Loop(
        folder,
        ToyTask(trainer),
        ToyLoader(),
        Timetable(max_steps=max_steps, learning_rate=rate, **settings),
        Checkpoints(folder),
        StepLog(folder, "off"),
        guard or Guard(),
        {"config": {}},
        say=lambda line: None,
    )


def state(trainer: ToyStep) -> list[bytes]:
    return [getattr(trainer, name).tobytes() for name in ("w", "momentum", "average")]


@pytest.mark.parametrize("in_background", [False, True])
def test_a_run_that_goes_on_is_the_straight_run(tmp_path: Path, in_background: bool) -> None:
    straight = ToyStep()
    make(tmp_path / "straight", straight).run()
    first = make(tmp_path / "parts", ToyStep(), max_steps=7, save_in_background=in_background)
    outcome = first.run()
    assert (outcome.steps, outcome.is_finished) == (7, True)
    again = ToyStep()
    loop = make(tmp_path / "parts", again)
    loop.resume(loop.checkpoints.newest())
    assert loop.step == 7
    loop.run()
    assert state(again) == state(straight)
    logs = [read_log(tmp_path / name / "log.jsonl") for name in ("straight", "parts")]
    unsteady = ("seconds", "data_wait_seconds", "samples_per_second", "tokens_per_second", "peak_memory_mb")
    plain = [[{k: v for k, v in line.items() if k not in unsteady} for line in lines] for lines in logs]
    assert plain[0] == plain[1]
    assert [line["step"] for line in plain[0]] == list(range(1, 13))


def test_lines_of_lost_steps_are_written_anew(tmp_path: Path) -> None:
    make(tmp_path, ToyStep(), max_steps=4).run()
    log = tmp_path / "log.jsonl"
    log.write_text(log.read_text() + json.dumps({"event": "step", "step": 5, "loss": 0}) + '\n{"event": "st')
    loop = make(tmp_path, ToyStep(), max_steps=6)
    loop.resume(loop.checkpoints.newest())
    loop.run()
    assert [line["step"] for line in read_log(log)] == [1, 2, 3, 4, 5, 6]
    assert read_log(log)[4]["loss"] > 0


def test_a_run_asked_to_leave_ends_the_step_saves_and_goes_on_later(tmp_path: Path) -> None:
    straight = ToyStep()
    make(tmp_path / "straight", straight).run()

    def leave(step: int, report: StepReport) -> None:
        if step == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    loop = make(tmp_path / "left", ToyStep())
    outcome = loop.run(leave)
    assert (outcome.steps, outcome.is_finished) == (3, False)
    assert outcome.checkpoint == tmp_path / "left/checkpoint-3"
    assert loop.loader.closed
    again = ToyStep()
    loop = make(tmp_path / "left", again)
    loop.resume(loop.checkpoints.newest())
    loop.run()
    assert state(again) == state(straight)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_being_asked_again_while_saving_does_not_cut_it_off(tmp_path: Path) -> None:
    loop = make(tmp_path, ToyStep(), save_every=None)
    write = loop.task.write_models

    def ask_again(saved: Held, folder: Path, shard: Shard) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        write(saved, folder, shard)

    loop.task.write_models = ask_again
    assert loop.run(lambda step, report: os.kill(os.getpid(), signal.SIGTERM)).steps == 1
    assert Checkpoints(tmp_path).newest().step == 1


def test_a_copy_is_made_only_when_the_last_one_is_written(tmp_path: Path) -> None:
    trainer = ToyStep()
    loop = make(tmp_path, trainer, save_every=1, save_in_background=True)
    copy, write = trainer.saved, loop.task.write_models
    being_written: list[Held] = []
    overlaps: list[bool] = []

    def copies(is_copy: bool = False) -> Held:
        overlaps.append(bool(being_written))
        return copy(is_copy)

    def slowly(saved: Held, folder: Path, shard: Shard) -> None:
        being_written.append(saved)
        time.sleep(0.02)
        write(saved, folder, shard)
        being_written.clear()

    trainer.saved, loop.task.write_models = copies, slowly
    loop.run()
    assert overlaps == [False] * 12


def test_a_log_that_cannot_be_written_ends_the_run(tmp_path: Path) -> None:
    loop = make(tmp_path, ToyStep())
    with pytest.raises(CheckpointError, match=r"log\.jsonl: cannot be written \(Is a directory\)"):
        loop.run(lambda step, report: ((tmp_path / "log.jsonl").unlink(), (tmp_path / "log.jsonl").mkdir()))


def test_a_bad_step_ends_the_run_and_names_its_files(tmp_path: Path) -> None:
    with pytest.raises(NumericsError, match=r"step 4.*6\.mp4, 7\.mp4.*guard\.on_bad_step=skip"):
        make(tmp_path, ToyStep(poison=(7,)), save_every=2).run()
    assert Checkpoints(tmp_path).newest().step == 2


def test_bad_steps_can_be_left_out_but_not_for_ever(tmp_path: Path) -> None:
    trainer = ToyStep(poison=(7,))
    assert make(tmp_path / "one", trainer, guard=Guard(on_bad_step="skip")).run().is_finished
    lines = read_log(tmp_path / "one/log.jsonl")
    assert [line["step"] for line in lines if not line["applied"]] == [4]
    assert lines[3]["grad_norm"] == "nan"
    with pytest.raises(NumericsError, match="the run ends"):
        make(tmp_path / "all", ToyStep(poison=tuple(range(8, 30))), guard=Guard(on_bad_step="skip", max_skips=3)).run()


def test_a_spike_is_left_out_once_there_is_something_to_compare_with(tmp_path: Path) -> None:
    late = LEAST + 4
    guard = Guard(on_bad_step="skip", spike_factor=20.0)
    make(tmp_path, ToyStep(spikes=(4, 2 * late)), max_steps=late + 3, guard=guard).run()
    assert [line["step"] for line in read_log(tmp_path / "log.jsonl") if not line["applied"]] == [late + 1]
    again = Guard(on_bad_step="skip", spike_factor=20.0)
    again.load_state(json.loads(json.dumps(guard.state())))
    assert again.limit() == guard.limit() < float("inf")


def test_a_device_gets_its_next_step_before_the_last_one_is_looked_at(tmp_path: Path) -> None:
    trainer = LateStep()
    loop = make(tmp_path, trainer, max_steps=7, save_every=4)
    seen = []
    loop.run(lambda step, report: seen.append((step, loop.step)))
    # When step 2 has begun, step 1 is read, and so on; before a checkpoint and at the end nothing is left to read.
    assert trainer.read == [(1, 2), (2, 3), (3, 4), (4, 4), (5, 6), (6, 7), (7, 7)]
    assert [step for step, _ in seen] == list(range(1, 8))


@pytest.mark.parametrize("in_background", [False, True])
def test_a_run_on_a_slow_device_is_the_same_and_goes_on_alike(tmp_path: Path, in_background: bool) -> None:
    late = LEAST + 4
    bad, spike = (2 * late + 5,), (4, 2 * late)
    guard = {"on_bad_step": "skip", "spike_factor": 20.0}
    plan = {"save_every": 9, "save_in_background": in_background}
    straight, again = ToyStep(bad, spike), LateStep(bad, spike)
    make(tmp_path / "straight", straight, late + 6, Guard(**guard), **plan).run()
    make(tmp_path / "parts", LateStep(bad, spike), late + 1, Guard(**guard), **plan).run()
    loop = make(tmp_path / "parts", again, late + 6, Guard(**guard), **plan)
    loop.resume(loop.checkpoints.newest())
    assert loop.step == late + 1
    loop.run()
    assert state(again) == state(straight)
    logs = [read_log(tmp_path / name / "log.jsonl") for name in ("straight", "parts")]
    steady = ("event", "step", "epoch", "loss", "grad_norm", "lr", "applied", "failures")
    one, other = [[{key: line.get(key) for key in steady} for line in lines] for lines in logs]
    assert one == other
    assert [line["step"] for line in one if not line["applied"]] == [late + 1, late + 3]


def test_a_bad_step_of_a_slow_device_ends_the_run_by_its_name(tmp_path: Path) -> None:
    loop = make(tmp_path, LateStep(poison=(7,)), save_every=2)
    with pytest.raises(NumericsError, match=r"step 4.*6\.mp4, 7\.mp4.*guard\.on_bad_step=skip"):
        loop.run()
    assert Checkpoints(tmp_path).newest().step == 2
    loop = make(tmp_path / "other", LateStep(poison=(7,)), save_every=3)
    with pytest.raises(NumericsError, match=r"step 4.*6\.mp4, 7\.mp4"):
        loop.run()
    assert loop.step == 4  # while the gradients of the fifth were made
    assert Checkpoints(tmp_path / "other").newest().step == 3


def test_things_happen_when_they_are_due(tmp_path: Path) -> None:
    loop = make(tmp_path, ToyStep(), validate_every=5, show_every=6)
    loop.run()
    lines = read_log(tmp_path / "log.jsonl")
    assert [line["step"] for line in lines if line["event"] == "validation"] == [5, 10]
    assert loop.task.shown == [6, 12]
    assert sorted(path.name for path in tmp_path.glob("checkpoint-*")) == [
        "checkpoint-12",
        "checkpoint-4",
        "checkpoint-8",
    ]
    assert lines[3]["failures"] == ["bad.mp4: is empty"]
    assert [line["epoch"] for line in lines if line["event"] == "step"] == [0] * 5 + [1] * 5 + [2] * 2


def test_errors_while_saving_in_the_background_end_the_run(tmp_path: Path) -> None:
    loop = make(tmp_path, ToyStep(), save_in_background=True)

    def fail(saved: Held, folder: Path, shard: Shard) -> None:
        raise CheckpointError("disk full")

    loop.task.write_models = fail
    with pytest.raises(CheckpointError, match="disk full"):
        loop.run()


def test_a_run_is_drawn_also_while_it_goes_on(tmp_path: Path) -> None:
    make(tmp_path, ToyStep(poison=(7,)), guard=Guard(on_bad_step="skip"), validate_every=5).run()
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"event": "step", "st')
    assert plot_run(tmp_path, tmp_path / "plot.png") == 12
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(CheckpointError, match="name the folder of a training run"):
        plot_run(tmp_path / "nothing", tmp_path / "plot.png")


def test_the_running_mean_starts_unbiased() -> None:
    np.testing.assert_allclose(smoothed(np.array([4.0, 4.0, np.nan, 4.0])), 4.0)
    assert smoothed(np.array([0.0, 1.0]), 0.5)[1] == pytest.approx(2 / 3)
