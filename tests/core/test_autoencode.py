"""Numbers on both sides of the autoencoder: scaled latents, pixel levels, frames that are taken."""

from pathlib import Path

import numpy as np
import pytest

from duosora.core.config.schema import EvaluateConfig
from duosora.core.evaluate.clips import prepare
from duosora.core.io.images import write_image
from duosora.core.maths.pixels import from_uint8, from_unit, to_uint8, to_unit
from duosora.core.models.wfvae import WFVAESpec
from duosora.core.pipelines.autoencode import scale_latents, unscale_latents
from duosora.core.pipelines.reconstruct import open_clip

SPEC = WFVAESpec(latent_dim=2, scale=(0.5, 4.0), shift=(1.0, -3.0))


def test_latents_are_shifted_then_scaled_channel_by_channel() -> None:
    latents = np.full((2, 2, 3, 1, 1), 2.0, np.float32)
    scaled = scale_latents(SPEC, latents)
    assert scaled.dtype == np.float32
    assert (scaled[:, 0] == 0.5).all()
    assert (scaled[:, 1] == 20.0).all()


def test_unscaling_inverts_scaling() -> None:
    latents = np.random.default_rng(0).standard_normal((2, 2, 3, 4, 5), dtype=np.float32)
    unscaled = unscale_latents(SPEC, scale_latents(SPEC, latents))
    assert unscaled.dtype == np.float32
    np.testing.assert_allclose(unscaled, latents, rtol=0, atol=1e-6)


def test_pixel_levels_are_cut_off_and_clamped() -> None:
    video = np.array([-7.0, -1.0, 0.0, 0.99, 1.0, 7.0], np.float32).reshape(1, 1, 6, 1, 1).repeat(3, axis=1)
    levels = to_uint8(video)
    assert levels.shape == (1, 6, 1, 1, 3)
    assert levels.dtype == np.uint8
    # 0 is level 127.5 and 0.99 is 253.7.
    assert levels[0, :, 0, 0, 0].tolist() == [0, 0, 127, 253, 255, 255]


def test_colours_go_last_in_pixel_levels() -> None:
    video = np.zeros((2, 3, 4, 5, 6), np.float32)
    video[:, 1] = 1.0
    levels = to_uint8(video)
    assert levels.shape == (2, 4, 5, 6, 3)
    assert (levels[..., 1] == 255).all()
    assert (levels[..., 2] == 127).all()


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_levels_become_numbers_from_minus_one_to_one(dtype: type) -> None:
    pixels = from_uint8(np.array([0, 51, 255], dtype))
    assert pixels.dtype == np.float32
    np.testing.assert_allclose(pixels, [-1.0, -0.6, 1.0], atol=1e-6)


def test_a_level_loses_at_most_one_on_the_way_there_and_back() -> None:
    levels = np.arange(256, dtype=np.uint8)
    video = from_uint8(levels).reshape(1, 1, 256, 1, 1).repeat(3, axis=1)
    lost = levels - to_uint8(video)[0, :, 0, 0, 0].astype(int)
    assert set(lost) <= {0, 1}


def test_unit_range_and_symmetric_range_are_each_others_inverse() -> None:
    pixels = np.linspace(0, 1, 11, dtype=np.float32)
    np.testing.assert_allclose(from_unit(pixels), np.linspace(-1, 1, 11), atol=1e-6)
    np.testing.assert_allclose(to_unit(from_unit(pixels)), pixels, atol=1e-6)


def test_a_picture_is_one_frame_however_many_are_asked_for(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", np.zeros((16, 16, 3), np.uint8))
    assert open_clip(tmp_path / "a.png", SPEC, num_frames=9).shape.frames == 1
    (outcome,) = prepare(tmp_path / "a.png", tmp_path / "a.png", EvaluateConfig(frames=9)).outcomes()
    assert outcome.shape is not None
    assert outcome.shape.frames == 1
