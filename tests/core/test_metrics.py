"""PSNR and SSIM against scikit-image."""

import numpy as np
import pytest
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from duosora.core.errors import ShapeError
from duosora.core.maths.metrics import psnr, ssim


@pytest.fixture(scope="module")
def videos() -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    smooth = np.cumsum(generator.normal(size=(3, 40, 48, 3)), axis=2) * 12 + 128
    noisy = smooth + generator.normal(size=smooth.shape) * 9
    return tuple(np.clip(video, 0, 255).astype(np.uint8) for video in (smooth, noisy))


def test_psnr_equals_scikit_image(videos: tuple[np.ndarray, np.ndarray]) -> None:
    expected = [peak_signal_noise_ratio(a, b, data_range=255) for a, b in zip(*videos, strict=True)]
    np.testing.assert_allclose(psnr(*videos), expected, rtol=1e-12)


def test_ssim_equals_scikit_image_with_a_gaussian_window(videos: tuple[np.ndarray, np.ndarray]) -> None:
    options = {"data_range": 255, "channel_axis": -1, "gaussian_weights": True, "use_sample_covariance": False}
    expected = [structural_similarity(a, b, **options) for a, b in zip(*videos, strict=True)]
    np.testing.assert_allclose(ssim(*videos), expected, rtol=1e-9)


def test_equal_videos_have_infinite_psnr_and_ssim_of_one(videos: tuple[np.ndarray, np.ndarray]) -> None:
    assert np.isinf(psnr(videos[0], videos[0])).all()
    np.testing.assert_allclose(ssim(videos[0], videos[0]), 1.0)


def test_videos_that_cannot_be_compared_are_refused(videos: tuple[np.ndarray, np.ndarray]) -> None:
    with pytest.raises(ShapeError, match="different sizes"):
        psnr(videos[0], videos[1][:2])
    with pytest.raises(ShapeError, match="at least 11x11"):
        ssim(videos[0][:, :10], videos[1][:, :10])
