"""What an autoencoder's step sees of its clips, which losses are refused, and names of older versions."""

from collections import Counter
from typing import Any

import numpy as np
import pytest

from duosora.core.config.data import DataSettings, StrideSettings
from duosora.core.config.settings import read, resolved
from duosora.core.config.training import AutoencoderSettings, TrainConfig
from duosora.core.data.batch import ClipBatch
from duosora.core.data.selection import check_settings
from duosora.core.errors import ConfigError, ShapeError
from duosora.core.models import opensora_vae, wfvae
from duosora.core.models.finding import open_part
from duosora.core.models.kinds import AutoencoderSpec
from duosora.core.seam.ranks import ParallelPlan, Ranks
from duosora.core.seam.training import AutoencoderBatch
from duosora.core.train.autoencoder import AutoencoderTask, check_losses, check_reached, losses_of

OPENSORA, WFVAE = opensora_vae.PRESETS["opensora_vae_tiny"], wfvae.TINY
NOTHING: Any = None


def task(spec: AutoencoderSpec = OPENSORA, ranks: Ranks | None = None, **settings: Any) -> AutoencoderTask:
    given = AutoencoderSettings(pair_weights={}, discriminator_factor=0.0, **settings)
    return AutoencoderTask(spec, NOTHING, NOTHING, given, 7, ranks=ranks)


def made(task: AutoencoderTask, step: int, frames: int = 17, number: int = 3) -> AutoencoderBatch:
    pixels = np.arange(3 * frames * 16 * 16, dtype=np.float32).reshape(1, 3, frames, 16, 16)
    return task.make(ClipBatch(pixels, None, ("",), (number,), ("",)), step)


def test_a_share_of_the_steps_sees_first_frames_only() -> None:
    lengths = Counter(task(image_share=0.2).length(17, step) for step in range(2000))
    assert lengths.keys() == {1, 17}
    assert lengths[1] == pytest.approx(400, abs=60)
    assert {task().length(17, step) for step in range(50)} == {17}
    assert {task(image_share=1.0).length(17, step) for step in range(50)} == {1}


def test_what_a_step_sees_follows_from_the_seed_and_the_step_alone() -> None:
    one, other = task(image_share=0.5), task(image_share=0.5, ranks=Ranks(ParallelPlan(data=2), 1))
    seen = [one.length(17, step) for step in range(40)]
    assert seen == [other.length(17, step) for step in range(40)]
    step = seen.index(1)
    for number in (0, 5):  # clips of different micro-batches
        batch = made(one, step, number=number)
        np.testing.assert_array_equal(batch.video, made(task(), step, number=number).video[:, :, :1])
        assert {name: noise.shape for name, noise in batch.noise.items()} == {
            "spatial": (1, 4, 1, 2, 2),
            "temporal": (1, 4, 1, 2, 2),
        }
    assert one.work(made(one, seen.index(17))) == 5 * 2 * 2


@pytest.mark.parametrize(
    ("spec", "expected"), [(OPENSORA, set(range(1, 34))), (WFVAE, {1, 5, 9, 13, 17, 21, 25, 29, 33})]
)
def test_random_lengths_are_all_that_the_autoencoder_takes(spec: AutoencoderSpec, expected: set[int]) -> None:
    drawn = Counter(task(spec, random_length=True).length(33, step) for step in range(3000))
    assert drawn.keys() == expected
    assert max(drawn.values()) < 2 * min(drawn.values())


def test_both_posteriors_have_noise_of_their_own() -> None:
    noise = made(task(), 0).noise
    assert noise["spatial"].shape == (1, 4, 17, 2, 2)
    assert noise["temporal"].shape == (1, 4, 5, 2, 2)
    assert not np.array_equal(noise["spatial"][:, :, :5], noise["temporal"])
    again, later, other = made(task(), 0).noise, made(task(), 1).noise, made(task(), 0, number=4).noise
    for name in noise:
        np.testing.assert_array_equal(again[name], noise[name])
        assert not np.array_equal(later[name], noise[name])
        assert not np.array_equal(other[name], noise[name])


