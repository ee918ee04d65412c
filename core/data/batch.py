"""What the data side hands to training: one micro-batch of clips with their captions, in numpy."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from ..shapes import VideoShape


@dataclass(frozen=True)
class ReadFailure:
    """A record that could not be used, and which one took its place."""

    path: str
    reason: str
    """One line."""
    replaced_by: str | None = None


@dataclass(frozen=True)
class ClipBatch:
    """One micro-batch. All that is random about it follows from the seed, the epoch and the records."""

    pixels: np.ndarray | None
    """(B, 3, T, H, W) float32 in [-1, 1], padded with 0 at the end of each axis; None where they are not read."""
    mask: np.ndarray | None
    """(B, t, h, w) float32 of the latents, 1 where they are no padding; None: no padding anywhere."""
    captions: tuple[str, ...]
    """Cleaned; "" where a caption was dropped for guidance and the denoiser has no null caption of its own."""
    samples: tuple[int, ...]
    """The number of each sample in the whole run (rising over steps): names its random streams."""
    sources: tuple[str, ...]
    """The file of each sample, for reports."""
    moments: np.ndarray | None = None
    """(B, 2C, t, h, w) float32 of the autoencoder, from a latent cache."""
    latents: np.ndarray | None = None
    """(B, C, t, h, w) float32, scaled: where they were drawn before."""
    labels: tuple[int, ...] = ()
    """The number of each clip's class; (): they have captions instead."""
    text: tuple[np.ndarray | None, ...] | None = None
    """(L, D) float32 for each caption that comes with its states; None: none does."""
    frame_mask: np.ndarray | None = None
    """Inpaint training: (B, T) float32, 1 = to generate, 0 = given (core.maths.masks)."""
    sizes: tuple[VideoShape, ...] = ()
    """Of each clip in pixels, without padding."""
    fps: tuple[float, ...] = ()
    """Frames per second that each clip is shown at; of a picture it means nothing."""
    bucket: str | None = None
    """Resolution and frames of the bucket that all clips are in, as "240p 51", where there are buckets."""
    is_null: tuple[bool, ...] = ()
    """Of each caption or label, whether the denoiser's learned null caption or class is to stand in for it; (): of
    none."""
    failures: tuple[ReadFailure, ...] = field(default=())
    """What had to be replaced while this batch was made."""
