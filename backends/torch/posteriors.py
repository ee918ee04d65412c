"""What an autoencoder makes of a clip, and how latents are drawn from it."""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

from torch import Tensor

from duosora.core.maths.gaussian import LOG_VARIANCE_RANGE


class Encoded(NamedTuple):
    """What became of a clip on its way into latents, float32."""

    latents: Tensor
    """(B, C, t, h, w), drawn from the last moments, or their means."""
    moments: dict[str, Tensor]
    """Mean, then log-variance (B, 2C, t, h, w), by name: those of spec.posteriors."""


Levels: TypeAlias = Tensor | tuple[Tensor, ...]
"""One tensor, or one of each level."""


class Reconstruction(NamedTuple):
    """A clip through an autoencoder, with what its losses look at."""

    pixels: Tensor | None
    """(B, 3, T, H, W); None where nobody asked for them."""
    latents: Tensor
    """As Encoded.latents."""
    moments: dict[str, Tensor]
    """As Encoded.moments."""
    pairs: dict[str, tuple[Levels, Levels]]
    """What is to become alike beside the pixels, by names of spec.pairs; those that this clip has."""


def draw(moments: Tensor, noise: Tensor | None) -> Tensor:
    """A draw (B, C, ...) from moments (B, 2C, ...) with unit noise; without it the means."""
    if noise is None:
        return moments.chunk(2, 1)[0]
    mean, log_variance = split_moments(moments)
    return mean + (0.5 * log_variance).exp() * noise


def split_moments(moments: Tensor) -> tuple[Tensor, Tensor]:
    """Moments (B, 2C, ...) to mean and clamped log-variance, each (B, C, ...)."""
    channels = moments.shape[1] // 2
    return moments[:, :channels], moments[:, channels:].clamp(*LOG_VARIANCE_RANGE)
