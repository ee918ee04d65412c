"""From a batch of clips to what a denoiser is trained on: text states, scaled latents, noise, timesteps, condition.

Everything random comes from streams keyed by the number of the sample in the whole run, and every sample is encoded
and padded by itself. So a sample's part of a batch is the same however a step is split into micro-batches and ranks.
Source: Open-Sora Plan v1.3, train_t2v_diffusers.py and train_inpaint.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, Protocol

import numpy as np

from .. import random
from ..conditioning.channels import Channels
from ..data.batch import ClipBatch
from ..errors import ConfigError
from ..maths import gaussian
from ..pipelines.autoencode import encode_latents, posterior_noise, scale_latents
from ..pipelines.text import pad_states
from ..seam.training import DiffusionBatch
from ..shapes import LatentShape, VideoShape
from .encoders import CaptionEncoder, ClipEncoder
from .objectives import Draws

CONDITION_NOISE_SHARE = 0.95
"""Of the samples, have noise on their given pixels where an inpaint model is trained with it."""
CONDITION_NOISE_LOG_MEAN, CONDITION_NOISE_LOG_SPREAD = -3.0, 0.5
"""Of the logarithm of that noise's standard deviation."""


class DrawsNoise(Protocol):
    """What the network learns, and at which timesteps: an objective of core.train.objectives."""

    def draw(self, seed: int, samples: Sequence[int], step: int) -> Draws:
        """A sample's timestep and coefficients; they depend on the seed, its own number and the step only."""


@dataclass(frozen=True)
class InputOptions:
    """What is random about the inputs beside the timestep."""

    noise_offset: float = 0.0
    """Strength of a further draw of noise that a whole channel shares."""
    condition_noise: bool = False
    """Inpaint: put noise on most of the given pixels, so that the model does not copy them blindly."""


class _Sample(NamedTuple):
    """One sample's arrays, without padding."""

    latents: np.ndarray
    """(C, t, h, w)."""
    noise: np.ndarray
    condition: np.ndarray | None
    """(C + M, t, h, w)."""


