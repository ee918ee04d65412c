"""What a denoiser is given beside latents and timesteps."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Given:
    """Everything for a whole network batch that does not change from step to step; None: not given.

    What has fewer rows than `text` is repeated: with two rows for four texts, they stand for the first two and again
    for the last two.
    """

    text: np.ndarray | None = None
    """States of the text encoder, (B, L, D) float32."""
    text_mask: np.ndarray | None = None
    """(B, L), above 0 where a token counts; None: all."""
    is_null: np.ndarray | None = None
    """(B,) booleans: the model's own learned null caption stands in for the text, under the text's mask."""
    fps: np.ndarray | None = None
    """(B,) frames per second."""
    height: np.ndarray | None = None
    """(B,) pixels."""
    width: np.ndarray | None = None
    """(B,) pixels."""
