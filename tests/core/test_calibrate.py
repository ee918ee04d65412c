"""Scale and shift follow from the latents of clips, and land in config.json."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from duosora.core.config.settings import read
from duosora.core.config.training import TrainConfig
from duosora.core.errors import ConfigError
from duosora.core.io.weights import open_weights, save_weights
from duosora.core.layout import FreshWeights
from duosora.core.loading import checked_weights
from duosora.core.models import opensora_vae
from duosora.core.models.finding import open_part, read_config
from duosora.core.models.wfvae import TINY, WFVAESpec
from duosora.core.pipelines.autoencode import scale_latents
from duosora.core.random import normal
from duosora.core.train.calibrate import LatentStatistics, calibrate_folder, measure, write_scale

SPEC = replace(TINY, latent_dim=2, scale=(1.0, 1.0), shift=(0.0, 0.0))
MEANS, DEVIATIONS = np.array([3.0, -1.0]), np.array([0.5, 4.0])


def moments(number: int) -> np.ndarray:
    """Means spread by 0.8 of each deviation, and a variance that makes up for the rest."""
    mean = MEANS + 0.8 * DEVIATIONS * normal((1, 4, 4, 2), 1, "clip", number).astype(np.float64)
    log_variance = np.broadcast_to(2 * np.log(0.6 * DEVIATIONS), mean.shape)
    return np.concatenate([mean, log_variance], axis=-1).transpose(3, 0, 1, 2)


def test_scaled_latents_have_mean_0_and_deviation_1(tmp_path: Path) -> None:
    statistics = measure(moments(number) for number in range(400))
    assert statistics.num_clips == 400
    np.testing.assert_allclose(statistics.mean, MEANS, rtol=0, atol=0.1)
    np.testing.assert_allclose(statistics.deviation, DEVIATIONS, rtol=0.02)
    spec = write_scale(tmp_path, SPEC, statistics)
    assert WFVAESpec.from_config(read_config(tmp_path / "config.json")) == spec
    latents = MEANS.reshape(1, 2, 1, 1, 1) + DEVIATIONS.reshape(1, 2, 1, 1, 1) * normal((8, 2, 4, 8, 8), 1, "latents")
    scaled = scale_latents(spec, latents)
    np.testing.assert_allclose(scaled.mean(axis=(0, 2, 3, 4)), 0, atol=0.1)
    np.testing.assert_allclose(scaled.std(axis=(0, 2, 3, 4)), 1, atol=0.05)


def test_latents_that_are_not_drawn_count_as_they_are() -> None:
    clips = [normal((2, 4, 4, 2), 1, "clip", number) for number in range(3)]
    statistics = measure(clips, are_drawn=False)
    latents = np.stack(clips).astype(np.float64)
    np.testing.assert_allclose(statistics.mean, latents.mean(axis=(0, 2, 3, 4)))
    np.testing.assert_allclose(statistics.deviation, latents.std(axis=(0, 2, 3, 4)))


def test_a_channel_that_is_the_same_everywhere_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"1 of 2 channels \(the first is 1\) are the same in all 3 clips"):
        write_scale(tmp_path, SPEC, LatentStatistics(MEANS, np.array([0.5, 0.0]), num_clips=3))
    assert not list(tmp_path.iterdir())


def test_no_clip_is_refused() -> None:
    with pytest.raises(ConfigError, match="no clip"):
        measure([])


PUBLISHED = np.array([-0.1, 0.34, 0.27, 0.98]), np.array([3.85, 2.32, 2.33, 3.06])
"""Mean and deviation, which its files call shift and scale."""


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("keeps_numbers", [True, False], ids=["with numbers in the weights", "without"])
def test_the_scale_of_an_opensora_vae_is_the_same_in_its_config_and_its_weights(
    tmp_path: Path, keeps_numbers: bool, shards: int
) -> None:
    spec = opensora_vae.PRESETS["opensora_vae_tiny"]
    fresh = FreshWeights(spec.layout(), 0)
    held = {name: fresh[name] for name in fresh if keeps_numbers or name not in ("scale", "shift")}
    save_weights(tmp_path, held, shard_size=sum(array.nbytes for array in held.values()) // 3 if shards > 1 else None)
    calibrated = write_scale(tmp_path, spec, LatentStatistics(*PUBLISHED, num_clips=1))
    config = read_config(tmp_path / "config.json")
    assert (config["shift"], config["scale"]) == tuple(values.tolist() for values in PUBLISHED)
    written = open_weights(tmp_path)
    if keeps_numbers or len(written.files) == 1:
        for name, values in zip(("shift", "scale"), PUBLISHED, strict=True):
            np.testing.assert_allclose(written[name].reshape(-1), values, rtol=1e-6)
    assert all(np.array_equal(written[name], held[name]) for name in held if name not in ("scale", "shift"))
    part = open_part("vae", str(tmp_path))
    assert part.spec == calibrated
    assert dict(checked_weights(part.layout, part.open())).keys() == held.keys() - {"scale", "shift"}
    drawn = normal((1, 4, 2, 3, 3), 1, "latents")
    shift, scale = (values.reshape(1, 4, 1, 1, 1) for values in PUBLISHED)
    np.testing.assert_allclose(scale_latents(part.spec, shift + scale * drawn), drawn, rtol=0, atol=1e-5)


def test_buckets_are_refused(tmp_path: Path) -> None:
    config = read(TrainConfig, {"data": {"buckets": {"240p": {"1": [1.0, 2]}}}})
    with pytest.raises(ConfigError, match=r"data.buckets: calibrate measures clips of one size; set it to null"):
        calibrate_folder(tmp_path, config, 8)
