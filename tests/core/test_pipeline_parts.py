"""Which models a run finds, and what it says of those that it cannot."""

from pathlib import Path

import pytest

from duosora.core.config.schema import ModelSettings
from duosora.core.errors import CheckpointError, ConfigError, MediaError
from duosora.core.models.finding import TINY_FOLDER
from duosora.core.models.kinds import tokens_read
from duosora.core.pipelines.settings import open_parts

TINY_DENOISER = str(TINY_FOLDER / "denoiser")


def test_a_preset_brings_its_companions() -> None:
    parts = open_parts(ModelSettings())
    assert {parts.denoiser.source, parts.text_encoder.source, parts.vae.source} == {"tiny"}


def test_what_is_named_takes_the_place_of_a_companion() -> None:
    vae = TINY_FOLDER / "vae"
    parts = open_parts(ModelSettings(denoiser=TINY_DENOISER, text_encoder=Path("tiny"), vae=vae))
    assert (parts.denoiser.source, parts.text_encoder.source, parts.vae.source) == (TINY_DENOISER, "tiny", str(vae))


@pytest.mark.parametrize(("named", "missing"), [({}, "text_encoder"), ({"text_encoder": Path("tiny")}, "vae")])
def test_a_folder_has_no_companions(named: dict[str, Path], missing: str) -> None:
    with pytest.raises(ConfigError, match=f"model.{missing}: name its folder, as model.denoiser = .* is one too"):
        open_parts(ModelSettings(denoiser=TINY_DENOISER, **named))


@pytest.mark.parametrize(("name", "reason"), [("models/tiyn", "no such folder"), (".", "holds no weights")])
def test_a_denoiser_that_is_not_there_is_told_before_its_companions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, reason: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match=reason):
        open_parts(ModelSettings(denoiser=name))


def test_a_tokenizer_that_is_not_there_is_told_with_its_setting() -> None:
    with pytest.raises(MediaError, match="tiny: there is no such file; .* model.tokenizer says where it is"):
        open_parts(ModelSettings(tokenizer=Path("tiny")))


def test_a_text_encoder_without_weights_is_refused_where_they_are_needed() -> None:
    model = ModelSettings(denoiser="opensora_plan_v1_3_t2v", tokenizer=TINY_FOLDER)
    assert open_parts(model).text_encoder.is_fresh
    with pytest.raises(ConfigError, match="model.text_encoder: name the folder of its weights; mt5_xxl alone has none"):
        open_parts(model, needs_text_weights=True)


@pytest.mark.parametrize(
    ("denoiser", "vae", "said"),
    [
        ("tiny", "pixels", "works on 8 latent channels, model.vae makes 3"),
        ("tiny_inpaint", "vqvae_tiny", "folds 4 mask frames into one, model.vae compresses time 2 times"),
    ],
)
def test_a_denoiser_of_other_latents_is_refused_before_anything_is_read(denoiser: str, vae: str, said: str) -> None:
    with pytest.raises(ConfigError, match=f"{said}.*; they do not belong together$"):
        open_parts(ModelSettings(denoiser=denoiser, text_encoder=Path("tiny"), vae=Path(vae)))


@pytest.mark.parametrize(("encoder", "tokens"), [("clip_vit_b_32", 77), ("t5_v1_1_xxl", 200)])
def test_texts_are_as_long_as_both_models_take(encoder: str, tokens: int) -> None:
    model = ModelSettings(denoiser="dit_first_tiny_adaln", text_encoder=Path(encoder), tokenizer=TINY_FOLDER)
    parts = open_parts(model)
    assert tokens_read(parts.denoiser.spec, parts.text_encoder.spec, 200) == tokens