@pytest.mark.parametrize(
    ("spec", "settings", "told"),
    [
        (
            OPENSORA,
            {"pair_weights": {"wavelet": 0.1}},
            "wavelet: this autoencoder has no such pair; it has frames, spatial",
        ),
        (WFVAE, {"pair_weights": {"spatial": 1.0}}, "spatial: this autoencoder has no such pair; it has wavelet"),
        (OPENSORA, {"pixel_weight": 0.0, "pair_weights": {"spatial": 1.0}}, "discriminator_factor = 1"),
        (
            OPENSORA,
            {"pixel_weight": 0.0, "discriminator_factor": 0.0, "perceptual_weight": 0.1, "pair_weights": {}},
            "perceptual_weight = 0.1: with pixel_weight = 0",
        ),
        (
            OPENSORA,
            {"pixel_weight": 0.0, "discriminator_factor": 0.0, "pair_weights": {"identity": 0.0}},
            "needs a pair in pair_weights",
        ),
    ],
)
def test_losses_that_an_autoencoder_does_not_have_are_refused(
    spec: AutoencoderSpec, settings: dict[str, Any], told: str
) -> None:
    with pytest.raises(ConfigError, match=told):
        check_losses(AutoencoderSettings(**settings), spec)


def test_losses_that_it_has_are_taken() -> None:
    check_losses(AutoencoderSettings(pair_weights={"spatial": 1.0, "identity": 0.5}), OPENSORA)
    check_losses(AutoencoderSettings(pair_weights={"wavelet": 0.1}), WFVAE)


def test_what_the_losses_do_not_reach_is_told_before_anything_is_built() -> None:
    part = open_part("vae", "opensora_vae_tiny")
    latents = AutoencoderSettings(pixel_weight=0.0, discriminator_factor=0.0, pair_weights={"spatial": 1.0})
    encoders = ("temporal_vae.", "spatial_vae.module.encoder.", "spatial_vae.module.quant_conv.")
    check_reached(latents, part, encoders[:2])
    with pytest.raises(ConfigError, match=r"start.frozen: the losses of autoencoder reach none of the weights"):
        check_reached(latents, part, encoders)
    adversarial = AutoencoderSettings(pair_weights={})
    check_reached(adversarial, part, ("spatial_vae.",))
    with pytest.raises(ConfigError, match=r"start.frozen: the adversarial loss is weighed at temporal_vae.decoder"):
        check_reached(adversarial, part, ("temporal_vae.",))


@pytest.mark.parametrize("spec", [OPENSORA, WFVAE])
def test_clips_that_an_autoencoder_does_not_give_back_whole_are_refused(spec: AutoencoderSpec) -> None:
    settings = DataSettings(frames=17, height=32, width=36, autoencoder=StrideSettings())
    with pytest.raises(ShapeError, match=r"width = 36: needs a multiple of 8 pixels; the nearest are 32 and 40"):
        check_settings(settings, spec.compression)
    check_settings(settings.model_copy(update={"width": 40}), spec.compression)


def read_losses(**values: Any) -> AutoencoderSettings:
    settings = read(TrainConfig, {"autoencoder": values}).autoencoder
    assert settings is not None
    return settings


@pytest.mark.parametrize("weight", [0.0, 0.1, 2])
def test_the_old_name_of_the_wavelet_weight_is_read(weight: float) -> None:
    settings = read_losses(wavelet_weight=weight, kl_weight=1e-5)
    assert settings == read_losses(pair_weights={"wavelet": weight}, kl_weight=1e-5)
    assert losses_of(settings).pair_weights == {"wavelet": weight}
    assert "wavelet_weight" not in resolved(settings)


def test_both_names_of_the_wavelet_weight_together_are_refused() -> None:
    with pytest.raises(ValueError, match="wavelet_weight is the old name of pair_weights.wavelet"):
        read_losses(wavelet_weight=0.1, pair_weights={"wavelet": 0.2})


def test_a_null_for_the_old_name_says_nothing() -> None:
    assert read_losses(wavelet_weight=None) == read_losses()
