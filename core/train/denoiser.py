"""What training a denoiser is, between clips and the optimiser: core.train.loop.Task."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..data.batch import ClipBatch
from ..io.images import write_image
from ..io.video import write_video
from ..io.weights import Shard
from ..maths.pixels import to_uint8
from ..models.kinds import DenoiserSpec
from ..pipelines.settings import guidance_of, make_sampler
from ..pipelines.text_to_video import TextToVideo, VideoRequest
from ..seam.ranks import Ranks
from ..seam.training import DiffusionBatch, Saved, TrainStep
from ..shapes import LatentShape, VideoShape
from .feeding import Fed, Feeding
from .held_out import HeldOut
from .inputs import DiffusionInputs
from .model_folders import Adapting, write_adapters, write_models
from .objectives import DrawsNoise


@dataclass(frozen=True)
class Showing:
    """The videos that are sampled while training."""

    pipeline: TextToVideo
    prompts: tuple[str, ...]
    settings: Any
    """A core.config.training.ShowSettings."""
    seed: int
    negative: str | None = ""
    """The text that guidance leads away from; None: the model's learned null caption."""


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
        fixed: FixedTimes | None = None,
        adapting: Adapting | None = None,
    ) -> None:
        """inputs: nothing for a rank that leads no team. ranks: that train together. fixed: the timesteps that held-out
        clips are measured at; None: drawn as in training. adapting: what of LoRA is trained, not the whole model."""
        self.spec, self.trainer, self.inputs, self.held_out, self.showing = spec, trainer, inputs, held_out, showing
        self.ranks, self.fixed, self.adapting = ranks or Ranks(), fixed, adapting

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
        """Mean loss of held-out clips, of the weights and of their average; noise and timesteps are always the same.

        The mean is that of a training step. With fixed timesteps every clip counts alike, at all of them, and there is
        a loss for each size too.
        """
        if self.held_out is None:
            return {}
        fed = Feeding(self.ranks, _HeldOutBatches(self)).feed(self.held_out.clips, 0)
        measures = self._losses("loss", self.held_out, fed, use_ema=False)
        if self.trainer.keeps_ema:
            measures |= self._losses("loss_ema", self.held_out, fed, use_ema=True)
        return measures

    def show(self, folder: Path, step: int) -> None:
        """Write a video of each prompt as <folder>/step-<step>_<number>.mp4; all ranks make it together."""
        if self.showing is None:
            return
        pipeline, settings = self.showing.pipeline, self.showing.settings
        video = VideoShape(settings.video.frames, settings.video.height, settings.video.width)
        negative, fps = self.showing.negative, settings.video.fps
        texts = pipeline.encode([*self.showing.prompts, negative or ""])
        guidance = guidance_of(settings.sampler)
        requests = [VideoRequest(prompt, negative, self.showing.seed, fps=fps) for prompt in self.showing.prompts]
        with self.trainer.inference_model(use_ema=self.trainer.keeps_ema) as model:
            pipeline.use("denoiser", model)
            latents = pipeline.denoise(requests, texts, video, lambda: make_sampler(settings.sampler, video), guidance)
        pipeline.release("denoiser")
        decoded = [pipeline.decode(latent[None], video.frames) for latent in latents]
        clips = [[frame for chunk in chunks for frame in to_uint8(chunk)[0]] for chunks in decoded]
        if not self.ranks.is_first:
            return
        for number, frames in enumerate(clips):
            name = f"step-{step}_{number}"
            if video.frames == 1:
                write_image(folder / f"{name}.png", frames[0], overwrite=True)
            else:
                write_video(folder / f"{name}.mp4", frames, settings.video.file_rate, overwrite=True)

    def write_models(self, saved: Saved, folder: Path, shard: Shard) -> None:
        """Write a rank's part of `model` and `model_ema`, in the hub's form."""
        if self.adapting is not None:
            write_adapters(folder, self.adapting, saved, self.trainer.keeps_ema, shard)
            return
        write_models(folder, self.spec.to_config(), saved, self.trainer.keeps_ema, shard)

    def _losses(self, name: str, held_out: HeldOut, fed: Fed, use_ema: bool) -> dict[str, float]:
        """By their names in the log."""
        if self.fixed is None:
            own = [(self.trainer.evaluate(batch, use_ema), batch.size) for batch in fed.batches]
            losses, counts = held_out.of_all(own).T
            return {name: _mean(losses, counts)}
        own = [(self._loss_over(self.fixed, batch, use_ema), len(batch.latents)) for batch in fed.batches]
        losses, counts = held_out.of_all(own).T
        sizes = np.array([facts.size for facts in fed.facts[: len(losses)]])
        of_sizes = {f"{name} {size}": _mean(losses[sizes == size], counts[sizes == size]) for size in sorted({*sizes})}
        return {name: _mean(losses, counts), **of_sizes}

    def _loss_over(self, fixed: FixedTimes, batch: DiffusionBatch, use_ema: bool) -> float:
        """Mean over the fixed timesteps."""
        return float(np.mean([self.trainer.evaluate(each, use_ema) for each in fixed.of(batch)]))


class FixedTimes:
    """The timesteps that held-out clips are measured at: so many, spread evenly between the ends.

    Source: scripts/eval_loss.py of hpcaitech Open-Sora at v1.2.0.
    """

    def __init__(self, objective: DrawsNoise, count: int) -> None:
        self.objective, self.shares = objective, np.linspace(0, 1, count + 2)[1:-1]

    def of(self, batch: DiffusionBatch) -> Iterator[DiffusionBatch]:
        """The same batch at each of them."""
        for share in self.shares:
            draws = self.objective.at_shares(np.full(len(batch.latents), share))
            yield replace(batch, **draws._asdict())


@dataclass(frozen=True)
class _HeldOutBatches:
    """Makes the batches that a denoiser is measured on."""

    task: DenoiserTask

    def prepare(self, clips: Sequence[ClipBatch]) -> None:
        self.task.prepare(clips)

    def make(self, clips: ClipBatch, step: int) -> DiffusionBatch:
        assert self.task.inputs is not None
        return self.task.inputs.make(clips, step, in_training=False)

    def work(self, batch: DiffusionBatch) -> int:
        return self.task.work(batch)


def _mean(values: np.ndarray, weights: np.ndarray) -> float:
    return float(np.mean(values * (weights / weights.mean())))
