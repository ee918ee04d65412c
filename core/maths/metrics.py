"""How alike two videos are: PSNR and SSIM, frame by frame."""

from __future__ import annotations

import numpy as np

from ..errors import ShapeError

PEAK = 255.0
PSNR_LIMIT = 100.0
"""dB, with which evaluation scripts usually count equal frames."""
SSIM_SIGMA = 1.5
SSIM_RADIUS = 5
SSIM_WINDOW = 2 * SSIM_RADIUS + 1
SSIM_SHARES = (0.01, 0.03)
"""Of the peak, whose squares keep the quotient steady."""


def psnr(frames: np.ndarray, reference: np.ndarray, peak: float = PEAK) -> np.ndarray:
    """Peak signal-to-noise ratio in dB of frames (T, H, W, C): (T,); infinite where frames are equal.

    They are uint8, or floats of 0 to peak.
    """
    _check_alike(frames, reference)
    error: np.ndarray = frames.astype(np.int32 if frames.dtype == np.uint8 else np.float64)
    error -= reference
    error *= error
    mean = error.mean(axis=(1, 2, 3), dtype=np.float64)
    with np.errstate(divide="ignore"):
        return 10 * np.log10(peak**2 / mean)


def finite_psnr(values: np.ndarray) -> np.ndarray:
    """PSNR in dB cut off at PSNR_LIMIT, so that equal frames can be averaged with others and written to JSON."""
    return np.minimum(values, PSNR_LIMIT)


def ssim(frames: np.ndarray, reference: np.ndarray, peak: float = PEAK) -> np.ndarray:
    """Structural similarity of frames (T, H, W, C) of 0 to peak: (T,).

    The form of the paper: 11 x 11 Gaussian window with sigma 1.5, population covariance, windows inside the frame
    only, mean over pixels and channels. scikit-image gives the same with gaussian_weights=True,
    use_sample_covariance=False.
    Source: Wang et al. 2004, "Image quality assessment: from error visibility to structural similarity".
    Raises: ShapeError when frames are smaller than the window.
    """
    _check_alike(frames, reference)
    if min(frames.shape[1:3]) < SSIM_WINDOW:
        raise ShapeError(
            f"SSIM needs frames of at least {SSIM_WINDOW}x{SSIM_WINDOW} pixels, not {frames.shape[1]}x{frames.shape[2]}"
        )
    pairs = zip(frames, reference, strict=True)
    return np.array([_ssim_of_frame(a, b, peak) for a, b in pairs])


def _ssim_of_frame(frame: np.ndarray, reference: np.ndarray, peak: float) -> float:
    """Channel by channel, which takes a third of the memory: a large picture has gigabytes of float64."""
    channels = (
        _ssim_of_channel(a.astype(np.float64), b.astype(np.float64), peak)
        for a, b in zip(np.moveaxis(frame, 2, 0), np.moveaxis(reference, 2, 0), strict=True)
    )
    return float(np.mean(list(channels)))


def _ssim_of_channel(a: np.ndarray, b: np.ndarray, peak: float) -> float:
    mean_a, mean_b = _blur(a), _blur(b)
    variance_a, variance_b = _blur(a * a) - mean_a**2, _blur(b * b) - mean_b**2
    covariance = _blur(a * b) - mean_a * mean_b
    c1, c2 = ((share * peak) ** 2 for share in SSIM_SHARES)
    likeness = (2 * mean_a * mean_b + c1) * (2 * covariance + c2)
    return float((likeness / ((mean_a**2 + mean_b**2 + c1) * (variance_a + variance_b + c2))).mean())


def _blur(image: np.ndarray) -> np.ndarray:
    """Gaussian average of (H, W) where the whole window fits: (H - 10, W - 10)."""
    taps = np.exp(-0.5 * (np.arange(-SSIM_RADIUS, SSIM_RADIUS + 1) / SSIM_SIGMA) ** 2)
    taps /= taps.sum()
    for axis in (0, 1):
        windows = np.lib.stride_tricks.sliding_window_view(image, len(taps), axis)
        image = windows @ taps
    return image


def _check_alike(frames: np.ndarray, reference: np.ndarray) -> None:
    if frames.shape != reference.shape:
        raise ShapeError(f"videos of different sizes cannot be compared: {frames.shape} and {reference.shape}")
