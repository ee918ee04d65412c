"""Recipes: what each says exists and fits, what is refused, and that a new one is a file and a line."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from duosora.core import recipes, samplers
from duosora.core.config.schema import SampleConfig
from duosora.core.config.settings import BY_RECIPE, list_settings, read, resolved
from duosora.core.config.training import TrainConfig
from duosora.core.config.verbs import SCHEMAS
from duosora.core.data.moving_shapes import USUAL_LOOK
from duosora.core.errors import CheckpointError, ConfigError
from duosora.core.models import FAMILIES, opensora_t2v
from duosora.core.models.finding import open_part
from duosora.core.pipelines.following import prompts_for, sampled, scores_of, trained
from duosora.core.pipelines.practice import mixed
from duosora.core.pipelines.settings import make_sampler
from duosora.core.recipes.recipe import Recipe
from duosora.core.samplers.rflow import RFlow
from duosora.core.shapes import VideoShape

ROOT = Path(__file__).parents[2]
OF_IDDPM = {
    "sampler.name": "iddpm",
    "sampler.steps": 100,
    "sampler.objective": "epsilon",
    "sampler.schedule": "linear",
    "sampler.zero_terminal_snr": False,
    "sampler.guidance": 7.0,
    "sampler.guidance_channels": 3,
    "prompts.negative": None,
    "video.frames": 16,
}
PUBLISHED: dict[str, dict[str, Any]] = {
    "opensora_v1_2": {
        "sampler.name": "rflow",
        "sampler.steps": 30,
        "sampler.guidance": 7.0,
        "prompts.aesthetic": 6.5,
        "prompts.negative": None,
        "prompts.max_tokens": 300,
        "video.frames": 51,
        "video.height": 240,
        "video.width": 426,
        "video.fps": 24.0,
    },
    "opensora_v1_1": {
        **OF_IDDPM,
        "prompts.max_tokens": 200,
        "video.height": 240,
        "video.width": 426,
        "video.fps": 24.0,
        "video.frame_interval": 3,
        "loop.condition_frames": 4,
    },
    "opensora_v1_0": {
        **OF_IDDPM,
        "prompts.max_tokens": 120,
        "video.height": 256,
        "video.width": 256,
        "video.fps": 8.0,
    },
    "pixart_alpha": {
        "sampler.name": "dpm_solver",
        "sampler.steps": 20,
        "sampler.guidance": 7.0,
        "sampler.guidance_channels": None,
        "prompts.max_tokens": 300,
        "video.frames": 1,
    },
}
"""The configurations for inference of hpcaitech Open-Sora at v1.0.0, v1.1.0 and v1.2.0."""
EACH = pytest.mark.parametrize("recipe", recipes.ALL, ids=lambda recipe: recipe.name)


def sample(**values: Any) -> SampleConfig:
    return read(SampleConfig, values)


@EACH
def test_a_recipe_is_named_after_its_file(recipe: Recipe) -> None:
    assert (ROOT / f"core/recipes/{recipe.name}.py").is_file()
    assert recipes.named(recipe.name) is recipe
    assert tuple(each.name for each in recipes.ALL) == recipes.NAMES


@EACH
def test_what_a_recipe_says_is_left_to_recipes_by_the_schema(recipe: Recipe) -> None:
    said = {"sample": recipe.sampling_settings(), "train": recipe.training_settings()}
    for verb, values in said.items():
        left = {setting.path for setting in list_settings(SCHEMAS[verb]) if setting.default is BY_RECIPE}
        assert values.keys() - left == set()


@EACH
def test_the_presets_of_a_recipe_exist_and_are_of_no_other(recipe: Recipe) -> None:
    known = {(family.kind, preset) for family in FAMILIES for preset in family.presets}
    assert {(kind, preset) for kind, presets in recipe.parts.items() for preset in presets} <= known
    for preset in recipe.parts["denoiser"]:
        assert recipes.of_preset("denoiser", preset) is recipe


@EACH
def test_a_recipe_settles_all_that_sampling_needs(recipe: Recipe) -> None:
    config, lines, notes, _ = sampled(sample(model={"denoiser": recipe.part("denoiser")}))
    assert config.model.recipe == recipe.name
    assert (len(lines), notes) == (1, [])
    video = VideoShape(config.video.frames, config.video.height, config.video.width)
    assert len(make_sampler(config.sampler, video).timesteps) % config.sampler.steps == 0
    assert sampled(read(SampleConfig, resolved(config))).config == config


@pytest.mark.parametrize("schema", SCHEMAS.values(), ids=SCHEMAS)
def test_no_default_names_a_published_model(schema: Any) -> None:
    families = {family.name for family in FAMILIES}
    presets = {preset for family in FAMILIES for preset in family.presets} - {"tiny"}
    named = {str(setting.default) for setting in list_settings(schema)} & (families | presets | {*samplers.names()})
    assert named == set()


NEW = """
from dataclasses import replace
from .tiny import RECIPE as TINY
RECIPE = replace(TINY, name="mine", title="my model", parts={}, sampling={**TINY.sampling, "sampler.steps": 3})
"""
ASK = """
from duosora.core.config.schema import SampleConfig
from duosora.core.config.settings import read
from duosora.core.pipelines.following import sampled
print(sampled(read(SampleConfig, {"model": {"recipe": "mine"}})).config.sampler.steps)
"""


def test_a_new_recipe_is_a_file_and_a_line(tmp_path: Path) -> None:
    without = shutil.ignore_patterns("__pycache__", "*.safetensors")
    for room in ("core", "src"):
        shutil.copytree(ROOT / room, tmp_path / room, symlinks=True, ignore=without)
    (tmp_path / "core/recipes/mine.py").write_text(NEW)
    listed = tmp_path / "core/recipes/__init__.py"
    listed.write_text(listed.read_text().replace('    "tiny",\n', '    "tiny",\n    "mine",\n'))
    environment = {"PYTHONPATH": str(tmp_path / "src")}
    command = [sys.executable, "-c", ASK]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("3\n", "")


def test_an_unknown_recipe_names_the_nearest() -> None:
    with pytest.raises(
        ConfigError, match="model.recipe = opensora_v12: there is no such recipe, did you mean opensora"
    ):
        sampled(sample(model={"recipe": "opensora_v12"}))


def test_another_recipe_may_be_asked_for() -> None:
    config = sampled(sample(model={"recipe": "opensora_plan_v1_3"})).config
    assert (config.model.recipe, config.sampler.name, config.sampler.steps) == (
        "opensora_plan_v1_3",
        "euler_ancestral",
        100,
    )


@EACH
def test_a_recipe_that_is_named_brings_its_denoiser(recipe: Recipe) -> None:
    config = sampled(sample(model={"recipe": recipe.name})).config
    assert (config.model.recipe, config.model.denoiser) == (recipe.name, recipe.part("denoiser"))
    other = sampled(sample(model={"recipe": recipe.name, "denoiser": "tiny"})).config
    assert other.model.denoiser == "tiny"


def test_scores_and_rates_of_the_second_tiny_model_are_the_usual_ones() -> None:
    config, _, _, practice = sampled(sample(model={"denoiser": "tiny_v1_2"}))
    words = scores_of(config, practice)
    assert words is not None
    assert prompts_for(practice, ["A Red Ring!"], scores=words).prompts == [USUAL_LOOK.behind("a red ring")]
    assert config.video.fps == USUAL_LOOK.fps
    named = {"resolution": "64p", "aspect_ratio": "1:1", "length": "2x"}
    config = sampled(sample(model={"denoiser": "tiny_v1_2"}, video=named)).config
    assert (config.video.frames, config.video.height, config.video.width) == (34, 64, 64)


def test_the_second_tiny_model_has_no_camera() -> None:
    config, _, _, practice = sampled(sample(model={"denoiser": "tiny_v1_2"}, prompts={"camera": "pan left"}))
    with pytest.raises(ConfigError, match=r"^prompts\.camera: "):
        scores_of(config, practice)


def test_a_published_folder_follows_its_family(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(opensora_t2v.INPAINT_2B.to_config() | {"num_layers": 2}))
    config = sampled(sample(model={"denoiser": str(tmp_path)})).config
    assert (config.model.recipe, config.video.frames, config.prompts.max_tokens) == ("opensora_plan_v1_3", 93, 512)


def test_a_folder_that_is_missing_is_told_at_once() -> None:
    for settle, schema in ((sampled, SampleConfig), (trained, TrainConfig)):
        with pytest.raises(CheckpointError, match="^model.denoiser = nowhere: no such folder"):
            settle(read(schema, {"model": {"denoiser": "nowhere"}}))


# Sizes by their names


@pytest.mark.parametrize(
    ("video", "size"),
    [
        ({"resolution": "240p"}, (51, 240, 426)),
        ({"resolution": "720p", "aspect_ratio": "16:9", "length": "4s"}, (102, 1280, 720)),
        ({"length": "2s", "frames": 51, "height": 64, "width": 64}, (51, 64, 64)),
    ],
)
def test_a_size_has_a_name_where_the_recipe_has_tables(video: dict[str, Any], size: tuple[int, ...]) -> None:
    config = sampled(sample(model={"denoiser": "stdit3_xl_2"}, video=video)).config
    assert (config.video.frames, config.video.height, config.video.width) == size
    assert sampled(read(SampleConfig, resolved(config))).config == config


@pytest.mark.parametrize(
    ("denoiser", "video", "told"),
    [
        ("tiny", {"resolution": "240p"}, "video.resolution = 240p: the recipe tiny has no such names"),
        ("stdit3_xl_2", {"resolution": "230p"}, "resolution = '230p': expected one of .*; the nearest is 240p"),
        ("stdit3_xl_2", {"resolution": "240p", "height": 64}, "video.height = 64: video.resolution = 240p says 240"),
        ("stdit3_xl_2", {"length": "3s"}, r"expected a number of frames or a length such as 2s \(51\), 4s"),
    ],
)
def test_a_size_that_the_tables_do_not_have_is_refused(denoiser: str, video: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        sampled(sample(model={"denoiser": denoiser}, video=video))


# Options of one sampler


def test_an_option_reaches_its_sampler() -> None:
    video = VideoShape(51, 720, 1280)
    bent = make_sampler(sample(sampler={"name": "rflow", "steps": 4}).sampler, video)
    options = {"timestep_transform": False}
    straight = make_sampler(sample(sampler={"name": "rflow", "steps": 4, "options": options}).sampler, video)
    assert isinstance(straight, RFlow)
    assert straight.timesteps.tolist() == [1000.0, 750.0, 500.0, 250.0]
    assert bent.timesteps[1] > 900


@pytest.mark.parametrize(
    ("name", "options", "told"),
    [
        ("ddim", {"discrete": True}, "sampler.options.discrete: ddim has no such option; it has none"),
        ("rflow", {"discreet": True}, "rflow has no such option; it has timestep_transform, discrete, rounds_times"),
        ("rflow", {"discrete": "yes"}, "sampler.options.discrete = yes: rflow takes a value such as false"),
        ("flow_euler", {"shift": 3.0}, "sampler.options.shift: flow_euler has no such option; it has num_train_times"),
    ],
)
def test_an_option_that_a_sampler_does_not_have_is_refused(name: str, options: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        make_sampler(sample(sampler={"name": name, "steps": 4, "options": options}).sampler)


def test_a_sampler_of_another_recipe_is_noted() -> None:
    notes = sampled(sample(model={"denoiser": "stdit3_xl_2"}, sampler={"name": "flow_euler"})).notes
    assert notes[0].startswith("sampler.name = flow_euler expects flow, but Open-Sora 1.2 was trained with rflow, so")


# Prompts


def test_scores_are_said_behind_a_prompt_and_texts_are_cleaned() -> None:
    followed = sampled(sample(model={"denoiser": "stdit3_xl_2"}, prompts={"motion": 5.0, "camera": "pan left"}))
    scores = scores_of(followed.config, followed.practice)
    said = prompts_for(followed.practice, ["A Calm SEA.", "x aesthetic score: 4.0."], [None, "A Storm"], scores)
    assert said.prompts == [
        "a calm sea. aesthetic score: 6.5. motion score: 5.0. camera motion: pan left.",
        "x aesthetic score: 4.0. motion score: 5.0. camera motion: pan left.",
    ]
    assert said.negatives == [None, "a storm"]
    silent = sampled(sample(model={"denoiser": "stdit3_xl_2"}, prompts={"aesthetic": None}))
    texts = prompts_for(silent.practice, ["a sea"], [], scores_of(silent.config, silent.practice))
    assert texts.prompts == ["a sea"]


def test_scores_are_refused_where_a_model_knows_none() -> None:
    followed = sampled(sample(prompts={"motion": 5.0}))
    with pytest.raises(ConfigError, match="^prompts.motion: the recipe tiny has no use for it"):
        scores_of(followed.config, followed.practice)


def test_parts_of_two_recipes_are_told() -> None:
    plan = recipes.named("opensora_plan_v1_3")
    tiny, wide = open_part("vae", "tiny"), open_part("denoiser", "opensora_plan_v1_3_inpaint")
    assert mixed(plan, {"denoiser": wide, "vae": tiny}) == [
        "model.vae = tiny is of the tiny model, while settings follow Open-Sora Plan v1.3"
    ]
    assert mixed(plan, {"denoiser": wide, "vae": open_part("vae", "pixels")}) == [], "it was trained for nobody"


@pytest.mark.parametrize("name", PUBLISHED)
def test_open_sora_is_sampled_as_its_published_configuration_says(name: str) -> None:
    said = recipes.named(name).sampling_settings()
    assert {path: said[path] for path in PUBLISHED[name]} == PUBLISHED[name]


@pytest.mark.parametrize(
    ("denoiser", "video", "tokens"),
    [
        ("stdit_xl_2_16x256", (16, 256, 256, 8.0, 8.0), 120),
        ("stdit_xl_2_16x512", (16, 512, 512, 8.0, 8.0), 120),
        ("stdit_xl_2_64x512", (64, 512, 512, 12.0, 12.0), 120),
        ("stdit2_xl_2", (16, 240, 426, 24.0, 8.0), 200),
        ("pixart_xl_2", (1, 512, 512, 8.0, 8.0), 300),
        ("pixart_ms_xl_2", (1, 1024, 1024, 8.0, 8.0), 300),
        ("stdit_tiny", (4, 64, 64, 8.0, 8.0), 120),
    ],
)
def test_a_denoiser_of_one_size_is_sampled_at_it(denoiser: str, video: tuple[float, ...], tokens: int) -> None:
    config = sampled(sample(model={"denoiser": denoiser})).config
    size = config.video
    assert (size.frames, size.height, size.width, size.fps, size.file_rate) == pytest.approx(video)
    assert config.prompts.max_tokens == tokens


def test_a_folder_of_open_sora_1_0_is_sampled_at_the_size_that_it_says(tmp_path: Path) -> None:
    spec = next(family for family in FAMILIES if family.name == "stdit").presets["stdit_xl_2_16x512"]
    (tmp_path / "config.json").write_text(json.dumps(spec.to_config()))
    config = sampled(sample(model={"denoiser": str(tmp_path)}, video={"fps": 6})).config
    assert (config.model.recipe, config.video.frames, config.video.height) == ("opensora_v1_0", 16, 512)
    assert config.video.fps == 6


def test_lengths_of_open_sora_1_1_are_at_8_frames_a_second() -> None:
    video = {"resolution": "480p", "aspect_ratio": "3:4", "length": "8s"}
    config = sampled(sample(model={"denoiser": "stdit2_xl_2"}, video=video)).config
    assert (config.video.frames, config.video.height, config.video.width) == (64, 554, 738)
