"""Classifier-free guidance on predictions of any framework: plain operators and methods, and the dtype is kept.

Sources: Ho and Salimans 2022, arXiv:2207.12598; Lin et al. 2023, arXiv:2305.08891, section 3.4 (rescaling).
"""

from __future__ import annotations

from .base import Array


def split_guidance(batch: Array) -> tuple[Array, Array]:
    """(conditional, unconditional) halves of a batch that holds [negative prompts, prompts] along its first axis."""
    half = batch.shape[0] // 2
    return batch[half:], batch[:half]


def guide(conditional: Array, unconditional: Array, scale: float) -> Array:
    """unconditional + scale * (conditional - unconditional); shapes alike, a scale of 1 gives back conditional."""
    return unconditional + float(scale) * (conditional - unconditional)


def rescale(guided: Array, conditional: Array, amount: float) -> Array:
    """Pull the contrast of a guided prediction back to the conditional one's.

    Each sample of `guided` (B, ...) is scaled to the standard deviation that `conditional` (B, ...) has over all axes
    but the batch; the result mixes `amount` (0 to 1) of that with 1 - amount of `guided`.
    """
    factor = _spread(conditional) / _spread(guided)
    mix = float(amount) * factor + (1.0 - float(amount))
    return guided * mix.reshape(-1, *[1] * (len(guided.shape) - 1))


def _spread(x: Array) -> Array:
    """Standard deviation of each sample, (B,), up to a factor that is the same for all arrays of one shape."""
    flat = x.reshape(x.shape[0], -1)
    centered = flat - flat.mean(-1).reshape(-1, 1)
    return (centered * centered).mean(-1) ** 0.5
