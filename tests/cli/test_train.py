"""`duosora train` and `duosora plot` with the tiny models: plans, going on, refusals, bad steps, full disks."""

import fcntl
import json
import re
import resource
import shlex
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from duosora.core.train.checkpoints import Checkpoints
from duosora.core.train.logs import read_log
from duosora.core.train.run import LOCK

ROOT = Path(__file__).parents[2]
STAGES = sorted(path for path in (ROOT / "configs" / "train").glob("*_stage*.yaml"))
PLAN_STAGES = [path for path in STAGES if not path.stem.startswith(("opensora_v1_1", "opensora_v1_2"))]
"""Those of Open-Sora 1.1 and 1.2 are planned in tests/recipes/test_stages.py."""
TINY = ("data.kind=moving_shapes", "data.workers=0", "tensorboard=off")


def given(*settings: str) -> list[str]:
    return [part for setting in settings for part in ("--set", setting)]


@pytest.fixture
def train(duosora: Callable, tmp_path: Path) -> Callable:
    """`duosora train` of the tiny denoiser into the folder `run`."""

    def run(*arguments: object, settings: tuple[str, ...] = ()):
        return duosora("train", *arguments, *given(*TINY, *settings), "--out", tmp_path / "run")

    return run


def lines(folder: Path) -> list[dict]:
    return read_log(folder / "run" / "log.jsonl")


@pytest.mark.parametrize("file", PLAN_STAGES, ids=lambda file: file.stem)
def test_the_plan_of_a_published_stage_names_sizes_objective_and_folder(
    duosora: Callable, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    here = ("model.text_encoder=tiny", "model.vae=tiny", f"data.files=[{json.dumps(str(ROOT / 'tests/media'))}]")
    without = ["autoencoder.perceptual_weight=0"] if "wfvae" in file.stem else []
    outcome = duosora("train", "--config", file, "--dry-run", *given(*here, "start={}", "compute.dtype=fp32", *without))
    assert outcome.code == 0, outcome.err
    subjects = [line.split()[0] for line in outcome.out.splitlines()]
    denoiser = ["frozen"] if "wfvae" not in file.stem else []
    mixed = ["NOTE", "NOTE"] if denoiser else []  # the text encoder and the autoencoder are the tiny model's
    expected = ["backend", "training", "weights", "data", "clips", *denoiser, "objective", "steps", "optimiser"]
    assert subjects[: subjects.index("memory")] == [*expected, "folder", "recipe", "file", "--set", *mixed]
    assert "time" in subjects
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("file", STAGES, ids=lambda file: file.stem)
def test_a_published_stage_says_what_has_to_be_set(duosora: Callable, file: Path) -> None:
    outcome = duosora("train", "--config", file, "--dry-run")
    assert outcome.code == 2
    assert outcome.err.startswith("duosora: data.files: there is no data/")
    assert outcome.err.count("\n") == 1


def test_the_plan_counts_tokens_and_says_what_the_run_goes_on_from(train: Callable, tmp_path: Path) -> None:
    outcome = train("--dry-run")
    assert "clips      up to 17x64x64 pixels = 80 tokens a clip" in outcome.out
    area = ("data.kind=files", f"data.files=[{ROOT / 'tests/media'}]", "data.max_area=4096")
    assert "93 frames of 4096 pixels, sides multiples of 32 = 384 tokens" in train("--dry-run", settings=area).out
    assert not (tmp_path / "run").exists()
    train(settings=("max_steps=2",))
    assert "at step 2" in train("--dry-run").out


def test_the_plan_of_a_flow_without_a_shift_says_that_it_is_1(train: Callable) -> None:
    outcome = train("--dry-run", settings=("objective.kind=flow", "objective.shift=null"))
    assert "objective  flow, shift 1, weighting none" in outcome.out, outcome.err


@pytest.mark.parametrize("rank", [0, 3])
def test_the_plan_of_several_processes_is_printed_once_and_waits_for_nobody(
    train: Callable, monkeypatch: pytest.MonkeyPatch, rank: int
) -> None:
    for name, value in (("RANK", rank), ("WORLD_SIZE", 8), ("LOCAL_RANK", rank)):
        monkeypatch.setenv(name, str(value))
    outcome = train("--dry-run", settings=("accumulate=8", "parallel.sequence=2", "parallel.zero=3"))
    assert outcome.code == 0, outcome.err
    line = "processes  8 = data 4 x sequence 2, weights, optimiser state, averages and gradients split, 2 of 8 micro-b"
    assert (line in outcome.out) == (rank == 0) == bool(outcome.out)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (("accumulate=6",), "accumulate = 6: its micro-batches are not shared evenly by the 4 of 4 processes"),
        (("accumulate=6",), "set a multiple of 4, or start 1, 2, 3 or 6 processes"),
        ((), "that read different clips; set a multiple of 4, or start 1 process\n"),
        (("accumulate=4", "parallel.sequence=3"), "does not divide 4 processes; parallel.sequence works with 1, 2, 4"),
        (("accumulate=4", "autoencoder={}", "parallel.sequence=2"), "an autoencoder has no tokens to share"),
        (("accumulate=4", "parallel.engine=deepspeed", "parallel.zero=3"), "parallel.engine = deepspeed has 2"),
        (("accumulate=4", "parallel.engine=deepspeed", "autoencoder={}"), "no process splits an autoencoder's state"),
        (("accumulate=4", "data.mega_batch=3"), "data.mega_batch = 3: does not divide accumulate = 4"),
        (("accumulate=nought",), "accumulate=nought: expected a whole number"),
    ],
)
def test_what_several_processes_cannot_share_is_told_by_one(
    train: Callable, monkeypatch: pytest.MonkeyPatch, settings: tuple[str, ...], message: str
) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")  # a launcher that shows what the first one says
    monkeypatch.setenv("WORLD_SIZE", "4")
    told = []
    for rank in range(4):
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("LOCAL_RANK", str(rank))
        outcome = train(settings=settings)
        assert outcome.code == 2
        told.append(outcome.err)
    assert message in told[0]
    assert told[1:] == [""] * 3


