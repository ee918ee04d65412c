"""From a batch of clips to what a denoiser is trained on: what is given, scaled latents, noise, timesteps, condition.

Everything random comes from streams keyed by the number of the sample in the whole run, and every sample is encoded
and padded by itself. So a sample's part of a batch is the same however a step is split into micro-batches and ranks.
Sources: Open-Sora Plan v1.3, train_t2v_diffusers.py and train_inpaint.py; scripts/train.py of hpcaitech Open-Sora at
v1.2.0.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass, replace
from functools import partial
from random import Random
from typing import NamedTuple

import numpy as np

from .. import random
from ..conditioning.channels import Channels
from ..conditioning.clip_facts import facts_for
from ..data.batch import ClipBatch
from ..data.frame_masks import FrameMasks
from ..data.patch_lists import patches_of
from ..errors import ConfigError
from ..pipelines.autoencode import encode_latents, latents_of, posterior_noise, scale_latents
from ..pipelines.text import given_of
from ..seam.models import Given
from ..seam.training import DiffusionBatch
from ..shapes import LatentShape, VideoShape
from .encoders import CaptionEncoder, ClipEncoder
from .objectives import DrawsNoise

CONDITION_NOISE_SHARE = 0.95
"""Of the samples, have noise on their given pixels where an inpaint model is trained with it."""
CONDITION_NOISE_LOG_MEAN, CONDITION_NOISE_LOG_SPREAD = -3.0, 0.5
"""Of the logarithm of that noise's standard deviation."""


@dataclass(frozen=True)
class InputOptions:
    """What is random about the inputs beside the timestep."""

    noise_offset: float = 0.0
    """Strength of a further draw of noise that a whole channel shares."""
    condition_noise: bool = False
    """Inpaint: put noise on most of the given pixels, so that the model does not copy them blindly."""
    frame_masks: FrameMasks | None = None
    """Which latent frames are left clean, of denoisers that read it; None: none are."""
    drop_rates: Sequence[float] = ()
    """Of each of the denoiser's blocks, how often what it adds is left out; (): never."""
    counts_alike: bool = False
    """As in DiffusionBatch."""
    padding_counts: bool = False
    """As in DiffusionBatch."""
    list_side: int | None = None
    """Of the patches that clips are lists of, for denoisers that read these; None: clips stay as they are."""


class _Sample(NamedTuple):
    """One sample's arrays, without padding."""

    latents: np.ndarray
    """(C, t, h, w)."""
    noise: np.ndarray
    condition: np.ndarray | None
    """(C + M, t, h, w)."""

    def listed(self, side: int) -> _Sample:
        """As a list of patches, each a frame of its own: arrays (C, S, side, side)."""
        latents, noise = (patches_of(each.swapaxes(0, 1), side).swapaxes(0, 1) for each in (self.latents, self.noise))
        return _Sample(latents, noise, None)


