"""The videos of a run: texts of each clip, seeds, and batches of videos of one size."""

from types import SimpleNamespace
from typing import Any

import pytest

from duosora.core import recipes
from duosora.core.conditioning.references import References
from duosora.core.config.schema import SampleConfig
from duosora.core.config.settings import read
from duosora.core.errors import ConfigError, MediaError
from duosora.core.io.prompts import Prompt
from duosora.core.pipelines.following import sampled
from duosora.core.pipelines.jobs import Job, JobPlanner, batches_of, by_size
from duosora.core.shapes import Grouped, VideoShape

WIDE, HIGH = VideoShape(17, 32, 64), VideoShape(17, 64, 32)
COMPRESSION = Grouped(17, 4, 8)


def job(name: str, video: VideoShape) -> Job:
    return Job(Prompt(text=name, name=name), (name,), "", 0, video)


@pytest.mark.parametrize(
    ("size", "expected"), [(1, ["a", "c", "e", "b", "d"]), (2, ["ac", "e", "bd"]), (8, ["ace", "bd"])]
)
def test_videos_of_one_size_are_made_together_wherever_they_stand(size: int, expected: list[str]) -> None:
    jobs = [job(name, HIGH if name in "bd" else WIDE) for name in "abcde"]
    assert ["".join(each.text for each in batch) for batch in batches_of(jobs, size)] == expected
    assert {video: len(alike) for video, alike in by_size(jobs).items()} == {WIDE: 3, HIGH: 2}


def planned(*texts: str, **settings: Any) -> list[Job]:
    """The jobs of prompts for Open-Sora 1.2."""
    followed = sampled(read(SampleConfig, {"model": {"denoiser": "stdit3_xl_2"}, "video": {"frames": 34}, **settings}))
    denoiser: Any = SimpleNamespace(given={"is_null", "frame_mask"})
    conditioner = References.of(COMPRESSION, followed.config)
    planner = JobPlanner(followed.config, followed.practice, conditioner, denoiser, lambda line: None)
    return planner.jobs([Prompt(text=text, name="a") for text in texts])


def test_each_clip_has_the_text_of_its_segment_and_each_sample_a_seed() -> None:
    made = planned("|0| A Ring |2|a star", "a sea", loop={"count": 3}, samples_per_prompt=2, seed=5)
    suffix = " aesthetic score: 6.5."
    assert [each.seed for each in made] == [5, 6, 5, 6]
    assert made[0].texts == (f"a ring{suffix}", f"a ring{suffix}", f"a star{suffix}")
    assert made[2].texts == (f"a sea{suffix}",) * 3
    assert (made[0].negative, made[0].video) == (None, VideoShape(34, 240, 426))


@pytest.mark.parametrize(
    ("text", "settings", "error", "told"),
    [
        ('a{"reference_path": "$X/a.png"}', {}, MediaError, "which only a shell replaces"),
        ('a{"mask_strategy": "0"}', {}, ConfigError, "expected a picture or a video, and none is given"),
        ("a", {"samples_per_prompt": 10**6}, ConfigError, "a run makes at most 100000"),
    ],
)
def test_what_cannot_be_made_is_refused(text: str, settings: Any, error: type[Exception], told: str) -> None:
    with pytest.raises(error, match=told):
        planned(text, **settings)


def test_a_prompt_is_taken_apart_as_the_recipe_says() -> None:
    text = 'a{"mask_strategy": "0"}'
    assert recipes.named("tiny").prompts.take_apart(text, "p").texts.texts == (text,)
    assert recipes.named("opensora_v1_2").prompts.take_apart(text, "p").mask_strategy == "0"