def test_a_run_logs_each_step_and_is_drawn(train: Callable, duosora: Callable, tmp_path: Path) -> None:
    outcome = train(settings=("max_steps=3", "batch_size=2", "validation.every=2", "validation.batches=1"))
    assert outcome.code == 0, outcome.err
    assert f"finished 3 steps: {tmp_path / 'run/checkpoint-3'}" in outcome.out
    steps = [line for line in lines(tmp_path) if line["event"] == "step"]
    assert [line["step"] for line in steps] == [1, 2, 3]
    measured = {"loss", "grad_norm", "lr", "samples_per_second", "tokens_per_second", "peak_memory_mb"}
    assert all(line[name] > 0 for line in steps for name in measured)
    assert all(line["data_wait_seconds"] >= 0 and line["applied"] for line in steps)
    assert 100 < steps[-1]["peak_memory_mb"] < 20000
    (validation,) = [line for line in lines(tmp_path) if line["event"] == "validation"]
    assert validation["step"] == 2
    assert validation["loss"] > 0
    drawn = duosora("plot", tmp_path / "run")
    assert drawn.code == 0, drawn.err
    assert (tmp_path / "run/plot.png").stat().st_size > 10_000


FLOW = (
    *("model.denoiser=stdit3_tiny", "model.text_encoder=tiny", "model.vae=opensora_vae_tiny", "batch_size=2"),
    "objective.frame_masks={image_head: 0.5}",
)
"""A small model of Open-Sora 1.2 as its recipe trains it."""


