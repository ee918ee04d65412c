"""The diagonal Gaussian of an autoencoder's latents, from its moments (mean and log-variance stacked on channels)."""

from __future__ import annotations

import numpy as np

LOG_VARIANCE_RANGE = (-30.0, 20.0)


def split_moments(moments: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Moments (B, 2C, T, H, W) to mean and clamped log-variance, each (B, C, T, H, W)."""
    mean, log_variance = np.split(moments, 2, axis=1)
    return mean, np.clip(log_variance, *LOG_VARIANCE_RANGE)


def standard_deviation(moments: np.ndarray) -> np.ndarray:
    """(B, 2C, T, H, W) to (B, C, T, H, W)."""
    return np.exp(0.5 * split_moments(moments)[1])


def sample(moments: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """A draw from the Gaussian, for standard normal noise (B, C, T, H, W)."""
    return split_moments(moments)[0] + standard_deviation(moments) * noise


def kl(moments: np.ndarray) -> np.ndarray:
    """Divergence from the standard normal, summed over channels, frames and height as upstream does: (B, W)."""
    mean, log_variance = split_moments(moments)
    return 0.5 * np.sum(mean**2 + np.exp(log_variance) - 1.0 - log_variance, axis=(1, 2, 3))


def negative_log_likelihood(moments: np.ndarray, value: np.ndarray) -> np.ndarray:
    """-log p(value) under the Gaussian, summed over channels, frames and height as upstream does: (B, W)."""
    mean, log_variance = split_moments(moments)
    terms = np.log(2.0 * np.pi) + log_variance + (value - mean) ** 2 / np.exp(log_variance)
    return 0.5 * np.sum(terms, axis=(1, 2, 3))
