"""Frames that begin to move late in a run that starts from references, or never."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True, eq=False)
class FrameStarts:
    """When frames begin to move: tables (calls, B, T) of booleans.

    One step: `state = sampler.with_noise(x, noise, enters[i], i)`, the network sees state and `tells[i]`, and
    `x = choose(moves[i], sampler.step(state, prediction, i), x)`. So a frame that does not move keeps its latents.
    """

    moves: np.ndarray
    """Whether call i moves the frame."""
    enters: np.ndarray
    """Whether it moves for the first time, so that noise has to be mixed in before the call."""
    told: np.ndarray | None = None
    """Which frames the network is told to denoise; None: those that move."""

    @property
    def tells(self) -> np.ndarray:
        """Which frames the network of each call is told to denoise; it takes the others for clean."""
        return self.moves if self.told is None else self.told

    @property
    def draws_noise(self) -> tuple[bool, ...]:
        """For each call whether some frame needs unit noise."""
        return tuple(bool(any_) for any_ in self.enters.any(axis=(1, 2)))


def per_frame(flags: np.ndarray) -> np.ndarray:
    """Booleans of frames (B, T) as numbers that broadcast over latents, (B, 1, T, 1, 1) float32."""
    return flags.astype(np.float32)[:, None, :, None, None]


def choose(flags: Any, one: Any, other: Any) -> Any:
    """`one` where flags are 1.0, `other` where they are 0.0; exact, as long as both are finite.

    Arrays of any framework.
    """
    return flags * one + (1.0 - flags) * other
