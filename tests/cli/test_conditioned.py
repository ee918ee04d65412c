"""`duosora sample` with the inpaint sibling: images and videos as conditions."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from duosora.core.io.images import write_image
from duosora.core.io.video import read_video

ROOT = Path(__file__).parents[2]
CLIP = ROOT / "tests/media/city.mp4"
FAST = ("--config", ROOT / "configs/sample/tiny.yaml", "-s", "model.denoiser=tiny_inpaint", "-s", "sampler.steps=2")


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "in" / "dog.png"
    write_image(path, np.random.default_rng(0).integers(0, 255, (100, 140, 3)).astype(np.uint8))
    return path


def sidecar(folder: Path) -> dict:
    return json.loads(next(folder.glob("*.json")).read_text())


def test_an_image_starts_a_video_of_its_own_size(duosora: Callable, tmp_path: Path, image: Path) -> None:
    out = tmp_path / "out"
    outcome = duosora(
        "sample", "a dog", *FAST, "-s", f"condition.images=[{image}]", "-s", "video.frames=5", "--out", out
    )
    assert outcome.code == 0, outcome.err
    assert read_video(next(out.glob("*.mp4")))[0].shape == (5, 96, 128, 3)


@pytest.mark.parametrize(
    "settings",
    [
        ["video.frames=9", "condition.indices=[2,-1]"],
        ["video.frames=9"],
        ["video.frames=9", "condition.noise_strength=0.1"],
    ],
)
def test_two_images_make_a_transition_of_the_configured_size(
    duosora: Callable, tmp_path: Path, image: Path, settings: list[str]
) -> None:
    out = tmp_path / "out"
    options = [part for setting in [*settings, "condition.crop=true"] for part in ("-s", setting)]
    outcome = duosora("sample", "a dog", *FAST, "-s", f"condition.images=[{image},{image}]", *options, "--out", out)
    assert outcome.code == 0, outcome.err
    assert read_video(next(out.glob("*.mp4")))[0].shape == (9, 64, 64, 3)


@pytest.mark.parametrize("mask_type", ["continuation", "i2v", "transition", "clear", "random_temporal", "t2iv"])
def test_a_video_is_continued_under_every_mask(duosora: Callable, tmp_path: Path, mask_type: str) -> None:
    out = tmp_path / "out"
    options = ("-s", "condition.crop=true", "-s", f"condition.mask_type={mask_type}", "-s", "video.frames=9")
    outcome = duosora("sample", "a city", *FAST, "-s", f"condition.images=[{CLIP}]", *options, "--out", out)
    assert outcome.code == 0, outcome.err
    assert read_video(next(out.glob("*.mp4")))[0].shape == (9, 64, 64, 3)


def test_no_image_makes_a_video_from_text_only(duosora: Callable, tmp_path: Path) -> None:
    outcome = duosora("sample", "a dog", *FAST, "-s", "video.frames=5", "--out", tmp_path / "out")
    assert outcome.code == 0, outcome.err
    assert sidecar(tmp_path / "out")["conditions"] == []


def test_prompt_lines_bring_their_own_images(duosora: Callable, tmp_path: Path, image: Path) -> None:
    lines = image.parent / "prompts.jsonl"
    lines.write_text('{"prompt": "a dog", "image": "dog.png"}\n')
    out = tmp_path / "out"
    outcome = duosora("sample", lines, *FAST, "-s", "video.frames=5", "--out", out)
    assert outcome.code == 0, outcome.err
    assert sidecar(out)["conditions"] == [str(image)]
    config = tmp_path / "again.yaml"
    config.write_text(json.dumps(sidecar(out)["config"]))
    again = duosora("sample", "--config", config, "--out", tmp_path / "again")
    assert again.code == 0, again.err
    assert (tmp_path / "again/a-dog_42.mp4").read_bytes() == (out / "a-dog_42.mp4").read_bytes()


def test_an_animation_is_a_picture_or_a_video_as_its_key_says(duosora: Callable, tmp_path: Path) -> None:
    pictures = [Image.new("RGB", (64, 64), (40 * number,) * 3) for number in range(5)]
    pictures[0].save(tmp_path / "x.gif", save_all=True, append_images=pictures[1:], duration=100)
    lines = tmp_path / "prompts.jsonl"
    lines.write_text('{"prompt": "a video", "video": "x.gif"}\n{"prompt": "a picture", "image": "x.gif"}\n')
    outcome = duosora("sample", lines, *FAST, "-s", "video.frames=5", "--out", tmp_path / "out")
    assert outcome.code == 0, outcome.err
    assert outcome.out.count("x.gif: holds 5 pictures, of which the first is taken") == 1
    for name, video in (("a-video_42", True), ("a-picture_42", False)):
        settings = json.loads((tmp_path / "out" / f"{name}.json").read_text())["config"]["condition"]
        assert (settings["video"] is not None, bool(settings["images"])) == (video, not video)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["condition.images=[{image},{image},{image}]"], "condition.indices must say which frames they are"),
        (["condition.images=[{image}]", "condition.indices=[0,1]"], "condition.indices has 2 entries for 1 images"),
        (["condition.images=[{image}]", "condition.indices=[9]"], "9 is outside a clip of 9 frames"),
        (["condition.images=[{image},{image}]", "condition.indices=[0,-9]"], "0 is given twice in a clip of 9 frames"),
        (["condition.images=[{clip},{image}]"], "city.mp4: is one of 2 conditions; give pictures, or one video alone"),
        (["condition.images=[{image},{clip}]"], "city.mp4: is one of 2 conditions; give pictures, or one video alone"),
        (["condition.images=[{image}]", "condition.max_area=999"], "dog.png: a picture of 26 x 37 pixels is too small"),
        (["condition.images=[{clip}]", "video.frames=41"], "has 33 frames, video.frames = 41 are needed"),
    ],
)
def test_conditions_that_do_not_fit_are_refused(
    duosora: Callable, tmp_path: Path, image: Path, settings: list[str], words: str
) -> None:
    filled = [setting.replace("{image}", str(image)).replace("{clip}", str(CLIP)) for setting in settings]
    options = [part for setting in ["video.frames=9", *filled] for part in ("-s", setting)]
    outcome = duosora("sample", "a dog", *FAST, *options, "--out", tmp_path / "out")
    assert outcome.code == 2
    assert words in outcome.err
    assert outcome.err.count("\n") == 1
    assert not (tmp_path / "out").exists()
