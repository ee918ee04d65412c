"""What the models that a backend builds are called with, and what they answer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np

from ..shapes import LatentShape

Array = Any
"""A framework's tensor. core only adds, multiplies, slices, reshapes and asks for its shape."""
Model = Any
"""A framework's model of one of the specs in core.models: a Denoiser, an Autoencoder or a TextEncoder."""
Condition = Any
"""What a denoiser made of all that does not change from step to step."""


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
    """(B,) booleans: the model's own learned null caption stands in for the text, under the text's mask, or its null
    class for the label."""
    label: np.ndarray | None = None
    """(B,) whole numbers of classes."""
    pooled: np.ndarray | None = None
    """One vector of each text, (B, D) float32."""
    fps: np.ndarray | None = None
    """(B,) frames per second."""
    height: np.ndarray | None = None
    """(B,) pixels."""
    width: np.ndarray | None = None
    """(B,) pixels."""
    num_frames: np.ndarray | None = None
    """(B,) of the clip itself, not of its latents."""
    ratio: np.ndarray | None = None
    """(B,) height / width."""
    frame_mask: np.ndarray | None = None
    """(B, T) booleans of latent frames, False where a frame is clean and not denoised; None: all are denoised. What is
    predicted for clean frames means nothing."""
    kept: np.ndarray | None = None
    """(B, blocks, 2) float32, what the self-attention and the feed-forward of each block are multiplied by: 0 where
    training leaves them out, and more than 1 where it might have; None: 1."""
    latent_mask: np.ndarray | None = None
    """(B, T, H, W), above 0 where latents are no padding, for clips of unequal size; None: none is."""


class Denoiser(Protocol):
    """A network that predicts what is noise in latents."""

    def condition(self, given: Given, latent: LatentShape) -> Condition:
        """Everything that does not depend on the timestep, for one network batch.

        Raises: ShapeError when something that the model reads is missing or does not fit.
        """

    def with_frames(self, condition: Condition, frame_mask: np.ndarray | None) -> Condition:
        """A condition with another mask of frames, as Given.frame_mask, for denoisers that read it."""

    def __call__(self, latents: Array, timestep: Array, condition: Condition) -> Array:
        """Latents (B, C, T, H, W), followed by further channels where the spec has some, and timesteps (B,) ->
        prediction (B, C, T, H, W) float32, behind which there may be further channels: spec.output says which."""


class Stream(Protocol):
    """What an autoencoder keeps of one clip between its chunks."""

    def advance(self, is_last: bool) -> None:
        """Go on to the next chunk."""


class Encoded(NamedTuple):
    """What an autoencoder makes of a clip, float32."""

    latents: Array
    """(B, C, t, h, w)."""
    moments: dict[str, Array]
    """Mean, then log-variance (B, 2C, ...), by the names of spec.posteriors."""


class Autoencoder(Protocol):
    """Pixels to latents and back. Latents here are unscaled."""

    def encode(self, video: Array, noise: Mapping[str, Array] | None = None, stream: Stream | None = None) -> Encoded:
        """Pixels (B, 3, T, H, W) in [-1, 1] -> latents, drawn with unit noise in the shapes of spec.noise_shapes.

        noise: by the names of spec.posteriors; where one is missing the means are taken.
        """

    def decode(self, latents: Array, num_frames: int | None = None, stream: Stream | None = None) -> Array:
        """Latents (B, C, t, h, w) -> pixels (B, 3, num_frames, H, W) float32 in about [-1, 1], not clamped.

        num_frames: with a stream those of this chunk; a spec that `streams_exactly` needs none.
        """

    def stream(self, upstream_tiling: bool = False) -> Stream:
        """The state for one clip that is encoded or decoded in chunks. upstream_tiling: of families that have it."""


class TextEncoder(Protocol):
    """Token ids to states."""

    def __call__(self, ids: Array, mask: Array) -> Array:
        """Ids (B, L) and mask (B, L), above 0 where a token counts -> states (B, L, D) float32."""

    def encode(self, texts: Iterable[tuple[Array, Array]]) -> Iterator[Array]:
        """What the call gives of each of some batches, ids and mask. An encoder that reads its weights from the file
        reads them once for all."""
