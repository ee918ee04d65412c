"""The variational bound of a diffusion in bits: what teaches a denoiser its variance.

Source: Nichol and Dhariwal 2021, arXiv:2102.09672, equations 5 to 8 and 16.
"""

from __future__ import annotations

from math import log, pi

import numpy as np
import torch
from torch import Tensor

from duosora.core.seam.training import DiffusionBatch

from .layers import place

LEAST_PROBABILITY = 1e-12
EDGE = 0.999
"""Latents beyond it fall into the outermost bins, which are open."""


def column(values: np.ndarray, like: Tensor) -> Tensor:
    """Numbers of the samples (B,) or of their frames (B, T) as (B, 1, 1 or T, 1, 1) float32."""
    return place(values.astype(np.float32), like.device).reshape(len(values), 1, -1, *[1] * (like.ndim - 3))


def bound_terms(batch: DiffusionBatch, errors: Tensor, variance: Tensor | None, latents: Tensor) -> Tensor:
    """The weighted bound of each latent in bits, as DiffusionBatch.bound_weights says it.

    errors: of the prediction, variance: what is said of it (None: nothing); all (B, C, T, H, W) float32.
    """
    weights, gain, log_range, half_bin = (
        np.asarray(each) for each in (batch.bound_weights, batch.gain, batch.log_range, batch.half_bin)
    )
    if np.any(batch.weights):
        errors = errors.detach()
    share = 1.0 if variance is None else (variance + 1.0) * 0.5
    wider, away = column(log_range, latents) * share, column(gain, latents) * errors
    nats = 0.5 * (wider - 1.0 + torch.exp(-wider) * (1.0 + away * away))
    if np.any(half_bin):
        half = column(half_bin, latents)
        nats = torch.where(half > 0, _surprise(torch.exp(-0.5 * wider), away, half, latents), nats)
    return nats * column(weights / log(2.0), latents)


def _surprise(narrower: Tensor, away: Tensor, half_bin: Tensor, latents: Tensor) -> Tensor:
    """Minus the log likelihood of the latents' bins under a Gaussian whose mean is `away` from them."""
    below_end, above_start = _normal_cdf(narrower * (half_bin - away)), _normal_cdf(narrower * (half_bin + away))
    # Both in the lower tail, where float32 tells small numbers apart; near 1 their difference would be rounding.
    far = away.abs()
    inside = _normal_cdf(narrower * (half_bin - far)) - _normal_cdf(narrower * (-half_bin - far))
    probability = torch.where(latents < -EDGE, below_end, torch.where(latents > EDGE, above_start, inside))
    return -_log(probability)


def _normal_cdf(x: Tensor) -> Tensor:
    # (1 + tanh(...)) / 2 in the approximation that published losses have, written such that small numbers stay exact.
    return torch.sigmoid(2.0 * (2.0 / pi) ** 0.5 * (x + 0.044715 * (x * x * x)))


def _log(probability: Tensor) -> Tensor:
    return torch.log(probability.clamp(min=LEAST_PROBABILITY))
