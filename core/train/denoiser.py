"""What training a denoiser is, between clips and the optimiser: core.train.loop.Task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..data.batch import ClipBatch
from ..io.images import write_image
from ..io.video import write_video
from ..io.weights import Shard
from ..maths.pixels import to_uint8
from ..models.kinds import DenoiserSpec
from ..pipelines.denoise import Guidance
from ..pipelines.settings import make_sampler
from ..pipelines.text_to_video import TextToVideo, VideoRequest
from ..seam.ranks import Ranks
from ..seam.training import DiffusionBatch, Saved, TrainStep
from ..shapes import LatentShape, VideoShape
from .feeding import Feeding
from .held_out import HeldOut
from .inputs import DiffusionInputs
from .model_folders import write_models


@dataclass(frozen=True)
class Showing:
    """The videos that are sampled while training."""

    pipeline: TextToVideo
    prompts: tuple[str, ...]
    settings: Any
    """A core.config.training.ShowSettings."""
    seed: int


class DenoiserTask:
    """A denoiser with its frozen companions."""

    def __init__(
        self,
        spec: DenoiserSpec,
        trainer: TrainStep[DiffusionBatch],
        inputs: DiffusionInputs | None,
        held_out: HeldOut | None = None,
        showing: Showing | None = None,
        ranks: Ranks | None = None,
    ) -> None:
        """inputs: nothing for a rank that leads no team. ranks: that train together."""
        self.spec, self.trainer, self.inputs, self.held_out, self.showing = spec, trainer, inputs, held_out, showing
        self.ranks = ranks or Ranks()
        self._feeding = Feeding(self.ranks, self)

    def prepare(self, clips: Sequence[ClipBatch]) -> None:
        """Have at hand what machines make once for all their ranks."""
        assert self.inputs is not None
        self.inputs.prepare(clips)

    def make(self, clips: ClipBatch, step: int) -> DiffusionBatch:
        """The trainer's batch."""
        assert self.inputs is not None
        return self.inputs.make(clips, step)

    def learns(self, step: int) -> str:
        """What an optimiser step updates."""
        return "model"

    def work(self, batch: DiffusionBatch) -> int:
        """Tokens of a batch."""
        return len(batch.latents) * self.spec.grid(LatentShape(*batch.latents.shape[2:])).num_tokens

    def validate(self) -> Mapping[str, float]:
        """Mean loss over all latents of held-out clips, of the weights and of their average; noise and timesteps are
        always the same."""
        if self.held_out is None:
            return {}
        batches = self._feeding.feed(self.held_out.clips, 0).batches
        measures = {"loss": self._loss(self.held_out, batches, use_ema=False)}
        if self.trainer.keeps_ema:
            measures["loss_ema"] = self._loss(self.held_out, batches, use_ema=True)
        return measures

    def show(self, folder: Path, step: int) -> None:
        """Write a video of each prompt as <folder>/step-<step>_<number>.mp4; all ranks make it together."""
        if self.showing is None:
            return
        pipeline, settings = self.showing.pipeline, self.showing.settings
        video = VideoShape(settings.video.frames, settings.video.height, settings.video.width)
        negative = ""
        texts = pipeline.encode([*self.showing.prompts, negative])
        guidance = Guidance(settings.sampler.guidance, settings.sampler.guidance_rescale)
        requests = [VideoRequest(prompt, negative, self.showing.seed) for prompt in self.showing.prompts]
        with self.trainer.inference_model(use_ema=self.trainer.keeps_ema) as model:
            pipeline.use("denoiser", model)
            latents = pipeline.denoise(requests, texts, video, lambda: make_sampler(settings.sampler, video), guidance)
        pipeline.release("denoiser")
        clips = [
            [frame for chunk in pipeline.decode(latent[None]) for frame in to_uint8(chunk)[0]] for latent in latents
        ]
        if not self.ranks.is_first:
            return
        for number, frames in enumerate(clips):
            name = f"step-{step}_{number}"
            if video.frames == 1:
                write_image(folder / f"{name}.png", frames[0], overwrite=True)
            else:
                write_video(folder / f"{name}.mp4", frames, settings.video.fps, overwrite=True)

    def write_models(self, saved: Saved, folder: Path, shard: Shard) -> None:
        """Write a rank's part of `model` and `model_ema`, in the hub's form."""
        write_models(folder, self.spec.to_config(), saved, self.trainer.keeps_ema, shard)

    def _loss(self, held_out: HeldOut, batches: Sequence[DiffusionBatch], use_ema: bool) -> float:
        losses, sizes = held_out.of_all(
            [(self.trainer.evaluate(batch, use_ema), batch.num_valid) for batch in batches]
        ).T
        return float(np.mean(losses * (sizes / sizes.mean())))
