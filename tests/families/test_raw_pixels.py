"""The autoencoder without weights: what its family has beside what holds for all."""

import json
from pathlib import Path

import numpy as np
import pytest

from duosora.core.errors import ConfigError
from duosora.core.maths.pixels import from_uint8, to_uint8
from duosora.core.models.finding import open_part, recognise
from duosora.core.models.raw_pixels import PRESETS, RawPixelsSpec
from duosora.core.pipelines.autoencode import decode_chunks, encode_latents, scale_latents, unscale_latents
from duosora.core.seam.backend import Backend
from duosora.core.shapes import VideoShape
from duosora.core.train.start import check_frozen


def test_it_is_no_model_that_lacks_its_weights() -> None:
    for name in PRESETS:
        part = open_part("vae", name)
        part.check()
        assert not part.is_fresh
        assert dict(part.open()) == {}


def test_a_folder_needs_nothing_but_a_config(tmp_path: Path, backend: Backend) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"pixel_range": 0.5}))
    part = recognise(tmp_path)
    part.check()
    assert part.spec == PRESETS["pixels_half"]
    assert backend.build(part.spec, part.open()) is not None


def test_pixels_come_back_as_they_are_and_reach_a_denoiser_in_their_range(backend: Backend) -> None:
    spec = PRESETS["pixels_half"]
    frames = np.arange(3 * 2 * 3 * 5, dtype=np.uint8).reshape(1, 2, 3, 5, 3)
    video, model = np.moveaxis(from_uint8(frames), -1, 1), backend.build(spec, open_part("vae", "pixels_half").open())
    latents = encode_latents(backend, model, spec, video)
    np.testing.assert_allclose(latents, np.moveaxis(frames, -1, 1) / 255 - 0.5, atol=1e-6)
    (made,) = decode_chunks(backend, model, spec, unscale_latents(spec, latents))
    np.testing.assert_allclose(made, video, atol=1e-7)
    np.testing.assert_array_equal(to_uint8(made), to_uint8(video))


def test_calibrated_it_gives_mean_0_and_deviation_1() -> None:
    spec = PRESETS["pixels_half"].calibrated([0.1, 0.2, -0.3], [0.5, 0.25, 0.4])
    assert RawPixelsSpec.from_config(spec.to_config()) == spec
    pixels = np.array([0.6, 0.45, 0.1], np.float32).reshape(1, 3, 1, 1, 1)
    np.testing.assert_allclose(scale_latents(spec, pixels).ravel(), 1, rtol=1e-6)


def test_any_size_and_any_number_of_frames_will_do() -> None:
    assert RawPixelsSpec().compression.latent(VideoShape(7, 5, 9)) == (7, 5, 9)


def test_there_is_nothing_to_train() -> None:
    with pytest.raises(ConfigError, match=r"^RawPixels has no weights, so there is nothing to train$"):
        check_frozen(RawPixelsSpec().layout(), ())


def test_a_mean_of_other_colours_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^x: latents_mean: needs 3 numbers, one of each colour$"):
        RawPixelsSpec.from_config({"latents_mean": [0.5]}, "x")