class DiffusionInputs:
    """Makes a denoiser's batches from clips; holds the frozen models and the seed of the run."""

    def __init__(
        self,
        seed: int,
        texts: CaptionEncoder,
        clips: ClipEncoder,
        objective: DrawsNoise,
        options: InputOptions | None = None,
        sees_channels: bool = False,
    ) -> None:
        self.seed, self.texts, self.clips, self.objective = seed, texts, clips, objective
        self.options = options or InputOptions()
        self.sees_channels = sees_channels

    def prepare(self, batches: Sequence[ClipBatch]) -> None:
        """Have at hand what machines make once for all their ranks; CaptionEncoder.prepare says who calls it."""
        self.texts.prepare([caption for batch in batches for caption in _without_states(batch)])

    def make(self, batch: ClipBatch, step: int = 0) -> DiffusionBatch:
        """The denoiser's batch. step: of the optimiser; a validation set that keeps it fixed sees the same noise.

        Raises: ConfigError when an inpaint model gets latents without pixels or without the mask of their frames.
        """
        if self.sees_channels and (batch.pixels is None or batch.frame_mask is None):
            raise ConfigError(
                "an inpaint model needs the pixels of each clip and the mask of its frames: train it without a latent "
                "cache and with condition masks"
            )
        samples = [self._sample(batch, row, step) for row in range(len(batch.samples))]
        padded = None if batch.mask is None else LatentShape(*batch.mask.shape[1:])
        states, text_mask = pad_states(self._texts(batch))
        conditions = [sample.condition for sample in samples if sample.condition is not None]
        return DiffusionBatch(
            latents=_joined([sample.latents for sample in samples], padded),
            noise=_joined([sample.noise for sample in samples], padded),
            text=states,
            text_mask=text_mask,
            mask=batch.mask,
            condition=_joined(conditions, padded) if conditions else None,
            **self.objective.draw(self.seed, batch.samples, step)._asdict(),
        )

    def _texts(self, batch: ClipBatch) -> list[np.ndarray]:
        """States (L, D) of each caption."""
        encoded = iter(self.texts.states(_without_states(batch)))
        given = batch.text or (None,) * len(batch.captions)
        return [next(encoded) if states is None else states for states in given]

    def _sample(self, batch: ClipBatch, row: int, step: int) -> _Sample:
        number = batch.samples[row]
        clip = None if batch.pixels is None else self._unpadded(batch, row, batch.pixels[row])
        moments = None if batch.moments is None else _cut(batch.moments[row], _valid(batch, row))
        if moments is None:
            assert clip is not None, "a batch holds pixels or moments"
            moments = self.clips.moments(clip)
        posterior = random.normal((len(moments) // 2, *moments.shape[1:]), self.seed, "posterior", number, step)
        latents = scale_latents(self.clips.spec, gaussian.sample(moments[None], posterior[None]))[0]
        condition = None
        if self.sees_channels and clip is not None and batch.frame_mask is not None:
            condition = self._condition(clip, batch.frame_mask[row, : clip.shape[1]], number, step)
        return _Sample(latents.astype(np.float32), self._noise(latents.shape, number, step), condition)

    def _noise(self, shape: tuple[int, ...], number: int, step: int) -> np.ndarray:
        noise = random.normal(shape, self.seed, "noise", number, step)
        if self.options.noise_offset:
            offset = random.normal((shape[0], 1, 1, 1), self.seed, "noise offset", number, step)
            noise = noise + np.float32(self.options.noise_offset) * offset
        return noise

    def _condition(self, clip: np.ndarray, frame_mask: np.ndarray, number: int, step: int) -> np.ndarray:
        encoder, video = self.clips, VideoShape(*clip.shape[1:])
        noise = posterior_noise(
            encoder.spec, video, self.seed, partial(random.normal, sample=number, step=step), "condition posterior"
        )
        drawn = {name: values[None] for name, values in noise.items()}
        pixel_noise = None
        if self.options.condition_noise:
            draw = random.stream(self.seed, "condition noise", number, step)
            has_noise = draw.random() < CONDITION_NOISE_SHARE
            strength = np.exp(CONDITION_NOISE_LOG_MEAN + CONDITION_NOISE_LOG_SPREAD * draw.standard_normal())
            if has_noise:
                pixel_noise = np.float32(strength) * draw.standard_normal(clip.shape, dtype=np.float32)

        def encode(visible: np.ndarray) -> np.ndarray:
            return encode_latents(encoder.backend, encoder.model(), encoder.spec, visible[None], drawn, encoder.chunk)[
                0
            ]

        return Channels(encoder.spec.compression).encoded(clip, frame_mask, encode, pixel_noise)

    def _unpadded(self, batch: ClipBatch, row: int, pixels: np.ndarray) -> np.ndarray:
        """The part of a clip that its valid latents span."""
        valid = _valid(batch, row)
        return pixels if valid is None else _cut(pixels, self.clips.spec.compression.video(valid))


def _without_states(batch: ClipBatch) -> list[str]:
    """The captions that have to be encoded."""
    given = batch.text or (None,) * len(batch.captions)
    return [caption for caption, states in zip(batch.captions, given, strict=True) if states is None]


def _valid(batch: ClipBatch, row: int) -> LatentShape | None:
    """The latents of a sample that are no padding; they are a box that begins at 0."""
    if batch.mask is None:
        return None
    is_valid = batch.mask[row] > 0
    axes = ((1, 2), (0, 2), (0, 1))
    return LatentShape(*(int(is_valid.any(axis=others).sum()) for others in axes))


def _cut(array: np.ndarray, shape: tuple[int, int, int] | None) -> np.ndarray:
    """The first frames, rows and columns of (C, T, H, W)."""
    return array if shape is None else array[:, : shape[0], : shape[1], : shape[2]]


def _joined(arrays: Sequence[np.ndarray], shape: tuple[int, int, int] | None) -> np.ndarray:
    """Arrays (C, t, h, w) as one, with zeros behind those that are smaller than the shape."""
    if shape is None:
        return np.stack(arrays)
    joined = np.zeros((len(arrays), len(arrays[0]), *shape), np.float32)
    for row, array in zip(joined, arrays, strict=True):
        _cut(row, LatentShape(*array.shape[1:]))[...] = array
    return joined
