"""Scale and shift follow from the latents of clips, and land in config.json."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from duosora.core.errors import ConfigError
from duosora.core.models.finding import read_config
from duosora.core.models.wfvae import TINY, WFVAESpec
from duosora.core.pipelines.autoencode import scale_latents
from duosora.core.random import normal
from duosora.core.train.calibrate import measure, write_scale

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


def test_no_clip_is_refused() -> None:
    with pytest.raises(ConfigError, match="no clip"):
        measure([])
