"""Training of Open-Sora 1.0, 1.1 and PixArt on the command line: both backends, going on, what a run's model is."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from duosora.core.io.weights import open_weights, save_weights
from duosora.core.layout import GivenWeights
from duosora.core.train.logs import read_log

MEDIA = Path(__file__).parents[1] / "media"
COMMON = (
    *("model.text_encoder=tiny", "model.vae=sd_vae_tiny", "max_tokens=32", f"data.files=[{MEDIA / 'clips.json'}]"),
    *("data.workers=0", "tensorboard=off", "accumulate=2", "seed=1", "checkpoints.every=1", "ema={}"),
    "learning_rate.peak=0.01",
)
FIXED = ("data.min_bucket_batches=0", "data.height=48", "data.width=64", "data.keep_chinese=false")
SMALL = {
    "1.0": ("model.denoiser=stdit_tiny", *FIXED, "data.frames=4", "data.min_frames=4"),
    "1.1": (
        *("model.denoiser=stdit2_tiny", "data.frame_interval=3", "data.probe=true"),
        "data.buckets={144p: {1: [1.0, 1], 4: [1.0, 1]}}",
        "objective.frame_masks={quarter_head: 0.3, image_head_tail: 0.4}",
    ),
    "pixart": ("model.denoiser=pixart_ms_tiny", *FIXED, "objective.bound=rescaled"),
}
Train = Callable[..., Path]


@pytest.fixture
def train(duosora: Callable, tmp_path: Path) -> Train:
    def run(folder: str, name: str, steps: int, *settings: str) -> Path:
        words = [word for each in (*COMMON, *SMALL[name], f"max_steps={steps}", *settings) for word in ("--set", each)]
        outcome = duosora("train", *words, "--out", tmp_path / folder)
        assert outcome.code == 0, outcome.err
        return tmp_path / folder

    return run


def steps_of(run: Path) -> list[dict]:
    return [line for line in read_log(run / "log.jsonl") if line["event"] == "step"]


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_both_backends_train_alike(train: Train, name: str) -> None:
    logs = [steps_of(train(backend, name, 2, f"compute.name={backend}")) for backend in ("torch", "mindspore")]
    for first, second in zip(*logs, strict=True):
        assert first["loss"] == pytest.approx(second["loss"], rel=1e-5)
        assert first["grad_norm"] == pytest.approx(second["grad_norm"], rel=1e-4)
    assert logs[0][0]["loss"] != logs[0][1]["loss"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["1.0", "1.1"])
def test_a_run_goes_on_bit_for_bit(train: Train, name: str) -> None:
    straight = train("straight", name, 3)
    train("halved", name, 1)
    halved = train("halved", name, 3)
    files = [json.loads((run / "checkpoint-3/manifest.json").read_text())["files"] for run in (straight, halved)]
    assert {each for each in files[0] if files[0][each] != files[1][each]} <= {"state.json"}
    model, average = (open_weights(straight / "checkpoint-3" / each) for each in ("model", "model_ema"))
    names = [each for each in model if "pos_embed" not in each]
    assert any(np.abs(model[each] - average[each]).max() > 1e-3 for each in names)


def _held(model: Path) -> dict[str, np.ndarray]:
    weights = open_weights(model)
    return {name: weights[name] for name in weights}


@pytest.mark.slow
def test_a_longer_stage_begins_with_a_shorter_one_and_is_sampled_at_its_size(
    train: Train, duosora: Callable, tmp_path: Path
) -> None:
    first, larger = train("first", "1.0", 1), tmp_path / "larger"
    model = first / "checkpoint-1/model_ema"
    save_weights(tmp_path / "published", GivenWeights({**_held(model), "pos_embed": np.ones((1, 16, 96))}, "x"))
    config = json.loads((model / "config.json").read_text())
    larger.mkdir()
    (larger / "config.json").write_text(json.dumps({**config, "input_size": [4, 16, 16], "space_scale": 0.5}))
    shutil.copy(larger / "config.json", tmp_path / "published")
    begun = (f"model.denoiser={larger}", f"start.weights={tmp_path / 'published'}", "start.leave_out=[pos_embed]")
    second = train("second", "1.0", 1, *begun, "data.height=128", "data.width=128")
    plan = duosora("sample", "a", "--dry-run", "--set", f"model.denoiser={second}")
    assert "videos     1 of 4x128x128 pixels = 4x16x16 latents" in plan.out, plan.err
    assert "recipe     opensora_v1_0: sampler name iddpm, steps 100" in plan.out


@pytest.mark.slow
def test_a_run_of_1_1_is_sampled_at_the_rate_of_its_files(train: Train, duosora: Callable) -> None:
    run = train("run", "1.1", 1)
    plan = duosora("sample", "a", "--dry-run", "--set", f"model.denoiser={run}")
    assert "16x30x53 latents = 6480 tokens, 8 frames a second" in plan.out, plan.err
