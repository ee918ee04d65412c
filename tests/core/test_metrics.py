"""PSNR and SSIM against scikit-image and torchmetrics."""

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torchmetrics.functional import image as torchmetrics

from duosora.core.errors import ShapeError
from duosora.core.maths.metrics import PSNR_LIMIT, finite_psnr, psnr, ssim


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


def test_both_equal_torchmetrics(videos: tuple[np.ndarray, np.ndarray]) -> None:
    frames, reference = (torch.from_numpy(video).double().permute(0, 3, 1, 2) for video in videos)
    theirs = torchmetrics.peak_signal_noise_ratio(frames, reference, 255.0, reduction="none", dim=(1, 2, 3))
    np.testing.assert_allclose(psnr(*videos), theirs.numpy(), rtol=1e-7)  # it takes the logarithm in float32
    _, likeness = torchmetrics.structural_similarity_index_measure(
        frames, reference, data_range=255.0, reduction="none", return_full_image=True
    )
    whole_windows = likeness[..., 5:-5, 5:-5]  # its mean would count those that reach over the border too
    np.testing.assert_allclose(ssim(*videos), whole_windows.mean((1, 2, 3)).numpy(), rtol=1e-6)


def test_a_finite_psnr_leaves_all_but_equal_frames_alone(videos: tuple[np.ndarray, np.ndarray]) -> None:
    half_equal = np.concatenate([videos[0][:1], videos[1][1:]])
    found = finite_psnr(psnr(half_equal, videos[0]))
    assert found[0] == PSNR_LIMIT
    np.testing.assert_array_equal(found[1:], psnr(videos[1][1:], videos[0][1:]))


def test_equal_videos_have_infinite_psnr_and_ssim_of_one(videos: tuple[np.ndarray, np.ndarray]) -> None:
    assert np.isinf(psnr(videos[0], videos[0])).all()
    np.testing.assert_allclose(ssim(videos[0], videos[0]), 1.0)


def test_videos_that_cannot_be_compared_are_refused(videos: tuple[np.ndarray, np.ndarray]) -> None:
    with pytest.raises(ShapeError, match="different sizes"):
        psnr(videos[0], videos[1][:2])
    with pytest.raises(ShapeError, match="at least 11x11"):
        ssim(videos[0][:, :10], videos[1][:, :10])


def test_floats_have_the_peak_that_is_said(videos: tuple[np.ndarray, np.ndarray]) -> None:
    shares = [video / 255 for video in videos]
    np.testing.assert_allclose(psnr(*shares, peak=1.0), psnr(*videos), rtol=1e-9)
    np.testing.assert_allclose(ssim(*shares, peak=1.0), ssim(*videos), rtol=1e-9)