@pytest.mark.slow
def test_open_sora_1_2_is_measured_shown_and_goes_on_bit_for_bit(duosora: Callable, tmp_path: Path) -> None:
    measured = ("validation.every=2", "validation.batches=1", "validation.timesteps=2")
    shown = ("show.every=2", 'show.prompts=["A red ring moves left."]', "show.sampler.steps=2")

    def train(folder: str, steps: int, *settings: str) -> Path:
        given_all = given(*TINY, *FLOW, *measured, f"max_steps={steps}", *settings)
        outcome = duosora("train", *given_all, "--out", tmp_path / folder)
        assert outcome.code == 0, outcome.err
        return tmp_path / folder

    straight = train("straight", 2, *shown)
    train("halved", 1)
    halved = train("halved", 2)
    files = [json.loads((run / "checkpoint-2/manifest.json").read_text())["files"] for run in (straight, halved)]
    assert {name for name in files[0] if files[0][name] != files[1][name]} <= {"state.json"}
    assert {name.split("/")[0] for name in files[0]} >= {"model", "model_ema", "optimizer.safetensors"}
    logs = [
        [line for line in read_log(run / "log.jsonl") if line["event"] == "validation"] for run in (straight, halved)
    ]
    assert logs[0] == logs[1]
    assert logs[0][0].keys() >= {"loss", "loss 64x64 17", "loss_ema", "loss_ema 64x64 17"}
    assert (straight / "samples/step-2_0.mp4").is_file()


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (
            ("model.denoiser=tiny", "model.vae=tiny", "objective.kind=rflow", "objective.frame_masks={random: 1}"),
            "objective.frame_masks: OpenSoraT2V v1.3 has no use for it",
        ),
        (
            ("data.kind=files", "data.grouped=false", "data.height=64", "data.width=64"),
            "STDiT3 takes clips of one size",
        ),
        (
            ("objective.timesteps.kind=mode",),
            "objective.timesteps.kind = 'mode': a rectified flow needs one of uniform",
        ),
        (
            ("objective.frame_masks={head: 0.1}",),
            "objective.frame_masks.head = 0.1: expected a part from 0 to 1 of one",
        ),
    ],
)
def test_settings_that_a_denoiser_has_no_use_for_end_a_dry_run(
    duosora: Callable, settings: tuple[str, ...], told: str
) -> None:
    files = (f"data.files=[{ROOT / 'tests/media'}]",)
    outcome = duosora("train", "--dry-run", *given(*TINY, *FLOW, *files, *settings))
    assert (outcome.code, outcome.err.count("\n")) == (2, 1), outcome.err
    assert told in outcome.err


def test_a_run_that_is_finished_stays_so(train: Callable, tmp_path: Path) -> None:
    train(settings=("max_steps=2",))
    manifest = tmp_path / "run/checkpoint-2/manifest.json"
    before = manifest.stat()
    assert "finished 2 steps" in train(settings=("max_steps=2",)).out
    after = manifest.stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_other_settings_are_refused_on_going_on_but_for_harmless_ones(train: Callable, tmp_path: Path) -> None:
    train(settings=("max_steps=1",))
    outcome = train(settings=("max_steps=2", "seed=5", "optimizer.eps=1e-8"))
    assert outcome.code == 2
    assert "optimizer.eps = 1e-08 was 1e-15; seed = 5 was 1234" in outcome.err
    outcome = train(settings=("max_steps=2", "compute.recompute_every=1", "checkpoints.keep=1"))
    assert outcome.code == 0, outcome.err
    assert [line["step"] for line in lines(tmp_path)] == [1, 2]
    assert [path.name for path in (tmp_path / "run").glob("checkpoint-*")] == ["checkpoint-2"]


def test_a_run_goes_on_where_the_version_that_began_it_knew_fewer_settings(train: Callable, tmp_path: Path) -> None:
    assert train(settings=("max_steps=1",)).code == 0
    found = Checkpoints(tmp_path / "run").newest()
    assert found.path is not None
    state = json.loads((found.path / "state.json").read_text())
    del state["run"]["config"]["parallel"], state["run"]["config"]["data"]["mega_batch"]

    def write(folder: Path) -> None:
        shutil.copytree(found.path, folder, dirs_exist_ok=True)
        (folder / "manifest.json").unlink()
        (folder / "state.json").write_text(json.dumps(state))

    older = Checkpoints(tmp_path / "older").save(1, write)
    outcome = train("--resume", older, settings=("max_steps=2",))
    assert outcome.code == 0, outcome.err
    outcome = train("--resume", older, settings=("max_steps=2", "data.mega_batch=2", "accumulate=2"))
    assert "data.mega_batch = 2 was 1" in outcome.err


def test_the_mega_batch_that_follows_from_the_other_settings_may_be_written_out(train: Callable) -> None:
    assert train(settings=("max_steps=1", "data.mega_batch=1")).code == 0  # as runs before it had a default
    assert train(settings=("max_steps=2",)).code == 0


def test_an_annotation_that_was_changed_stops_a_run_that_goes_on_unless_it_is_accepted(
    duosora: Callable, tmp_path: Path
) -> None:
    rows = json.loads((ROOT / "tests/media/clips.json").read_text())
    file = tmp_path / "clips.json"
    file.write_text(json.dumps(rows))
    data = f"data={{files: ['{file}'], root: '{ROOT / 'tests/media'}', frames: 5, height: 32, width: 32, "
    data += "min_bucket_batches: 0, workers: 0, drop_short: 0}"

    def go_on(*settings: str):
        return duosora("train", *given(data, "tensorboard=off", *settings), "--out", tmp_path / "run")

    outcome = go_on("max_steps=1")
    assert outcome.code == 0, outcome.err
    rows[0]["cap"] = "another caption"
    file.write_text(json.dumps(rows))
    outcome = go_on("max_steps=2")
    assert outcome.code == 2
    assert "clips.json has changed; put them back" in outcome.err
    outcome = go_on("max_steps=2", "checkpoints.changed_inputs=accept")
    assert outcome.code == 0, outcome.err
    assert "other inputs than until now: data.files" in outcome.out
    assert go_on("max_steps=3").code == 0  # it was accepted once


