"""How a run is given more than text: what of a clip is given, and what its sampling starts from.

A conditioner is the way of a denoiser: further channels beside the latents (channels.py), or latents that some frames
start from (references.py); without one a run starts from noise.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np

from ..shapes import VideoShape

Encode = Callable[[np.ndarray, str], np.ndarray]
"""Pixels (3, T, H, W) in [-1, 1] to scaled latents (C, t, h, w); the text names the noise that they are drawn with."""


@dataclass(frozen=True)
class ClipState:
    """What the sampling of one clip starts from."""

    latents: np.ndarray
    """(C, t, h, w) float32: unit noise, or what is given where something is."""
    channels: np.ndarray | None = None
    """(C', t, h, w) that the denoiser sees beside its latents."""
    strength: np.ndarray | None = None
    """(t,) float32: 1 where a frame is made from noise alone, 0 where it stays, between them from where it starts.
    None: all are made from noise."""


Given = TypeVar("Given", contravariant=True)
Placed = TypeVar("Placed")


class Conditioner(Protocol[Given, Placed]):
    """One way to give more than text."""

    def place(self, given: Given, video: VideoShape, seed: int) -> Placed:
        """Put what is given where it belongs. Raises: DuosoraError for what does not fit, before any long work."""

    def start(self, placed: Placed, latents: np.ndarray, encode: Encode, seed: int) -> ClipState:
        """What sampling starts from, for unit noise (C, t, h, w); all else that is random comes from the seed."""