class DiffusionInputs:
    """Makes a denoiser's batches from clips; holds the frozen models and the seed of the run."""

    def __init__(
        self,
        seed: int,
        texts: CaptionEncoder | None,
        clips: ClipEncoder,
        objective: DrawsNoise,
        options: InputOptions | None = None,
        reads: Set[str] = frozenset(("text", "latent_mask")),
    ) -> None:
        """texts: None where the denoiser reads labels. reads: what it does, of core.models.kinds.GIVEN."""
        self.seed, self.texts, self.clips, self.objective = seed, texts, clips, objective
        self.options = options or InputOptions()
        self.reads = reads

    def prepare(self, batches: Sequence[ClipBatch]) -> None:
        """Have at hand what machines make once for all their ranks; CaptionEncoder.prepare says who calls it."""
        if self.texts is not None:
            self.texts.prepare([caption for batch in batches for caption in _without_states(batch)])

    def make(self, batch: ClipBatch, step: int = 0, in_training: bool = True) -> DiffusionBatch:
        """The denoiser's batch. step: of the optimiser; a validation set that keeps it fixed sees the same noise.

        in_training: leave frames clean and parts of blocks out, as the options say.
        Raises: ConfigError when an inpaint model gets latents without pixels or without the mask of their frames.
        """
        if "channels" in self.reads and (batch.pixels is None or batch.frame_mask is None):
            raise ConfigError(
                "an inpaint model needs the pixels of each clip and the mask of its frames: train it without a latent "
                "cache and with condition masks"
            )
        samples = [self._sample(batch, row, step) for row in range(len(batch.samples))]
        mask = batch.mask
        if self.options.list_side is not None:
            samples = [sample.listed(self.options.list_side) for sample in samples]
            mask = _mask_of([sample.latents.shape[1] for sample in samples], self.options.list_side)
        padded = None if mask is None else LatentShape(*mask.shape[1:])
        latents = _joined([sample.latents for sample in samples], padded)
        conditions = [sample.condition for sample in samples if sample.condition is not None]
        moves = self._moves(batch, latents.shape[2], step) if in_training else None
        kept = self._kept(batch, step) if in_training else None
        clean = {} if moves is None else {"moves": moves}
        return DiffusionBatch(
            latents=latents,
            noise=_joined([sample.noise for sample in samples], padded),
            given=replace(self._given(batch), latent_mask=mask, frame_mask=moves, kept=kept),
            condition=_joined(conditions, padded) if conditions else None,
            counts_alike=self.options.counts_alike,
            padding_counts=self.options.padding_counts,
            **self.objective.draw(self.seed, batch.samples, step, batch.sizes, **clean)._asdict(),
        )

    def _given(self, batch: ClipBatch) -> Given:
        of_each = [facts_for(self.reads, size, fps) for size, fps in zip(batch.sizes, batch.fps, strict=True)]
        return Given(
            **self._described(batch),
            is_null=np.array(batch.is_null) if any(batch.is_null) else None,
            **{name: np.concatenate([facts[name] for facts in of_each]) for name in next(iter(of_each), {})},
        )

    def _moves(self, batch: ClipBatch, num_frames: int, step: int) -> np.ndarray | None:
        """Which latent frames are denoised, (B, T) booleans; None: all."""
        masks = self.options.frame_masks
        if masks is None:
            return None
        drawn = []
        for number in batch.samples:
            stream = random.stream(self.seed, "frame mask", number, step)
            drawn.append(masks.draw(num_frames, Random(int(stream.integers(2**63))), stream.random))
        moves = np.stack(drawn)
        return None if moves.all() else moves

    def _kept(self, batch: ClipBatch, step: int) -> np.ndarray | None:
        """What parts of blocks are multiplied by, as Given.kept; their mean is 1."""
        shares = 1.0 - np.array(self.options.drop_rates)[:, None]
        if (shares == 1).all():
            return None
        size = len(shares), 2
        draws = [random.stream(self.seed, "drop path", number, step).random(size) for number in batch.samples]
        is_kept = np.stack(draws) < shares
        return np.divide(1.0, shares, out=np.zeros(is_kept.shape), where=is_kept).astype(np.float32)

    def _described(self, batch: ClipBatch) -> dict[str, np.ndarray]:
        """Texts or labels, by their names in Given."""
        if self.texts is None:
            return {"label": np.array(batch.labels)}
        return given_of(self._texts(self.texts, batch))

    def _texts(self, texts: CaptionEncoder, batch: ClipBatch) -> list[np.ndarray]:
        """States (L, D) of each caption."""
        encoded = iter(texts.states(_without_states(batch)))
        given = batch.text or (None,) * len(batch.captions)
        return [next(encoded) if states is None else states for states in given]

    def _sample(self, batch: ClipBatch, row: int, step: int) -> _Sample:
        number = batch.samples[row]
        clip = None if batch.pixels is None else self._unpadded(batch, row, batch.pixels[row])
        latents = self._latents(batch, row, clip, step)
        condition = None
        if "channels" in self.reads and clip is not None and batch.frame_mask is not None:
            condition = self._condition(clip, batch.frame_mask[row, : clip.shape[1]], number, step)
        return _Sample(latents, self._noise(latents.shape, number, step), condition)

    def _latents(self, batch: ClipBatch, row: int, clip: np.ndarray | None, step: int) -> np.ndarray:
        """Drawn from all posteriors; where moments are given, from the last one, as only they are kept."""
        number = batch.samples[row]
        if batch.latents is not None:
            return _cut(batch.latents[row], _valid(batch, row))
        if batch.moments is None:
            assert clip is not None, "a batch holds pixels or moments"
            return self._encoded(clip, number, step, "posterior")
        moments = _cut(batch.moments[row], _valid(batch, row))
        spec = self.clips.spec
        posterior = random.normal((spec.latent_channels, *moments.shape[1:]), self.seed, "posterior", number, step)
        drawn = dict.fromkeys(spec.posteriors[-1:], posterior[None])
        return scale_latents(spec, latents_of(spec, moments[None], drawn))[0].astype(np.float32)

    def _encoded(self, clip: np.ndarray, number: int, step: int, purpose: str) -> np.ndarray:
        """Scaled latents (C, t, h, w) of pixels (3, T, H, W)."""
        encoder, draw = self.clips, partial(random.normal, sample=number, step=step)
        noise = posterior_noise(encoder.spec, VideoShape(*clip.shape[1:]), self.seed, draw, purpose)
        drawn = {name: values[None] for name, values in noise.items()}
        return encode_latents(encoder.backend, encoder.model(), encoder.spec, clip[None], drawn, encoder.chunk)[0]

    def _noise(self, shape: tuple[int, ...], number: int, step: int) -> np.ndarray:
        noise = random.normal(shape, self.seed, "noise", number, step)
        if self.options.noise_offset:
            offset = random.normal((shape[0], 1, 1, 1), self.seed, "noise offset", number, step)
            noise = noise + np.float32(self.options.noise_offset) * offset
        return noise

    def _condition(self, clip: np.ndarray, frame_mask: np.ndarray, number: int, step: int) -> np.ndarray:
        pixel_noise = None
        if self.options.condition_noise:
            draw = random.stream(self.seed, "condition noise", number, step)
            has_noise = draw.random() < CONDITION_NOISE_SHARE
            strength = np.exp(CONDITION_NOISE_LOG_MEAN + CONDITION_NOISE_LOG_SPREAD * draw.standard_normal())
            if has_noise:
                pixel_noise = np.float32(strength) * draw.standard_normal(clip.shape, dtype=np.float32)

        def encode(visible: np.ndarray) -> np.ndarray:
            return self._encoded(visible, number, step, "condition posterior")

        return Channels(self.clips.spec.compression).encoded(clip, frame_mask, encode, pixel_noise)

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


def _mask_of(lengths: Sequence[int], side: int) -> np.ndarray | None:
    """Of lists of patches, (B, S, side, side), 1 where they are no padding; None: all are as long."""
    if len({*lengths}) == 1:
        return None
    valid = np.arange(max(lengths)) < np.array(lengths)[:, None]
    return np.broadcast_to(valid[:, :, None, None], (*valid.shape, side, side)).astype(np.float32)


def _joined(arrays: Sequence[np.ndarray], shape: tuple[int, int, int] | None) -> np.ndarray:
    """Arrays (C, t, h, w) as one, with zeros behind those that are smaller than the shape."""
    if shape is None:
        return np.stack(arrays)
    joined = np.zeros((len(arrays), len(arrays[0]), *shape), np.float32)
    for row, array in zip(joined, arrays, strict=True):
        _cut(row, LatentShape(*array.shape[1:]))[...] = array
    return joined