def test_a_run_begins_anew_only_where_none_was(train: Callable) -> None:
    assert train("--resume", "none", settings=("max_steps=1",)).code == 0
    outcome = train("--resume", "none", settings=("max_steps=1",))
    assert outcome.code == 2
    assert "holds a run already" in outcome.err


def test_a_damaged_checkpoint_is_passed_over_set_aside_and_written_anew(train: Callable, tmp_path: Path) -> None:
    train(settings=("max_steps=2", "checkpoints.every=1"))
    whole = (tmp_path / "run/checkpoint-2/manifest.json").read_text()
    with (tmp_path / "run/checkpoint-2/optimizer.safetensors").open("r+b") as file:
        file.seek(5000)
        file.write(b"????")
    outcome = train(settings=("max_steps=2", "checkpoints.keep=1"))
    assert outcome.code == 0, outcome.err
    assert "passed over" in outcome.out
    assert "optimizer.safetensors was changed or damaged" in outcome.out
    assert (tmp_path / "run/checkpoint-2.set-aside").is_dir()
    found = Checkpoints(tmp_path / "run").newest()
    assert (found.step, found.passed_over) == (2, ())
    names = ("model", "model_ema", "optimizer.safetensors")
    again = json.loads((tmp_path / "run/checkpoint-2/manifest.json").read_text())["files"]
    for name, entry in json.loads(whole)["files"].items():
        if name.startswith(names):
            assert again[name] == entry


def test_an_earlier_checkpoint_can_be_named_and_later_ones_are_set_aside(train: Callable, tmp_path: Path) -> None:
    train(settings=("max_steps=3", "checkpoints.every=1"))
    outcome = train("--resume", tmp_path / "run/checkpoint-1", settings=("max_steps=2",))
    assert outcome.code == 0, outcome.err
    held = sorted(path.name for path in (tmp_path / "run").glob("checkpoint-*"))
    assert held == ["checkpoint-1", "checkpoint-2", "checkpoint-2.set-aside", "checkpoint-3.set-aside"]
    assert [line["step"] for line in lines(tmp_path)] == [1, 2]


