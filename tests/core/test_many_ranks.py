"""What ranks of a training run say to each other: errors, batches, captions, checkpoints. Here ranks are threads."""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from duosora.core.data.batch import ClipBatch, ReadFailure
from duosora.core.errors import CheckpointError, ConfigError, DuosoraError, MediaError, NumericsError, OutOfMemory
from duosora.core.io.weights import Shard, open_weights, save_shard
from duosora.core.parallel.agreement import agreed, exchange
from duosora.core.random import normal
from duosora.core.seam.group import Alone, Group
from duosora.core.seam.models import Given
from duosora.core.seam.ranks import ParallelPlan, Ranks
from duosora.core.seam.training import DiffusionBatch, StepReport
from duosora.core.train import encoders
from duosora.core.train.checkpoints import Checkpoints, problem_of
from duosora.core.train.encoders import CaptionEncoder
from duosora.core.train.feeding import Fed, Feeding
from duosora.core.train.guard import Guard
from duosora.core.train.learning_rate import LearningRate
from duosora.core.train.logs import StepLog, read_log
from duosora.core.train.loop import Loop, RunEnd, Timetable
from duosora.core.train.saving import Saving

sys.path.append(str(Path(__file__).parent))
import thread_ranks

FOUR = ParallelPlan(data=2, sequence=2)


def assert_told_once(errors: list[Any], kind: type[DuosoraError], text: str, teller: int) -> None:
    assert [type(error) for error in errors] == [kind] * len(errors), errors
    assert {str(error) for error in errors} == {text}
    assert [rank for rank, error in enumerate(errors) if not error.is_told] == [teller]


def test_ranks_tell_each_other_what_they_have() -> None:
    assert (
        thread_ranks.run(ParallelPlan(3), lambda ranks: exchange(ranks.world, lambda: [ranks.rank]))
        == [[[0], [1], [2]]] * 3
    )
    assert exchange(Alone(), lambda: Path("as it is")) == [Path("as it is")]


def test_the_error_of_one_rank_is_that_of_all_and_told_once() -> None:
    def work(ranks: Ranks) -> None:
        def fail() -> None:
            if ranks.rank in (1, 2):
                raise MediaError(f"{ranks.rank}.mp4: is empty")

        agreed(ranks.world, lambda: agreed(ranks.world, fail))

    assert_told_once(thread_ranks.run(ParallelPlan(4), work), MediaError, "1.mp4: is empty", teller=1)


def test_memory_that_one_rank_lacks_is_the_error_of_all() -> None:
    def work(ranks: Ranks) -> None:
        agreed(ranks.world, lambda: np.empty(10**14) if ranks.rank == 1 else None)

    text = "out of memory: 728.0 TiB were asked for at once"
    assert_told_once(thread_ranks.run(ParallelPlan(3), work), OutOfMemory, text, teller=1)


def test_leaders_are_those_of_one_machine() -> None:
    plan = ParallelPlan(data=4, sequence=2)
    assert plan.leaders(["a"] * 8) == ((0, 2, 4, 6),)
    assert plan.leaders([*"aaaabbbb"]) == ((0, 2), (4, 6))
    assert ParallelPlan(data=1, sequence=4).leaders([*"aabb"]) == ((0,),)


class Clips:
    """Makes batches of nothing but the clips' numbers, and refuses one of them."""

    def __init__(self, refused: int | None = None) -> None:
        self.refused = refused
        self.prepared: list[list[int]] = []

    def prepare(self, clips: Sequence[ClipBatch]) -> None:
        self.prepared.append([clip.samples[0] for clip in clips])

    def make(self, clips: ClipBatch, step: int) -> DiffusionBatch:
        (number,) = clips.samples
        if number == self.refused:
            raise MediaError(f"{number}.mp4: cannot be made")
        values = np.full(1, number, np.float64)
        arrays = dict.fromkeys(("timesteps", "signal", "spread", "of_clean", "of_noise", "weights"), values)
        if number % 2:
            arrays |= dict.fromkeys(("bound_weights", "gain", "log_range", "half_bin"), values + 1)
        latents = normal((1, 4, 2, 3, 3), 0, "clip", number, step)
        text_mask = np.ones((1, 2), np.int64) if number % 2 else None
        given = Given() if number == 2 else Given(text=latents[0], text_mask=text_mask, label=np.array([number]))
        return DiffusionBatch(latents=latents, noise=-latents, given=given, **arrays)

    def work(self, batch: DiffusionBatch) -> int:
        return int(batch.latents[0, 0].size)


def clip(number: int) -> ClipBatch:
    failures = (ReadFailure(f"bad{number}.mp4", "is empty"),) if number == 2 else ()
    return ClipBatch(None, None, ("",), (number,), (f"{number}.mp4",), failures=failures)


