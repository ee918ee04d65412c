"""What an inpaint model is given: how images are brought to size and which frames they become."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from duosora.core.conditioning.channels import Channels, Conditioning, fitted, place_frames
from duosora.core.conditioning.files import condition_files, read_clip, read_pictures
from duosora.core.conditioning.nothing import Nothing
from duosora.core.conditioning.prompt_parts import one_text
from duosora.core.conditioning.references import References
from duosora.core.config.schema import ConditionSettings, SampleConfig
from duosora.core.config.settings import read
from duosora.core.errors import ConfigError, MediaError
from duosora.core.io import kinds
from duosora.core.io.prompts import Prompt, read_prompts
from duosora.core.maths.resize import center_crop_resize
from duosora.core.shapes import Causal, VideoShape


def image(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_a_picture_that_the_output_follows_is_cut_and_not_squeezed_to_the_stride():
    (only,) = fitted([image(100, 140)], None, 236544)
    np.testing.assert_array_equal(only, image(100, 140)[2:98, 6:134])


def test_pictures_of_other_proportions_get_the_size_of_the_first():
    first, same, other = fitted([image(100, 140), image(99, 135, 1), image(70, 50, 2)], None, 236544)
    assert first.shape == same.shape == other.shape == (96, 128, 3)
    np.testing.assert_array_equal(same, image(99, 135, 1)[1:97, 3:131])
    np.testing.assert_array_equal(other, center_crop_resize(image(70, 50, 2)[None], 96, 128)[0])


@pytest.mark.parametrize("seed", range(8))
def test_the_only_picture_of_a_clip_of_one_frame_is_given_whatever_the_seed(seed: int):
    placed = place_frames(Conditioning((image(32, 32),)), VideoShape(1, 32, 32), seed)
    np.testing.assert_array_equal(placed.mask, [0.0])


def animation(path: Path, frames: int = 3) -> Path:
    """A picture file whose frames are 0, 80, 160 ... grey."""
    pictures = [Image.new("RGB", (32, 32), (80 * number,) * 3) for number in range(frames)]
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=100)
    return path


def prompt(**more: Any) -> Prompt:
    return Prompt(text="a", name="a", **more)


@pytest.mark.parametrize("name", ["x.gif", "x.png", "x.ts", "x.webp", "x"])
def test_the_key_decides_how_a_condition_is_read(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    for key, is_video in (("image", False), ("video", True)):
        (tmp_path / "a.jsonl").write_text(json.dumps({"prompt": "a", key: name}))
        (given,) = read_prompts([str(tmp_path / "a.jsonl")])
        assert condition_files(given, ConditionSettings()) == ((str(tmp_path / name),), is_video)
    settings = ConditionSettings(video=Path(name))
    assert condition_files(prompt(), settings) == ((name,), True)


@pytest.mark.parametrize("ending", [".mp4", ".M4V", ".ts", ".3gp", ".flv", ".wmv", ".mpg", ".mov", ".webm"])
def test_a_video_may_stand_in_the_setting_for_pictures_where_its_ending_says_so(ending: str) -> None:
    assert condition_files(prompt(), ConditionSettings(images=(Path(f"x{ending}"),))) == ((f"x{ending}",), True)
    assert condition_files(prompt(), ConditionSettings(images=(Path("x.gif"),))) == (("x.gif",), False)


def test_pictures_and_a_video_at_once_are_refused() -> None:
    with pytest.raises(ConfigError, match="exclude each other"):
        condition_files(prompt(), ConditionSettings(images=(Path("x.png"),), video=Path("x.mp4")))


@pytest.mark.parametrize("name", ["x.gif", "x.webp", "x.png", "x.tif"])
def test_of_an_animation_the_first_picture_is_taken_and_told(tmp_path: Path, name: str) -> None:
    notes: list[str] = []
    (image,) = read_pictures([str(animation(tmp_path / name))], notes.append)
    assert image.shape == (32, 32, 3)
    assert not image.any()
    assert notes == [
        f"{tmp_path / name}: holds 3 pictures, of which the first is taken; under the key video all are read"
    ]
    assert read_pictures([str(animation(tmp_path / "one.gif", 1))], notes.append)[0].shape == (32, 32, 3)
    assert len(notes) == 1


def test_a_video_under_the_key_of_a_picture_is_told_its_own(tmp_path: Path) -> None:
    (tmp_path / "x.flv").write_bytes(b"FLV")
    with pytest.raises(MediaError, match="cannot be read as a picture .*; a video belongs under the key video"):
        read_pictures([str(tmp_path / "x.flv")], print)


def test_all_frames_of_an_animation_are_read_under_the_key_of_a_video(tmp_path: Path) -> None:
    clip = animation(tmp_path / "x.gif")
    assert [int(frame.mean()) // 70 for frame in read_clip(str(clip), 3, "pyav")] == [0, 1, 2]
    with pytest.raises(ConfigError, match=r"x\.gif: has 3 frames, video\.frames = 5 are needed"):
        read_clip(str(clip), 5, "pyav")


def test_frames_whose_times_vary_are_those_shown_at_the_rate_of_the_video(tmp_path: Path) -> None:
    pictures = [Image.new("RGB", (32, 32), (70 * number,) * 3) for number in range(3)]
    pictures[0].save(tmp_path / "x.gif", save_all=True, append_images=pictures[1:], duration=[100, 300, 100])
    frames = read_clip(str(tmp_path / "x.gif"), 5, "pyav", fps=10)
    assert [int(frame.mean()) // 70 for frame in frames] == [0, 1, 1, 1, 2]


def test_every_ending_is_of_one_kind() -> None:
    assert not set(kinds.VIDEO_SUFFIXES) & set(kinds.IMAGE_SUFFIXES)
    assert {".gif", ".m4v", ".ts", ".3gp", ".flv", ".wmv", ".mpg", ".mpeg"} <= set(kinds.VIDEO_SUFFIXES)


def test_endings_of_videos_are_listed_in_one_place() -> None:
    core = Path(__file__).parents[2] / "core"
    assert [file.name for file in core.rglob("*.py") if '".mkv"' in file.read_text(encoding="utf-8")] == ["kinds.py"]


@pytest.mark.parametrize(
    ("kind", "settings", "told"),
    [
        (
            Nothing,
            {"condition": {"indices": [0]}},
            "condition.indices: model.denoiser = tiny makes videos from text",
        ),
        (Nothing, {"condition": {"noise_strength": 0.1}}, "condition.noise_strength: .* from text only"),
        (Nothing, {"condition": {"align": 5}}, "condition.align: model.denoiser = tiny reads no references"),
        (Channels, {"condition": {"mask_strategy": "0"}}, "condition.mask_strategy: .* reads no references"),
        (Channels, {"loop": {"count": 2}}, "loop.count: .* reads no references"),
        (References, {"condition": {"mask_type": "i2v"}}, "condition.mask_type: only inpaint models have a use for it"),
    ],
)
def test_settings_that_are_for_other_models_are_refused_by_name(kind: Any, settings: Any, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        kind.of(Causal(4, 8), read(SampleConfig, settings))
    kind.of(Causal(4, 8), SampleConfig())


def test_a_model_of_text_only_takes_no_pictures() -> None:
    asked = prompt(conditions=("dog.png",))
    with pytest.raises(ConfigError, match="^dog.png: model.denoiser = tiny makes videos from text only; pictures and"):
        Nothing().ask(asked, one_text("a", "a"), SampleConfig(), print)
