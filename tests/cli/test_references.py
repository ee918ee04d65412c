"""`duosora sample` with a denoiser that reads references: pictures, videos and clips that go on from each other."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from duosora.core.io.images import write_image
from duosora.core.io.video import read_video
from duosora.core.io.weights import open_weights

ROOT = Path(__file__).parents[2]
CLIP = ROOT / "tests/media/city.mp4"
SETTINGS = (
    *("model.denoiser=stdit3_tiny", "model.text_encoder=tiny", "model.vae=opensora_vae_tiny", "sampler.name=rflow"),
    *("sampler.steps=2", "sampler.guidance=3", "video.frames=34", "video.height=16", "video.width=24", "video.fps=8"),
)
TINY = [part for setting in SETTINGS for part in ("-s", setting)]


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "in" / "dog.png"
    write_image(path, np.random.default_rng(0).integers(0, 255, (40, 50, 3)).astype(np.uint8))
    return path


def asking(text: str, picture: Path, strategy: str) -> str:
    return text + json.dumps({"reference_path": str(picture), "mask_strategy": strategy})


def latents(folder: Path) -> np.ndarray:
    return open_weights(next(folder.glob("*.safetensors")))["latents"]


@pytest.mark.slow
def test_both_backends_make_the_same_endless_video_from_a_picture(
    duosora: Callable, tmp_path: Path, picture: Path
) -> None:
    prompt = asking("|0| a red ring |1| a blue star", picture, "0;1,0,0,-1,1,0.5")
    made = []
    for backend in ("torch", "mindspore"):
        options = ("--backend", backend, "-s", "loop.count=2", "-s", "output.save_latents=true")
        outcome = duosora("sample", prompt, *TINY, *options, "--out", tmp_path / backend)
        assert outcome.code == 0, outcome.err
        assert read_video(next((tmp_path / backend).glob("*.mp4")))[0].shape == (34 + 17, 16, 24, 3)
        made.append(latents(tmp_path / backend))
    first, second = np.split(made[0], 2, axis=1)
    assert first.shape == (4, 10, 2, 3)
    assert np.abs(first - second).max() > 0.1
    assert np.abs(made[0] - made[1]).max() < 1e-5 * np.ptp(made[0])


def test_a_picture_stays_as_it_is_and_the_sidecar_makes_the_video_again(
    duosora: Callable, tmp_path: Path, picture: Path
) -> None:
    options = ("-s", "output.save_latents=true", "-s", f"condition.images=[{picture}]")
    outcome = duosora("sample", "a red ring", *TINY, *options, "--out", tmp_path / "out")
    assert outcome.code == 0, outcome.err
    free = duosora("sample", "a red ring", *TINY, "-s", "output.save_latents=true", "--out", tmp_path / "free")
    assert free.code == 0, free.err
    assert np.abs(latents(tmp_path / "out") - latents(tmp_path / "free"))[:, 0].max() > 0.1
    again = tmp_path / "again.yaml"
    again.write_text(json.dumps(json.loads(next((tmp_path / "out").glob("*.json")).read_text())["config"]))
    outcome = duosora("sample", "--config", again, "--out", tmp_path / "again")
    assert outcome.code == 0, outcome.err
    np.testing.assert_array_equal(latents(tmp_path / "again"), latents(tmp_path / "out"))


def test_a_video_is_gone_on_from(duosora: Callable, tmp_path: Path) -> None:
    options = ("-s", f"condition.video={CLIP}", "-s", "condition.mask_strategy=0,0,0,0,5")
    outcome = duosora("sample", "a city", *TINY, *options, "--out", tmp_path)
    assert outcome.code == 0, outcome.err
    assert read_video(next(tmp_path.glob("*.mp4")))[0].shape == (34, 16, 24, 3)


@pytest.mark.parametrize(
    ("strategy", "settings", "told"),
    [
        ("0;0,1", [], "entry 2: reference: expected one of 1 reference, counted from 0, got 1"),
        ("0,0,0,0,2", [], "entry 1: length: expected at most 1 latent frames, which the reference has from there"),
        ("first", [], "entry 1: loop: expected a whole number of at least 0, got 'first'"),
        ("1", [], "entry 1: loop: expected one of 1, counted from 0 (loop.count), got 1"),
        ("0", ["loop.count=2", "loop.condition_frames=4"], "loop.condition_frames = 4: needs a multiple of 5"),
        ("0", ["loop.count=2", "loop.condition_frames=10"], "needs a multiple of 5 latent frames below the 10"),
        ("0", ["condition.indices=[0]"], "condition.indices: only inpaint models have a use for it"),
        (
            "0,0,0,0,1,0.4",
            ["sampler.name=flow_euler"],
            "sampler.name = flow_euler: takes flow, but stdit3_tiny was trained with rflow; take one of rflow",
        ),
        ("0", ["sampler.name=flow_euler"], "sampler.name = flow_euler: takes flow"),
    ],
)
def test_what_does_not_fit_is_one_line_before_any_work(
    duosora: Callable, tmp_path: Path, picture: Path, strategy: str, settings: list[str], told: str
) -> None:
    options = [part for setting in settings for part in ("-s", setting)]
    outcome = duosora("sample", asking("a dog", picture, strategy), *TINY, *options, "--out", tmp_path / "out")
    assert outcome.code == 2
    assert told in outcome.err
    assert outcome.err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_clips_that_go_on_from_each_other_need_a_sampler_that_keeps_frames(duosora: Callable, tmp_path: Path) -> None:
    options = ("-s", "loop.count=2", "-s", "sampler.name=flow_euler")
    outcome = duosora("sample", "a dog", *TINY, *options, "--out", tmp_path / "out")
    assert (outcome.code, outcome.err.count("\n")) == (2, 1)
    assert "loop.count = 2 needs one of rflow" in outcome.err


@pytest.mark.parametrize(
    ("prompt", "told"),
    [
        ('a dog{"reference_path": "none.png"}', "none.png: there is no such file"),
        ('a dog{"reference": "none.png"}', "unknown key 'reference', expected reference_path"),
        ('a dog{"reference_path": "none.png"', 'expected at its end an object such as {"reference_path": "a.png"'),
        ("|0|a dog|0|a cat", "expected segments of rising loops, got 0, 0"),
    ],
)
def test_a_prompt_that_cannot_be_read_is_one_line(duosora: Callable, tmp_path: Path, prompt: str, told: str) -> None:
    outcome = duosora("sample", prompt, *TINY, "--out", tmp_path / "out")
    assert outcome.code == 2
    assert told in outcome.err
    assert outcome.err.count("\n") == 1


@pytest.mark.parametrize("setting", ["loop.count=2", "condition.mask_strategy=0"])
def test_a_model_without_references_has_no_use_for_them(duosora: Callable, tmp_path: Path, setting: str) -> None:
    outcome = duosora("sample", "a star", "-s", setting, "--out", tmp_path / "out")
    assert outcome.code == 2
    assert f"{setting.partition('=')[0]}: model.denoiser = tiny reads no references" in outcome.err