def feed(ranks: Ranks, makes: Clips) -> Fed:
    place = ranks.plan.place(ranks.rank).data
    return Feeding(ranks, makes).feed(lambda: [clip(number) for number in range(place, 4, ranks.plan.data)], 7)


def arrays_of(batch: DiffusionBatch) -> dict[str, Any]:
    return {**vars(batch), **vars(batch.given), "given": None}


def test_a_team_gets_its_leaders_batches_and_all_know_of_all() -> None:
    (alone,) = thread_ranks.run(ParallelPlan(), lambda ranks: feed(ranks, Clips()))
    fed = thread_ranks.run(FOUR, lambda ranks: feed(ranks, Clips()))
    for rank, one in enumerate(fed):
        expected = alone.batches[rank // 2 :: 2]
        for mine, theirs in zip(one.batches, expected, strict=True):
            for name, value in arrays_of(theirs).items():
                np.testing.assert_array_equal(arrays_of(mine)[name], value, strict=value is not None)
        assert [vars(facts) | {"sources": tuple(facts.sources)} for facts in one.facts] == [
            vars(facts) | {"failures": list(facts.failures)} for facts in alone.facts
        ]
    assert [list(facts.failures) for facts in alone.facts] == [[], [], ["bad2.mp4: is empty"], []]


def test_only_leaders_read_and_make() -> None:
    def work(ranks: Ranks) -> list[list[int]]:
        makes = Clips()
        feed(ranks, makes)
        return makes.prepared

    assert thread_ranks.run(FOUR, work) == [[[0, 2]], [], [[1, 3]], []]


def test_a_clip_that_one_leader_cannot_use_ends_all() -> None:
    errors = thread_ranks.run(FOUR, lambda ranks: feed(ranks, Clips(refused=3)))
    assert_told_once(errors, MediaError, "3.mp4: cannot be made", teller=2)


class Texts(CaptionEncoder):
    """An encoder whose model is a formula."""

    def __init__(self, leaders: Group, stored: Mapping[str, np.ndarray]) -> None:
        part: Any = None
        tokenizer: Any = None
        super().__init__(part, part, tokenizer, stored=SimpleNamespace(find=stored.get), leaders=leaders)
        self.asked: list[str] = []

    def model(self) -> Any:
        return self


@pytest.fixture
def _formula(monkeypatch: pytest.MonkeyPatch) -> None:
    def encode(backend: Any, model: Texts, tokenizer: Any, captions: list[str], *_: Any, **__: Any) -> Any:
        model.asked += captions
        return SimpleNamespace(states={caption: states(caption) for caption in captions})

    monkeypatch.setattr(encoders, "encode_texts", encode)


def states(caption: str) -> np.ndarray:
    return np.array([[ord(letter), len(caption)] for letter in caption], np.float32)


@pytest.mark.usefixtures("_formula")
def test_the_leaders_of_a_machine_have_one_text_encoder_between_them() -> None:
    plan = ParallelPlan(data=4, sequence=2)

    def work(ranks: Ranks) -> Any:
        if not ranks.leads_team:
            return None
        stored = {"stored": states("stored")} if ranks.rank == 2 else {}
        texts = Texts(ranks.leaders, stored)
        own = [[f"of {ranks.rank}", "of all", "stored"], ["of all"] if ranks.rank else [], ["late"]]
        for captions in own:
            texts.prepare(captions)
            for caption, found in zip(captions, texts.states(captions), strict=True):
                np.testing.assert_array_equal(found, states(caption))
        return texts.asked, ranks.leaders.num_exchanges  # type: ignore[attr-defined]

    done = thread_ranks.run(plan, work, hosts=[*"aaaabbbb"])
    # Two exchanges where somebody lacks a caption, one where everybody has all.
    assert [done[rank] for rank in (0, 2)] == [(["of 0", "of all", "stored", "of 2", "late"], 5), ([], 5)]
    assert [done[rank] for rank in (4, 6)] == [(["of 4", "of all", "stored", "of 6", "late"], 5), ([], 5)]


TENSORS = {name: normal((3, 2), 0, name) for name in ("a", "b", "c", "d", "e")}


class Part:
    """A rank's share of a state: every so many-th tensor; the last rank has none."""

    def __init__(self, ranks: Ranks, fails: bool = False) -> None:
        self.shard, self.fails = Shard(ranks.rank, ranks.world.size), fails

    def write(self, folder: Path, shard: Shard) -> None:
        assert shard == self.shard
        held = list(TENSORS)[shard.index :: shard.count - 1] if shard.index < shard.count - 1 else []
        for target, stem in ((folder / "model", "diffusion_pytorch_model"), (folder, "optimizer")):
            save_shard(target, {name: TENSORS[name] for name in held}, shard, stem)
        if self.fails:
            raise OSError(28, "No space left on device")
        if shard.index == 0:
            (folder / "state.json").write_text("{}")


@pytest.mark.parametrize("in_background", [False, True])
def test_a_checkpoint_is_written_in_parts_and_read_as_one(tmp_path: Path, in_background: bool) -> None:
    def work(ranks: Ranks) -> Path | None:
        saving = Saving(Checkpoints(tmp_path), ranks, in_background)
        for step in (3, 4):
            saving.save(step, Part(ranks).write)
            saving.look()
            saving.wait()
        return saving.last

    assert thread_ranks.run(ParallelPlan(3), work) == [tmp_path / "checkpoint-4"] * 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-3", "checkpoint-4"]
    path = tmp_path / "checkpoint-4"
    assert problem_of(path) is None
    files = {str(file.relative_to(path)) for file in path.rglob("*") if file.is_file()}
    assert files == set(json.loads((path / "manifest.json").read_text())["files"]) | {"manifest.json"}
    assert "model/diffusion_pytorch_model-00002-of-00003.safetensors" in files
    for source in (path / "model", path / "optimizer.safetensors"):
        weights = open_weights(source)
        assert set(weights) == set(TENSORS)
        for name, value in TENSORS.items():
            np.testing.assert_array_equal(weights[name], value)


def test_adapters_that_ranks_write_in_parts_are_one_file_which_peft_reads(tmp_path: Path) -> None:
    def write(folder: Path, shard: Shard) -> None:
        held = {name: TENSORS[name] for name in list(TENSORS)[shard.index :: shard.count]}
        save_shard(folder / "model", held, shard, "adapter_model", {"format": "pt"})

    def work(ranks: Ranks) -> None:
        Saving(Checkpoints(tmp_path), ranks, False).save(1, write)

    thread_ranks.run(ParallelPlan(3), work)
    path = tmp_path / "checkpoint-1"
    assert problem_of(path) is None
    assert [file.name for file in (path / "model").iterdir()] == ["adapter_model.safetensors"]
    assert set(json.loads((path / "manifest.json").read_text())["files"]) == {"model/adapter_model.safetensors"}
    weights = open_weights(path / "model" / "adapter_model.safetensors")
    assert weights.metadata == {"format": "pt"}
    assert all(weights[name].tobytes() == value.tobytes() for name, value in TENSORS.items())


@pytest.mark.parametrize("in_background", [False, True])
def test_a_rank_that_cannot_write_its_part_ends_all_and_leaves_the_last_checkpoint(
    tmp_path: Path, in_background: bool
) -> None:
    def work(ranks: Ranks) -> None:
        saving = Saving(Checkpoints(tmp_path, keep=1), ranks, in_background)
        for step, fails in ((1, False), (2, ranks.rank == 1)):
            saving.save(step, Part(ranks, fails).write)
            saving.wait()

    text = f"{tmp_path / 'checkpoint-2'}: cannot be written (No space left on device)"
    assert_told_once(thread_ranks.run(ParallelPlan(3), work), CheckpointError, text, teller=1)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-1"]
    assert problem_of(tmp_path / "checkpoint-1") is None


def test_a_folder_that_another_machine_does_not_see_is_refused(tmp_path: Path) -> None:
    class Elsewhere(Checkpoints):
        def begin(self, step: int) -> Path | None:
            return tmp_path / "not here"

    def work(ranks: Ranks) -> None:
        Saving(Elsewhere(tmp_path), ranks, False).save(1, Part(ranks).write)

    (error, *_) = thread_ranks.run(ParallelPlan(2), work)
    assert isinstance(error, CheckpointError)
    assert "name a folder that they share" in str(error)


class SharedLoader:
    """Four micro-batches a step, of which each data rank has its share; one cannot be read."""

    steps_per_epoch = 5

    def __init__(self, ranks: Ranks, bad: int | None) -> None:
        self.place, self.readers, self.bad = ranks.plan.place(ranks.rank).data, ranks.plan.data, bad

    def batches(self, start_step: int) -> Iterator[list[ClipBatch]]:
        step = start_step
        while True:
            yield [self._clip(4 * step + part) for part in range(self.place, 4, self.readers)]
            step += 1

    def _clip(self, number: int) -> ClipBatch:
        if number == self.bad:
            raise MediaError(f"{number}.mp4: is empty")
        return clip(number)

    def close(self) -> None:
        pass


class SharedStep:
    """One number that follows the mean of the clips' numbers; a number that is poison gives an infinite gradient."""

    keeps_ema = False

    def __init__(self, ranks: Ranks, poison: int) -> None:
        self.ranks, self.poison, self.value = ranks, poison, 0.0

    def step(
        self, batches: list[DiffusionBatch], lr: float, ema_decay: float | None = None, reject_above: float = np.inf
    ) -> StepReport:
        own = [float(batch.weights[0]) for batch in batches]
        shared = [number for numbers in exchange(self.ranks.data, lambda: own) for number in numbers]
        gradient = self.value - float(np.mean(sorted(shared)))
        applied = self.poison not in shared
        if applied:
            self.value -= lr * gradient
        return StepReport(gradient**2, abs(gradient) if applied else float("nan"), applied)

    def saved(self, is_copy: bool = False) -> "SharedStep":
        return self

    def save(self, folder: Path) -> None:
        pass


class SharedTask(Clips):
    def __init__(self, ranks: Ranks, poison: int) -> None:
        super().__init__()
        self.trainer: Any = SharedStep(ranks, poison)

    def learns(self, step: int) -> str:
        return "model"

    def validate(self) -> dict[str, float]:
        return {"value": self.trainer.value}

    def show(self, folder: Path, step: int) -> None:
        pass

    def write_models(self, saved: SharedStep, folder: Path, shard: Shard) -> None:
        save_shard(folder / "model", {"value": np.array([saved.value])} if shard.index == 0 else {}, shard)


def train(
    ranks: Ranks, folder: Path, said: list[str], bad: int | None = None, on_bad_step: str = "skip", **plan: Any
) -> RunEnd:
    return Loop(
        folder,
        SharedTask(ranks, poison=9),
        SharedLoader(ranks, bad) if ranks.leads_team else None,
        Timetable(max_steps=5, learning_rate=LearningRate(peak=0.1, total_steps=5), **plan),
        Checkpoints(folder),
        StepLog(folder, "off") if ranks.is_first else None,
        Guard(on_bad_step),
        {"config": {}},
        said.append if ranks.is_first else lambda line: None,
        ranks=ranks,
    ).run()


def steady(folder: Path) -> list[dict[str, Any]]:
    unsteady = ("seconds", "data_wait_seconds", "samples_per_second", "tokens_per_second", "peak_memory_mb")
    return [
        {name: value for name, value in line.items() if name not in unsteady} for line in read_log(folder / "log.jsonl")
    ]


@pytest.mark.parametrize("plan", [ParallelPlan(2), ParallelPlan(4), FOUR, ParallelPlan(sequence=2)], ids=str)
def test_a_loop_on_ranks_says_and_logs_what_one_process_does(tmp_path: Path, plan: ParallelPlan) -> None:
    one, many = [], []
    settings = {"save_every": 2, "validate_every": 3, "save_in_background": True}
    (alone,) = thread_ranks.run(ParallelPlan(), lambda ranks: train(ranks, tmp_path / "one", one, **settings))
    outcomes = thread_ranks.run(plan, lambda ranks: train(ranks, tmp_path / "many", many, **settings))
    assert outcomes == [RunEnd(alone.steps, True, tmp_path / "many/checkpoint-5")] * plan.world
    assert steady(tmp_path / "many") == steady(tmp_path / "one")
    assert many == one
    assert one[0] == "replaced bad2.mp4: is empty"
    assert one[1].startswith("left out step 3: loss")
    assert one[1].endswith("files 8.mp4, 9.mp4, 10.mp4, 11.mp4")
    saved = [open_weights(tmp_path / folder / "checkpoint-5/model")["value"] for folder in ("one", "many")]
    assert saved[0] == saved[1]


@pytest.mark.parametrize(
    ("options", "kind", "text", "teller"),
    [
        ({"bad": 11}, MediaError, "11.mp4: is empty", 2),
        ({"on_bad_step": "stop"}, NumericsError, "files 8.mp4, 9.mp4, 10.mp4, 11.mp4", 0),
    ],
)
def test_ranks_leave_a_loop_together(
    tmp_path: Path, options: dict[str, Any], kind: type[DuosoraError], text: str, teller: int
) -> None:
    errors = thread_ranks.run(FOUR, lambda ranks: train(ranks, tmp_path, [], save_every=2, **options))
    assert text in str(errors[0])
    assert_told_once(errors, kind, str(errors[0]), teller)
    assert Checkpoints(tmp_path).newest().step == 2


def test_a_log_that_the_first_rank_cannot_write_ends_all(tmp_path: Path) -> None:
    class Full(list[str]):
        def append(self, line: str) -> None:
            raise ConfigError("log.jsonl: the disk is full")

    errors = thread_ranks.run(ParallelPlan(2), lambda ranks: train(ranks, tmp_path, Full()))
    assert_told_once(errors, ConfigError, "log.jsonl: the disk is full", teller=0)
