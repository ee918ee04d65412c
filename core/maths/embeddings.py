"""Frequencies of the sinusoidal timestep embedding."""

from __future__ import annotations

import numpy as np

MAX_PERIOD = 10000.0


def timestep_frequencies(channels: int) -> np.ndarray:
    """Angular frequencies exp(-ln(10000) i / (channels / 2)), (channels / 2,) float32.

    The embedding of timestep t is [cos(t * f), sin(t * f)], cosines first. The exponent is rounded to float32 before
    the exponential, as it was where the models were trained: at t = 999 the angles would be off by 2e-4 otherwise.
    Source: Ho et al. 2020 with diffusers' settings flip_sin_to_cos and downscale_freq_shift 0.
    """
    half = channels // 2
    exponent = np.arange(half, dtype=np.float32) * np.float32(-np.log(MAX_PERIOD)) / np.float32(half)
    return np.exp(exponent.astype(np.float64)).astype(np.float32)
