"""What a name means to duosora.load: recipes whose parts are found in folders, and what is missing in one line."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from duosora.core import recipes
from duosora.core.config.loading import changed
from duosora.core.errors import ConfigError
from duosora.core.models import FAMILIES, opensora_t2v
from duosora.core.pipelines.gathering import gathered, named

PLAN, OPENSORA = "opensora_plan_v1_3", "opensora_v1_2"
PRESETS = {name: spec for family in FAMILIES for name, spec in family.presets.items() if name != "tiny"}
PRESETS["tiny"] = opensora_t2v.TINY


@pytest.fixture
def models(tmp_path: Path) -> Callable[..., Path]:
    """Folders with the config.json of presets, which is all that finding reads."""

    def make(**presets: str) -> Path:
        for folder, preset in presets.items():
            path = tmp_path / "models" / folder.replace("__", "/")
            path.mkdir(parents=True)
            (path / "config.json").write_text(json.dumps(PRESETS[preset].to_config()))
        return tmp_path / "models"

    return make


@pytest.mark.parametrize("recipe", [PLAN, OPENSORA])
def test_the_parts_of_a_recipe_are_found_in_folders_of_any_name(models: Callable[..., Path], recipe: str) -> None:
    parts = {kind: presets[0] for kind, presets in recipes.named(recipe).parts.items()}
    folder = models(a=parts["denoiser"], google__b=parts["text_encoder"], c=parts["vae"], d="tiny_inpaint")
    found = gathered(named(recipe), folder).model
    assert (found.denoiser, found.text_encoder, found.vae) == (str(folder / "a"), folder / "google/b", folder / "c")


def test_what_is_missing_is_one_line(models: Callable[..., Path]) -> None:
    folder = models(a="wfvae_d8_4x8x8")
    with pytest.raises(ConfigError) as refused:
        gathered(named(PLAN), folder)
    said = str(refused.value)
    assert (
        "model.denoiser (opensora_plan_v1_3_t2v or opensora_plan_v1_3_inpaint) and model.text_encoder (mt5_xxl), and"
        in said
    )
    assert str(folder) in said
    assert "\n" not in said
    assert "vae" not in said


def test_models_of_other_sizes_serve_and_each_in_its_part(models: Callable[..., Path]) -> None:
    folder = models(any93x640x640="tiny", any93x640x640_i2v="tiny_inpaint", mt5="mt5_xxl", vae="wfvae_d8_4x8x8")
    assert gathered(named(PLAN), folder).model.denoiser == str(folder / "any93x640x640")
    config = changed(named(PLAN), {"model.denoiser": str(folder / "any93x640x640_i2v")})
    assert gathered(config, folder).model.vae == folder / "vae"


def test_what_settings_name_is_not_looked_for(models: Callable[..., Path]) -> None:
    folder = models(a="opensora_plan_v1_3_t2v", b="mt5_xxl")
    config = changed(named(PLAN), {"model.vae": "elsewhere"})
    assert gathered(config, folder).model.vae == Path("elsewhere")


def test_the_usual_denoiser_comes_first_and_the_other_serves(models: Callable[..., Path]) -> None:
    folder = models(a="opensora_plan_v1_3_inpaint", b="mt5_xxl", c="wfvae_d8_4x8x8")
    assert gathered(named(PLAN), folder).model.denoiser == str(folder / "a")
    models(z="opensora_plan_v1_3_t2v")
    assert gathered(named(PLAN), folder).model.denoiser == str(folder / "z")


def test_two_folders_that_are_alike_are_not_guessed_between(models: Callable[..., Path]) -> None:
    folder = models(a="opensora_plan_v1_3_t2v", b="opensora_plan_v1_3_t2v", c="mt5_xxl", d="wfvae_d8_4x8x8")
    with pytest.raises(ConfigError, match=r"models/a and .*models/b are alike; name one of them as model.denoiser"):
        gathered(named(PLAN), folder)
    config = changed(named(PLAN), {"model.denoiser": str(folder / "b")})
    found = gathered(config, Path("nowhere")).model
    assert (found.text_encoder, found.vae) == (folder / "c", folder / "d")


def test_a_folder_of_models_means_the_denoiser_in_it(models: Callable[..., Path]) -> None:
    folder = models(a="opensora_plan_v1_3_t2v", b="mt5_xxl", c="wfvae_d8_4x8x8")
    (folder / "odd").mkdir()
    (folder / "odd" / "config.json").write_text('{"model_type": "unheard of"}')
    found = gathered(named(str(folder)), Path("nowhere")).model
    assert (found.denoiser, found.text_encoder) == (str(folder / "a"), folder / "b")


def test_a_folder_without_a_denoiser_is_refused(models: Callable[..., Path]) -> None:
    with pytest.raises(ConfigError, match="holds no folder of a denoiser"):
        gathered(named(str(models(b="mt5_xxl"))), Path("nowhere"))


def test_what_comes_with_duosora_needs_no_folder() -> None:
    assert gathered(named("tiny"), Path("nowhere")).model.denoiser == "tiny"
    assert gathered(named("sample/tiny"), Path("nowhere")).model.denoiser == "tiny"
    assert gathered(named("tiny_inpaint"), Path("nowhere")).model.denoiser == "tiny_inpaint"
