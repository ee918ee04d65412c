"""What an autoencoder makes of a clip, and how latents are drawn from it."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from duosora.core.maths.gaussian import LOG_VARIANCE_RANGE


class Encoded(NamedTuple):
    """What became of a clip on its way into latents, float32."""

    latents: Tensor
    """(B, C, t, h, w), drawn from the last moments, or their means."""
    moments: dict[str, Tensor]
    """Mean, then log-variance (B, 2C, t, h, w), by name: those of spec.posteriors."""


def draw(moments: Tensor, noise: Tensor | None) -> Tensor:
    """A draw (B, C, ...) from moments (B, 2C, ...) with unit noise; without it the means."""
    mean, log_variance = moments.chunk(2, 1)
    if noise is None:
        return mean
    return mean + (0.5 * log_variance.clamp(*LOG_VARIANCE_RANGE)).exp() * noise