def test_a_second_run_in_the_folder_is_refused(train: Callable, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    with (tmp_path / "run" / LOCK).open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        outcome = train(settings=("max_steps=1",))
    assert outcome.code == 2
    assert "another process is training there" in outcome.err
    assert train(settings=("max_steps=1",)).code == 0


@contextmanager
def files_up_to(size_bytes: int) -> Iterator[None]:
    """The operating system refuses larger files, as it refuses any on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("in_background", ["true", "false"])
def test_a_checkpoint_that_cannot_be_written_ends_the_run_and_keeps_the_last(
    train: Callable, tmp_path: Path, in_background: str
) -> None:
    background = f"checkpoints.in_background={in_background}"
    train(settings=("max_steps=1", background))
    with files_up_to(10 << 20):  # the weights have 9 MB, the optimiser's state 18
        outcome = train(settings=("max_steps=3", "checkpoints.every=1", background))
    assert outcome.code == 2
    assert outcome.err.count("duosora: ") == outcome.err.count("\n") == 1
    assert "checkpoint-2: cannot be written (File too large)" in outcome.err
    assert [path.name for path in (tmp_path / "run").glob("*checkpoint-*")] == ["checkpoint-1"]
    assert train(settings=("max_steps=3", background)).code == 0


def test_a_folder_that_cannot_be_written_is_refused(duosora: Callable, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    outcome = duosora("train", *given(*TINY), "--out", tmp_path / "file" / "run")
    assert outcome.code == 2
    assert "cannot be written (Not a directory)" in outcome.err


def test_a_step_that_is_not_finite_ends_the_run_and_names_its_files(train: Callable, tmp_path: Path) -> None:
    outcome = train(settings=("max_steps=9", "learning_rate.peak=1e30", "checkpoints.every=1"))
    assert outcome.code == 2
    assert "step 2: loss nan" in outcome.err or "step 2: loss inf" in outcome.err
    assert ".mp4: the step was not taken and the run ends" in outcome.err
    assert lines(tmp_path)[-1]["applied"] is False
    assert Checkpoints(tmp_path / "run").newest().step == 1


def test_spikes_are_left_out_and_reported_with_their_files(train: Callable, tmp_path: Path) -> None:
    guard = ("guard.on_bad_step=skip", "guard.spike_factor=1.5", "guard.max_skips=100")
    outcome = train(settings=("max_steps=30", "checkpoints.every=null", *guard))
    assert outcome.code == 0, outcome.err
    left_out = [line for line in lines(tmp_path) if not line["applied"]]
    assert left_out
    assert all(line["step"] > 20 for line in left_out)
    for line in left_out:
        assert f"left out step {line['step']}: loss" in outcome.out
    assert outcome.out.count(".mp4") == len(left_out)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (("show.every=2",), "show.every = 2: needs show.prompts"),
        (("show.every=2", 'show.prompts=["a city", " "]'), "prompt 2 is blank"),
        (("show.every=2", "show.prompts=[absent.csv]"), "absent.csv: there is no such file"),
        (("validation.every=2",), "validation.every = 2: needs validation.data"),
        (
            (
                *("validation.every=2", "validation.data.files=[tests/media/clips.json]", "validation.data.frames=9"),
                *("validation.data.height=64", "validation.data.width=64", "validation.data.workers=0"),
            ),
            "validation: no clip can be trained on: 4 rare size",
        ),
        (("start.frozen=[transformer.]",), "start.frozen: no weight of"),
    ],
)
def test_what_would_have_no_effect_or_no_clips_is_refused_in_one_line(
    duosora: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: tuple[str, ...], words: str
) -> None:
    monkeypatch.chdir(ROOT)
    config = ROOT / "configs/train/example_t2v.yaml"
    batch = ("batch_size=5", "data.workers=0", "tensorboard=off")
    outcome = duosora("train", "--config", config, *given(*batch, *settings), "--out", tmp_path / "run")
    assert outcome.code == 2
    assert words in outcome.err
    assert outcome.err.count("\n") == 1


@pytest.mark.slow
def test_train_then_sample_runs_as_the_readme_has_it(
    duosora: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    block = re.search(r"Train, then sample.*?```bash\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), re.DOTALL)
    assert block
    monkeypatch.chdir(tmp_path)
    for name in ("configs", "tests"):
        Path(name).symlink_to(ROOT / name)
    outcomes = []
    for line in block[1].splitlines():
        program, *arguments = shlex.split(line, comments=True)
        assert program == "duosora"
        outcomes.append(duosora(*arguments))
        assert outcomes[-1].code == 0, outcomes[-1].err
    _, inspected, sampled = outcomes
    model = "runs/example_t2v/checkpoint-20/model_ema"
    assert f"it means {model}" in inspected.out
    assert "objective: flow, shift 3.0, as its run says" in inspected.out
    assert f"models     {model} (fp32), text encoder tiny (fp32), autoencoder tiny (fp32)" in sampled.out
    sidecar = next(Path("outputs/trained").glob("*.json"))
    config = json.loads(sidecar.read_text())["config"]
    assert config["model"]["denoiser"] == model
    assert config["sampler"]["name"] == "flow_euler"
    Path("again.yaml").write_text(json.dumps(config))
    assert duosora("sample", "--config", "again.yaml", "--out", "again").code == 0
    video = sidecar.with_suffix(".mp4")
    assert (Path("again") / video.name).read_bytes() == video.read_bytes()


def test_every_verb_finds_the_model_of_a_run(
    train: Callable, duosora: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert train(settings=("max_steps=1", "ema=null", "checkpoints.every=1")).code == 0
    few = given("sampler.steps=1", "video.frames=5", "model.denoiser=run")
    judge = ("judge", "--prompts", "1", "-c", ROOT / "configs/sample/tiny.yaml")
    for arguments in (("sample", "a red circle"), judge):
        outcome = duosora(*arguments, *few)
        assert outcome.code == 0, outcome.err
        assert "models     run/checkpoint-1/model (fp32)" in outcome.out
    going_on = duosora("train", *given(*TINY, "start.weights=run", "max_steps=1"), "--out", "on", "--dry-run")
    assert "from run/checkpoint-1/model\n" in going_on.out
    assert "objective  flow, shift 3" in going_on.out
