"""What training an autoencoder is, between clips and the optimiser: core.train.loop.Task.

Source: train_causalvae.py of Open-Sora Plan v1.3.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from functools import partial
from math import prod
from pathlib import Path

import numpy as np

from .. import random
from ..config.training import AutoencoderSettings
from ..data.batch import ClipBatch
from ..errors import ConfigError
from ..io.images import write_image
from ..io.video import write_video
from ..io.weights import Shard
from ..maths import codebook
from ..maths.metrics import psnr
from ..maths.pixels import to_uint8
from ..models.finding import Part
from ..models.kinds import AutoencoderSpec
from ..parallel.agreement import agreed
from ..pipelines.autoencode import decode_chunks, encode_chunks, latents_of, posterior_noise
from ..printable import short_name
from ..seam.backend import Backend
from ..seam.models import Autoencoder
from ..seam.ranks import Ranks
from ..seam.training import AutoencoderBatch, AutoencoderLosses, Saved, TrainStep
from ..shapes import VideoShape, takes
from .held_out import HeldOut
from .model_folders import write_models
from .start import leaves_some

SHOWN_FPS = 8.0
GENERATOR, DISCRIMINATOR = "generator", "discriminator"


def losses_of(settings: AutoencoderSettings) -> AutoencoderLosses:
    """What the backend is told of the settings."""
    return AutoencoderLosses(**{field.name: getattr(settings, field.name) for field in fields(AutoencoderLosses)})


def check_losses(settings: AutoencoderSettings, spec: AutoencoderSpec) -> None:
    """Raises: ConfigError for a loss that the autoencoder does not have, or that has nothing to work on."""
    for name in settings.pair_weights.keys() - spec.pairs.keys():
        raise ConfigError(
            f"autoencoder.pair_weights.{short_name(name)}: this autoencoder has no such pair; it has "
            f"{', '.join(spec.pairs)}"
        )
    if settings.pixel_weight:
        return
    for name in ("discriminator_factor", "perceptual_weight"):
        if weight := getattr(settings, name):
            raise ConfigError(f"autoencoder.{name} = {weight:g}: with pixel_weight = 0 no pixels are made; set it to 0")
    if not any(settings.pair_weights.values()):
        raise ConfigError("autoencoder.pixel_weight = 0: needs a pair in pair_weights, or nothing is learned")


def check_reached(settings: AutoencoderSettings, part: Part, frozen: tuple[str, ...]) -> None:
    """Raises: ConfigError when no loss reaches a weight that is trained, or when one needs a weight that is not."""
    spec = part.spec
    pairs = frozenset(name for name, weight in settings.pair_weights.items() if weight)
    if not leaves_some(part.layout, (*frozen, *spec.unreached(bool(settings.pixel_weight), pairs))):
        raise ConfigError("start.frozen: the losses of autoencoder reach none of the weights that it leaves to train")
    if settings.discriminator_factor and spec.last_layer.startswith(frozen):
        raise ConfigError(f"start.frozen: the adversarial loss is weighed at {spec.last_layer}; train it as well")


class AutoencoderTask:
    """An autoencoder, and the discriminator that it is trained against."""

    def __init__(
        self,
        spec: AutoencoderSpec,
        trainer: TrainStep[AutoencoderBatch],
        backend: Backend,
        settings: AutoencoderSettings,
        seed: int,
        held_out: HeldOut | None = None,
        ranks: Ranks | None = None,
    ) -> None:
        """ranks: that train together, each on clips of its own."""
        self.spec, self.trainer, self.backend, self.settings = spec, trainer, backend, settings
        self.seed, self.held_out, self.ranks = seed, held_out, ranks or Ranks()

    def prepare(self, clips: Sequence[ClipBatch]) -> None:
        """Nothing is made once for all ranks of a machine."""

    def make(self, clips: ClipBatch, step: int) -> AutoencoderBatch:
        """The trainer's batch."""
        assert clips.pixels is not None, "an autoencoder is trained on pixels"
        pixels = clips.pixels[:, :, : self.length(clips.pixels.shape[2], step)]
        video = VideoShape(*pixels.shape[2:])
        noise = [
            posterior_noise(self.spec, video, self.seed, partial(random.normal, sample=number, step=step))
            for number in clips.samples
        ]
        return AutoencoderBatch(
            video=pixels,
            noise={name: np.stack([each[name] for each in noise]) for name in self.spec.posteriors},
            update=self.learns(step),
            adversarial=self._is_adversarial(step),
            restarts=self._restarts(len(pixels), video, clips.samples[0], step),
        )

    def _restarts(self, batch: int, video: VideoShape, sample: int, step: int) -> tuple[codebook.Restarts, ...]:
        """What codes are made of where a code book begins and where codes start again."""
        spec = self.spec
        if spec.num_codes is None:
            return ()
        count = batch * prod(spec.compression.latent(video))
        streams = (random.stream(self.seed, purpose, sample, step) for purpose in ("code book", "restarts"))
        return tuple(codebook.draw(count, spec.num_codes, spec.latent_channels, stream) for stream in streams)

    def length(self, frames: int, step: int) -> int:
        """How many frames of its clips a step sees: of all of them, on all ranks, equally many."""
        draw = random.stream(self.seed, "clip length", step=step)
        if draw.random() < self.settings.image_share:
            return 1
        if not self.settings.random_length:
            return frames
        lengths = [length for length in range(1, frames + 1) if takes(self.spec.compression, length)]
        return lengths[int(draw.integers(len(lengths)))]

    def learns(self, step: int) -> str:
        """The generator, or from the start of the discriminator on in every other step the discriminator."""
        return DISCRIMINATOR if step % 2 and self._is_adversarial(step) else GENERATOR

    def work(self, batch: AutoencoderBatch) -> int:
        """Latents of a batch: positions in time and space."""
        return len(batch.video) * prod(self.spec.compression.latent(VideoShape(*batch.video.shape[2:])))

    def validate(self) -> Mapping[str, float]:
        """PSNR in dB of held-out clips through the mean of their latents, of the weights and of their average."""
        if self.held_out is None:
            return {}
        held_out = self.held_out
        clips = agreed(self.ranks.world, lambda: list(_pixels(held_out)))
        measures = {"psnr": self._psnr(held_out, clips, use_ema=False)}
        if self.trainer.keeps_ema:
            measures["psnr_ema"] = self._psnr(held_out, clips, use_ema=True)
        return measures

    def show(self, folder: Path, step: int) -> None:
        """Write the first held-out clips, each beside its reconstruction, as <folder>/step-<step>_<number>.mp4; the
        first rank, who has them, does it for all."""
        if self.held_out is None or not self.ranks.is_first:
            return
        first = next(_pixels(self.held_out))
        with self.trainer.inference_model(use_ema=self.trainer.keeps_ema) as model:
            pairs = np.concatenate([to_uint8(first), to_uint8(self._through(model, first))], axis=3)
        for number, frames in enumerate(pairs):
            if len(frames) == 1:
                write_image(folder / f"step-{step}_{number}.png", frames[0], overwrite=True)
            else:
                write_video(folder / f"step-{step}_{number}.mp4", frames, SHOWN_FPS, overwrite=True)

    def write_models(self, saved: Saved, folder: Path, shard: Shard) -> None:
        """Write a rank's part of `model` and `model_ema`, in the hub's form."""
        write_models(folder, self.spec.to_config(), saved, self.trainer.keeps_ema, shard)

    def _is_adversarial(self, step: int) -> bool:
        settings = self.settings
        return settings.discriminator_factor > 0 and step >= settings.discriminator_start

    def _psnr(self, held_out: HeldOut, clips: list[np.ndarray], use_ema: bool) -> float:
        with self.trainer.inference_model(use_ema) as model:
            values = [
                psnr(np.concatenate(to_uint8(self._through(model, video))), np.concatenate(to_uint8(video)))
                for video in clips
            ]
        total, frames = held_out.of_all([(each.sum(), len(each)) for each in values]).sum(0)
        return float(total / frames)

    def _through(self, model: Autoencoder, video: np.ndarray) -> np.ndarray:
        mean = latents_of(self.spec, encode_chunks(self.backend, model, self.spec, video))
        frames = decode_chunks(self.backend, model, self.spec, mean, num_frames=video.shape[2])
        return np.concatenate(list(frames), axis=2)


def _pixels(held_out: HeldOut) -> Iterator[np.ndarray]:
    for clips in held_out.clips():
        assert clips.pixels is not None
        yield clips.pixels
